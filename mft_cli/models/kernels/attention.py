"""Block-diagonal causal attention for packed rows, as attention implementations of transformers.

A row holds documents back to back. The model's forward pass gets their lengths as one extra keyword argument
(`packed_kwargs`), which transformers hands down to the attention function of every layer, also when activation
checkpointing runs a layer again. No mask function is registered for these names, so transformers builds no [T, T] mask;
it also means that an `attention_mask` given to the model would be dropped in silence: packed rows take none.

Two implementations are here: `packed_attention` calls one kernel per document, `flex_packed_attention` is torch's
flex_attention with a block mask. varlen.py has those of GPUs, backends.py their names and what `auto` chooses.
Queries are [R, H, T, D], keys and values [R, K, T, D] with K dividing H; outputs [R, T, H, D].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from mft_cli.models.kernels.short_attention import LIMIT, short_attention

ARGUMENT = "packed_rows"
# Arguments with which an architecture asks for attention that is not computed here (s_aux by sdpa alone); None and False are harmless.
UNSUPPORTED = ("s_aux", "position_bias", "cache", "head_mask", "output_attentions")


class PackedRows:
    """The documents of the rows of one forward pass, and what is derived from them once for all layers.

    `lengths[r]` are the lengths of row r's documents; each row's sum to T, so padding is a document of its own.
    `hidden_keys`, bool [R, T]: positions that no other position may attend to (each still sees itself).
    """

    def __init__(self, lengths: list[list[int]], hidden_keys: Tensor | None = None):
        self.lengths = lengths
        self.flat = [n for row in lengths for n in row]
        self.hidden_keys = hidden_keys
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}
        self._block_masks: dict[int | None, BlockMask] = {}
        self._boundaries: Tensor | None = None
        if len({sum(row) for row in lengths}) > 1 or (self.flat and min(self.flat) < 1):
            raise ValueError(f"the document lengths of every row must be positive and sum to the same width: {lengths}")

    @cached_property
    def hidden_documents(self) -> list[Tensor | None]:
        """Per document its part of hidden_keys, None where nothing is hidden."""
        if self.hidden_keys is None:
            return [None] * len(self.flat)
        parts = self.hidden_keys.flatten().split(self.flat)
        # a GPU would be waited for
        return [part if self.hidden_keys.is_cuda or bool(part.any()) else None for part in parts]

    def mask(self, document: int, window: int | None) -> Tensor | None:
        """Who may see whom in a document, bool [t, t]; None is plain causal."""
        key = document, window
        if key not in self._masks:
            t, hidden = self.flat[document], self.hidden_documents[document]
            plain = hidden is None and (window is None or window >= t)
            self._masks[key] = None if plain else may_attend(t, window, hidden, self._device(hidden))
        return self._masks[key]

    def _device(self, hidden: Tensor | None) -> torch.device:
        return hidden.device if hidden is not None else self.device

    device = torch.device("cpu")  # set by the attention function; masks without hidden keys are made there

    def block_mask(self, window: int | None, device: torch.device) -> BlockMask:
        """The same over whole rows, as a BlockMask of flex_attention."""
        if window not in self._block_masks:
            self._block_masks[window] = make_block_mask(self, window, device)
        return self._block_masks[window]

    def boundaries(self, device: torch.device) -> Tensor:
        """int32 [documents + 1]: where documents start in the rows laid end to end, and the end. Made once for all layers."""
        if self._boundaries is None:
            ends = F.pad(torch.tensor(self.flat).cumsum(0), (1, 0)).to(torch.int32)
            self._boundaries = (ends.pin_memory() if device.type == "cuda" else ends).to(device, non_blocking=True)
        return self._boundaries


def may_attend(t: int, window: int | None, hidden: Tensor | None, device: torch.device) -> Tensor:
    """bool [t, t], query i in rows: causal, at most window - 1 back, and hidden keys only from themselves."""
    back = torch.arange(t, device=device)[:, None] - torch.arange(t, device=device)
    allowed = back >= 0
    if window is not None:
        allowed &= back < window
    if hidden is not None:
        allowed &= ~hidden | (back == 0)
    return allowed


def packed_kwargs(lengths: list[list[int]], hidden_keys: Tensor | None = None) -> dict[str, PackedRows]:
    """Keyword arguments for the forward pass of a model whose attention is one of this module's.

    Give `position_ids` restarted in every document too, and no attention mask. Raises ValueError on uneven rows.
    """
    return {ARGUMENT: PackedRows(lengths, hidden_keys)}


# ---- implementations --------------------------------------------------------------------------------------


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, softcap: float | None = None,
    s_aux: Tensor | None = None, **kwargs: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """One attention call per document. With softcap, and with sinks `s_aux` [H] (gpt-oss), the scores are made in full."""
    rows = checked(module, query, attention_mask, kwargs)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    # split, not slices: its backward is one cat, where every slice's would be a zero tensor of the whole row
    parts = [x.transpose(1, 2).flatten(0, 1).split(rows.flat) for x in (query, key, value)]
    rows.device = query.device
    outputs = []
    for index, (q, k, v) in enumerate(zip(*parts, strict=True)):
        mask = rows.mask(index, sliding_window)
        outputs.append(document_attention(q, k, v, mask, scale, dropout, softcap, s_aux))
    return torch.cat(outputs).view(query.shape[0], query.shape[2], query.shape[1], -1), None


def document_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout: float, softcap: float | None,
    sinks: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Causal attention of one document, q [t, H, D], k and v [t, K, D] -> [t, H, D]."""
    if softcap is not None or sinks is not None:
        return full_attention(q, k, v, mask, scale, dropout, softcap, sinks)
    if q.device.type == "cpu" and not dropout and len(q) <= LIMIT:
        return short_attention(q, k, v, mask, scale)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )
    return out[0].transpose(0, 1)


