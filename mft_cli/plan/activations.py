"""What a forward pass keeps for backward, and the working memory around it, for Llama-like models.

The terms were read off what autograd saves for a block (tests/plan/test_plan.py compares them byte for byte with
saved-tensor hooks on a real one). Letters: M positions in a micro-batch, L layers, D width, A width of all query heads,
K width of all key heads, I width of the feed-forward layer, H query heads, V vocabulary, b bytes of a number in the
compute precision.
"""

from __future__ import annotations

from dataclasses import dataclass

from mft_cli.models.kernels.cross_entropy import BLOCK_ELEMENTS
from mft_cli.models.kernels.short_attention import LIMIT
from mft_cli.plan.shape import Shape
from mft_cli.plan.trained import Trained


@dataclass(frozen=True)
class Item:
    """A number of bytes and the arithmetic that it comes from."""

    name: str
    formula: str
    bytes: float


@dataclass(frozen=True)
class Micro:
    """One forward pass of one rank."""

    positions: int  # M
    labels: int  # positions whose logits are made, at most M
    chunk: int  # of those, how many at a time
    document: float  # length of the document that a position stands in, on average
    compute: int  # b
    fast: bool
    cpu: bool
    dropout: bool = False
    extra: int | None = None  # products with the head in a pass before the training's own; None: there is no such

    @property
    def block(self) -> int:
        """Logits that the softmax works on at a time."""
        return BLOCK_ELEMENTS["cpu" if self.cpu else "cuda"]

    @property
    def short(self) -> bool:
        """Whether documents go through mft_cli.models.kernels.short_attention, which keeps its probabilities."""
        return self.cpu and self.document <= LIMIT


def layer_terms(s: Shape, m: Micro) -> list[tuple[str, float]]:
    """(arithmetic, bytes of one position in one layer)."""
    b = m.compute
    norms = (
        (f"2 norms x ({b}D + 4)", 2 * (b * s.width + 4))
        if m.fast
        else (f"2 norms x ({4 + b}D + 4)", 2 * ((4 + b) * s.width + 4))
    )
    inputs = (f"inputs of q,k,v, of the feed-forward layer and of o: {b}(2D + A)", b * (2 * s.width + s.queries))
    heads = (f"q, k, v: {b}(A + 2K)", b * (s.queries + 2 * s.keys))
    if m.short:
        attention = (f"probabilities: {b} x H x {m.document:.0f}", b * s.heads * m.document)
    else:
        attention = (f"attention's output and its log-sums: {b}A + 4H", b * s.queries + 4 * s.heads)
    inner = (3 if m.fast else 4) if s.gated else 2
    return [norms, inputs, heads, attention, (f"feed-forward: {inner} x {b}I", inner * b * s.inner)]


def layer_bytes(s: Shape, m: Micro, trained: Trained) -> float:
    """Kept for backward by one layer without gradient checkpointing, adapters' and masks' parts included."""
    plain = m.positions * sum(value for _, value in layer_terms(s, m))
    return plain + (adapter_bytes(m, trained) + m.compute * trained.scores) / s.layers


def adapter_bytes(m: Micro, trained: Trained) -> float:
    """Of all layers: the rank-wide product of every adapter; with dropout its input and mask as well."""
    ranks = m.compute * trained.rank * len(trained.adapted)
    dropped = (m.compute + 1) * sum(x.columns for x in trained.adapted) if m.dropout else 0
    return m.positions * (ranks + dropped)


def around_layers(s: Shape, m: Micro) -> float:
    """Rotary tables, the last norm, the hidden states, those at labels and their gradient."""
    last = m.compute * s.width + 4 if m.fast else (4 + m.compute) * s.width + 4
    per_position = 2 * m.compute * s.head_dim + last + m.compute * s.width
    return m.positions * per_position + 2 * m.labels * m.compute * s.width


def kept(s: Shape, m: Micro, trained: Trained, checkpointing: bool) -> Item:
    """All activations that are alive when the forward pass ends."""
    of_layer = m.positions * m.compute * s.width if checkpointing else layer_bytes(s, m, trained)
    letters = f"{m.compute}D = " if checkpointing else ""
    return Item(
        "activations", f"L {s.layers} x {letters}{of_layer / m.positions:,.0f} B x M {m.positions:,}", s.layers * of_layer
    )  # fmt: skip


def head_forward(s: Shape, m: Micro, trained: Trained) -> float:
    """Most that the fused head and loss hold at once: logits of a chunk, or two while the next replaces the last;
    the head's gradient in fp32, and the product that is being added to it."""
    chunks = -(-m.labels // m.chunk)
    logits = m.compute * min(m.chunk, m.labels) * s.vocabulary
    block = 4 * min(m.block, m.labels * s.vocabulary) if m.compute < 4 else 0
    if not trained.trains_head:
        return logits * min(chunks, 2) + block
    gradient = 4 * s.head
    product = m.compute * s.head if m.compute < 4 or chunks > 1 else 0
    adding = logits + gradient + product
    replacing = 2 * logits + gradient if chunks > 1 else 0
    return max(adding, replacing) + block


def head_backward(s: Shape, m: Micro, trained: Trained) -> float:
    """The head's fp32 gradient is scaled into the compute precision; a CPU makes a temporary fp32 product for that."""
    hidden = m.compute * m.labels * s.width
    if not trained.trains_head:
        return hidden
    temporary = 4 * s.head if m.cpu and m.compute < 4 else 0
    return hidden + (4 + m.compute) * s.head + temporary


def last_backward(s: Shape, m: Micro, trained: Trained, checkpointing: bool) -> float:
    """Working memory of the first layer that goes backward: the recomputed layer with checkpointing, four tensors of
    the feed-forward width, the gradients of the stream, one weight gradient, and the head's while it waits for the
    embedding's (tied)."""
    recomputed = layer_bytes(s, m, trained) if checkpointing else 0.0
    passing = m.positions * m.compute * (4 * s.inner + 2 * s.width)
    weight = m.compute * max((x.weights for x in s.linears), default=0) if trained.trains_head else 0
    waiting = m.compute * s.head if trained.trains_head and s.tied else 0
    return recomputed + passing + weight + waiting


def end_of_backward(s: Shape, m: Micro, trained: Trained) -> float:
    """The embedding's gradient is as large as the embedding; tied, the head's lies next to it. Activations are gone."""
    return (2 if s.tied else 1) * m.compute * s.head if trained.trains_head else 0.0


def working(s: Shape, m: Micro, trained: Trained, checkpointing: bool) -> list[Item]:
    """Activations, and what else is alive at the same moment when most is: end of forward, or start or end of
    backward. Where nothing trains: of a validation's forward pass."""
    if not trained.trained:
        return forward_only(s, m, trained)
    layers = kept(s, m, trained, checkpointing)
    around = Item(
        "around the layers", "last norm, hidden states and their gradient, rotary tables", around_layers(s, m)
    )
    forward = Item("logits and loss", head_formula(s, m, trained), head_forward(s, m, trained))
    scaling = Item("head's gradient", scaling_formula(m), head_backward(s, m, trained))
    backward = Item(
        "backward of a layer", "its passing gradients" + (" and recomputed activations" if checkpointing else ""),
        last_backward(s, m, trained, checkpointing),
    )  # fmt: skip
    end = Item("embedding's gradient", f"{m.compute} x V x D", end_of_backward(s, m, trained))
    most = max((forward, scaling, backward), key=lambda item: item.bytes)
    return max(([layers, around, most], [end], extra_pass(s, m)), key=lambda items: sum(i.bytes for i in items))


def extra_pass(s: Shape, m: Micro) -> list[Item]:
    """A method's pass before the training's own: nothing is kept for backward. Its logits are made in small blocks;
    a second product with them, the mean embedding under a prediction, reads a copy of the whole table."""
    if m.extra is None:
        return []
    layer = m.positions * sum(value for _, value in layer_terms(s, m))
    items = [Item("extra pass", f"one layer, M {m.positions:,}", layer)]
    if m.extra:
        blocks = Item("extra pass's blocks of logits", f"4 x 4 B x {m.block:,}", 16 * m.block)
        items.append(blocks)
    if m.extra > 1:
        items.append(Item("embedding table", f"{m.compute} B x V x D", m.compute * s.head))
    return items


def forward_only(s: Shape, m: Micro, trained: Trained) -> list[Item]:
    """Nothing is kept for backward: one layer's activations, W * M of the masked layers, and the logits."""
    product = m.compute * trained.scores
    layer = m.positions * sum(value for _, value in layer_terms(s, m))
    return [
        Item("W * M", f"{m.compute} B x {trained.scores:,} masked weights", product),
        Item("activations", f"one layer, M {m.positions:,}", layer),
        Item("logits and loss", head_formula(s, m, trained), head_forward(s, m, trained)),
    ]


def head_formula(s: Shape, m: Micro, trained: Trained) -> str:
    chunk = min(m.chunk, m.labels)
    text = f"{chunk:,} x V {s.vocabulary:,} x {m.compute} B of logits"
    return text + (f" + V x D x ({m.compute} + 4) B of the head's gradient" if trained.trains_head else "")


def scaling_formula(m: Micro) -> str:
    temporary = " + 4 B of the product" if m.cpu and m.compute < 4 else ""
    return f"V x D x (4 B saved + {m.compute} B scaled{temporary})"