def full_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout: float, softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """The same with scores softcap * tanh(score / softcap), as in Gemma 2, and with sinks, as in gpt-oss: a score of each head
    that takes its share of the softmax and has no value. No fused kernel on CPU has either.
    """
    groups = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q.float(), keys.float()) * scale
    scores = scores if softcap is None else cap(softcap, scores)
    allowed = mask if mask is not None else may_attend(len(q), None, None, q.device)
    scores = scores.masked_fill(~allowed, -torch.inf)
    if sinks is None:
        shares = scores.softmax(-1)
    else:
        with_sinks = torch.cat([scores, sinks.float()[:, None, None].expand(-1, len(q), 1)], -1)
        shares = with_sinks.softmax(-1)[..., :-1]
    return torch.einsum("hij,jhd->ihd", F.dropout(shares, dropout).to(v.dtype), values)


def flex_packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, softcap: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """flex_attention over whole rows; compiled on CUDA; plain, slow and without backward on a CPU."""
    rows = checked(module, query, attention_mask, kwargs)
    if dropout:
        raise ValueError("flex attention has no dropout: set model.attention=sdpa, or the model's dropout to 0")
    block_mask = rows.block_mask(sliding_window, query.device)

    out = flex_function(query.device.type)(
        query, key, value, score_mod=None if softcap is None else partial(cap, softcap), block_mask=block_mask,
        scale=scaling, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out.transpose(1, 2).contiguous(), None


def cap(limit: float, score: Tensor, *_: Tensor) -> Tensor:
    return limit * torch.tanh(score / limit)


@lru_cache
def flex_function(device_type: str) -> Callable[..., Tensor]:
    compiled = torch.compile(flex_attention, dynamic=True)
    return compiled if device_type == "cuda" else flex_attention


def make_block_mask(rows: PackedRows, window: int | None, device: torch.device) -> BlockMask:
    width = sum(rows.lengths[0])
    document = torch.repeat_interleave(torch.arange(len(rows.flat)), torch.tensor(rows.flat)).view(-1, width).to(device)
    hidden = torch.zeros_like(document, dtype=torch.bool) if rows.hidden_keys is None else rows.hidden_keys.to(device)

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (q >= k) & (document[b, q] == document[b, k]) & (~hidden[b, k] | (q == k))
        return seen if window is None else seen & (q - k < window)

    return create_block_mask(allowed, len(rows.lengths), None, width, width, device=str(device))


def checked(module: nn.Module, query: Tensor, attention_mask: Tensor | None, kwargs: dict[str, object]) -> PackedRows:
    """The rows of this forward pass. Raises ValueError on anything that this module would compute wrongly."""
    rows = kwargs.get(ARGUMENT)
    if not isinstance(rows, PackedRows):
        raise ValueError(
            "packed attention was called without packed_kwargs(...): either the caller left them out, or this "
            f"architecture ({type(module).__name__}) does not hand them down to its attention"
        )
    if attention_mask is not None or not getattr(module, "is_causal", True):
        raise ValueError("packed attention is causal within documents and takes no attention mask")
    asked = [name for name in UNSUPPORTED if kwargs.get(name) is not None and kwargs[name] is not False]
    if asked:
        raise ValueError(f"{type(module).__name__} needs {asked[0]} in its attention, which packed rows do not support")
    if (len(rows.lengths), sum(rows.lengths[0])) != (query.shape[0], query.shape[2]):
        raise ValueError(f"document lengths {rows.lengths} do not fit rows of shape {(query.shape[0], query.shape[2])}")
    return rows
