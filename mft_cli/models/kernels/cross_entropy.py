"""Cross entropy over the positions that have labels, without ever holding the logits of all of them.

`summed_cross_entropy` computes chunk by chunk and forms the gradients in the same pass, while a chunk's probabilities
exist, so nothing is kept or computed again for backward (Hsu et al. 2024, Liger Kernel; Wijmans et al. 2024, Cut Your
Losses). Models whose logits are more than head(hidden), such as Gemma 2's soft cap or Granite's scale, take the model's
own way from hidden states to logits.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.utils.checkpoint import checkpoint

from mft_cli.distributed.zero import gathered, read_inside
from mft_cli.errors import UserError, first_line
from mft_cli.models.architectures import unsupported

T = TypeVar("T")
Result = tuple[Tensor, Tensor, Tensor]  # sum (differentiable scalar), loss of each position [N], argmax [N]
# fp32 logits that the softmax works on at a time: 8 MiB stay in a processor's cache; a GPU wants few and large kernels: 128 MiB
BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**25}
_plain: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_modules: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def head_losses(
    model: nn.Module, hidden: Tensor, labels: Tensor, weights: Tensor | None = None,
    *, vocab_size: int | None = None, chunk_tokens: int = 1024,
) -> Result:  # fmt: skip
    """Weighted sum of cross entropies of `labels` [N] given a causal LM's final hidden states [N, D].

    `weights` [N] are constants. `vocab_size` below the head's rows leaves the trailing rows out of the softmax.
    Sums and losses are fp32. The two other results carry no gradient.
    """
    settings = {"vocab_size": vocab_size, "chunk_tokens": chunk_tokens}
    if is_plain(model):
        head: Any = causal_lm(model).get_output_embeddings()
        result: Result = with_head(model, summed_cross_entropy, hidden, head, labels, weights, **settings)
    else:
        result = with_head(model, own_cross_entropy, model, hidden, labels, weights, **settings)
    return result


def is_plain(model: nn.Module) -> bool:
    """Whether the model's logits are head(hidden); tried out once."""
    if model not in _plain:
        _plain[model] = head_is_plain(model)
    return _plain[model]


def with_head(model: nn.Module, compute: Callable[..., T], *arguments: object, **settings: object) -> T:
    """`compute(*arguments, **settings)` with the head's parameters whole all the while, however often it reads them."""
    module = _modules.get(model)
    if module is None:
        return compute(*arguments, **settings)
    result: T = module(compute, *arguments, **settings)
    return result


def logits_below(model: nn.Module, hidden: Tensor, words: int) -> Tensor:
    """fp32 logits [N, words] of the first `words` rows of the head, for hidden states [N, D]. Call it inside `with_head`."""
    if not is_plain(model):
        return own_logits(model, hidden)[:, :words].float()
    head: Any = causal_lm(model).get_output_embeddings()
    bias = getattr(head, "bias", None)
    return F.linear(hidden, head_weight(head, words)[:words], None if bias is None else bias[:words]).float()


class HeadReader(nn.Module):
    """A function as a module. ZeRO-3 makes parameters whole for modules, and what this one runs reads the head's."""

    def forward(self, compute: Callable[..., T], *arguments: object, **settings: object) -> T:
        return compute(*arguments, **settings)


def make_head_loss(model: nn.Module) -> nn.Module:
    """The module that `with_head` runs functions of `model`'s head in from now on. All ranks have to call, before the first step."""
    head: Any = causal_lm(model).get_output_embeddings()
    with gathered(head.parameters()):
        _plain[model] = head_is_plain(model)
    _modules[model] = module = HeadReader()
    read_inside(module, head.parameters())
    return module


def summed_cross_entropy(
    hidden: Tensor, head: nn.Linear, labels: Tensor, weights: Tensor | None = None,
    *, vocab_size: int | None = None, chunk_tokens: int = 1024,
) -> Result:  # fmt: skip
    """The same for logits that are head(hidden). At most [chunk_tokens, V] logits exist, in fp32."""
    weight = head_weight(head, vocab_size)
    rows = weight.shape[0] if vocab_size is None else min(vocab_size, weight.shape[0])
    weights = None if weights is None else weights.detach()
    return _SummedCrossEntropy.apply(hidden, weight, getattr(head, "bias", None), labels, weights, rows, chunk_tokens)


def head_weight(head: Any, vocab_size: int | None) -> Tensor:
    """The head's weight [V, D]; of one whose new tokens' rows train (peft), the weight with these rows in it.

    Putting them in copies the weight: a tied head whose trained rows take no part in the softmax is spared that.
    """
    trained = getattr(head, "token_adapter", None)
    if trained is not None and trained.tied_adapter is not None and vocab_size is not None:
        first = min(i for ids in trained.token_indices.values() for i in ids)
        if vocab_size <= first:
            return head.original_module.weight
    weight: Tensor = head.weight  # peft makes it again each time that it is asked for
    return weight


def own_cross_entropy(
    model: nn.Module, hidden: Tensor, labels: Tensor, weights: Tensor | None = None,
    *, vocab_size: int | None = None, chunk_tokens: int = 1024,
) -> Result:  # fmt: skip
    """The same through the model's own logits, which backward computes again chunk by chunk.

    Under ZeRO-3 call it inside `with_head`. Without labels there is one chunk of no positions: the head's parameters have
    a gradient all the same, of zeros, as on the ranks that have labels.
    """
    losses, predicted = [], []
    for part, part_labels in zip(hidden.split(chunk_tokens), labels.split(chunk_tokens), strict=True):
        loss, best = checkpoint(_own_chunk, model, part, part_labels, vocab_size, use_reentrant=False)
        losses.append(loss)
        predicted.append(best)
    each = torch.cat(losses)
    total = (each if weights is None else each * weights.detach()).sum()
    return total, each.detach(), torch.cat(predicted)


def _own_chunk(model: nn.Module, hidden: Tensor, labels: Tensor, vocab_size: int | None) -> tuple[Tensor, Tensor]:
    logits = own_logits(model, hidden)[:, :vocab_size].float()
    return F.cross_entropy(logits, labels, reduction="none"), logits.argmax(-1)


class _Context(FunctionCtx):
    shapes: tuple[torch.Size, torch.dtype, torch.dtype | None]  # of the head's weight; dtype of its bias
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor | None, ...]


class _SummedCrossEntropy(torch.autograd.Function):
    """Gradients are made in forward for an upstream gradient of 1; backward scales them."""

    @staticmethod
    def forward(
        ctx: _Context, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, weights: Tensor | None,
        rows: int, chunk: int,
    ) -> Result:  # fmt: skip
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        needs_any = needs_hidden or needs_weight or needs_bias
        used, used_bias = weight[:rows], None if bias is None else bias[:rows]
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Without labels the gradient is of no rows, not None: DeepSpeed sums it with those of ranks that have labels.
        d_weight = hidden.new_zeros(0, hidden.shape[1]) if needs_weight and not len(labels) else None
        d_bias = torch.zeros(rows, dtype=torch.float32, device=weight.device) if needs_bias else None
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        predicted = torch.empty(len(labels), dtype=torch.int64, device=hidden.device)
        for start in range(0, len(labels), chunk):
            here = slice(start, start + chunk)
            scale = None if weights is None else weights[here]
            part = hidden[here]
            gradient = F.linear(part, used, used_bias)  # logits, until the next line turns them into their gradient
            losses[here], predicted[here] = _logits_to_gradient(gradient, labels[here], scale, needs_any)
            if d_bias is not None:
                d_bias += gradient.sum(0, dtype=torch.float32)
            if d_hidden is not None:
                torch.mm(gradient, used, out=d_hidden[here])
            if needs_weight:
                d_weight = _add_product(d_weight, gradient, part)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)  # type: ignore[arg-type]
        ctx.shapes = weight.shape, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(losses, predicted)
        total = (losses if weights is None else losses * weights).sum()
        return total, losses, predicted

    @staticmethod
    def backward(ctx: _Context, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        shape, dtype, bias_dtype = ctx.shapes
        factor = upstream[0]
        if d_hidden is not None:
            d_hidden = d_hidden * factor.to(d_hidden.dtype)
        if d_weight is not None:
            d_weight = _scaled(d_weight, factor, shape[0], dtype)
        if d_bias is not None:
            d_bias = _scaled(d_bias, factor, shape[0], bias_dtype or dtype)
        return d_hidden, d_weight, d_bias, None, None, None, None


def _logits_to_gradient(
    logits: Tensor, labels: Tensor, weights: Tensor | None, needs_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Cross entropy [n] and argmax [n] of logits [n, V]; their gradient overwrites the logits.

    Softmax is fp32, a few rows at a time: a whole chunk in fp32 would be twice the memory and leave the cache.
    """
    rows = block_rows(logits.device, logits.shape[1])
    losses, predicted = [], []
    for start in range(0, len(logits), rows):
        here = slice(start, start + rows)
        block = logits[here].float()
        loss, best = _block_to_gradient(block, labels[here], None if weights is None else weights[here], needs_gradient)
        losses.append(loss)
        predicted.append(best)
        if needs_gradient and logits.dtype != torch.float32:
            logits[here] = block
    return torch.cat(losses), torch.cat(predicted)


def block_rows(device: torch.device, vocabulary: int) -> int:
    """Rows of logits that are worked on at a time."""
    return max(1, BLOCK_ELEMENTS.get(device.type, BLOCK_ELEMENTS["cpu"]) // vocabulary)


def _block_to_gradient(
    logits: Tensor, labels: Tensor, weights: Tensor | None, needs_gradient: bool
) -> tuple[Tensor, Tensor]:
    """The same for fp32 logits."""
    chosen = labels[:, None]
    largest, best = logits.max(-1, keepdim=True)
    at_label = logits.gather(1, chosen)
    logits.sub_(largest).exp_()
    total = logits.sum(-1, keepdim=True)
    losses = (total.log() + largest - at_label)[:, 0]
    if needs_gradient:
        weight = torch.ones_like(total) if weights is None else weights[:, None].float()
        logits.mul_(weight / total)
        logits.scatter_add_(1, chosen, -weight)
    return losses, best[:, 0]


def _add_product(total: Tensor | None, gradient: Tensor, hidden: Tensor) -> Tensor:
    """total + gradient.T @ hidden in fp32: bf16 sums over many chunks would lose what a chunk adds."""
    product = torch.mm(gradient.t(), hidden)
    return product.float() if total is None else total.add_(product)


def _scaled(gradient: Tensor, factor: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """factor * gradient with zeros for the trailing rows that the softmax left out. Not in place: it is saved."""
    out = torch.empty(rows, *gradient.shape[1:], dtype=dtype, device=gradient.device)
    torch.mul(gradient, factor, out=out[: len(gradient)])
    out[len(gradient) :] = 0
    return out


# ---- the model around the head --------------------------------------------------------------------------------------


def causal_lm(model: Any) -> Any:
    """The causal LM of transformers inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_states(model: nn.Module, **inputs: object) -> Tensor:
    """Final hidden states [R, T, D] of a causal LM, what its head is applied to. No logits are computed."""
    inner = causal_lm(model)
    hidden: Tensor = inner._modules[inner.base_model_prefix](**inputs).last_hidden_state
    return hidden


def own_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """The logits [N, V] that a causal LM makes of hidden states [N, D], with all that its forward pass adds.

    Its body is replaced by one that returns `hidden`, so no architecture has to be known. No hook runs: ZeRO-3's count
    the calls, of which ranks make unequal numbers. So under ZeRO-3 call it inside `with_head`.
    """
    inner = causal_lm(model)
    name = inner.base_model_prefix
    body = inner._modules[name]
    inner._modules[name] = _Body(hidden[None])
    try:
        token = torch.zeros(1, 1, dtype=torch.long, device=hidden.device)
        with _without_hooks(inner):
            logits: Tensor = inner(input_ids=token, use_cache=False).logits[0]
        return logits
    finally:
        inner._modules[name] = body


@contextlib.contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    kept = [(m, m._forward_pre_hooks, m._forward_hooks) for m in module.modules()]
    for m, _, _ in kept:
        m._forward_pre_hooks, m._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for m, before, after in kept:
            m._forward_pre_hooks, m._forward_hooks = before, after


class _Body(nn.Module):
    """Stands in for a model's body; returns the same whatever it is given."""

    def __init__(self, hidden: Tensor):
        super().__init__()
        self.output = _BodyOutput((hidden,))

    def forward(self, *args: object, **kwargs: object) -> _BodyOutput:
        return self.output

    @property
    def decoder(self) -> _Body:
        """OPT's head calls a part of the body."""
        return self


class _BodyOutput(tuple[Tensor]):
    """The hidden states, by index and by name; every other output that an architecture may pass on is None."""

    def __getattr__(self, name: str) -> Tensor | None:
        return self[0] if name == "last_hidden_state" else None


@torch.no_grad()
def head_is_plain(model: nn.Module) -> bool:
    """Whether the model's logits are head(hidden) and nothing else, tried out on a few tokens.

    Probes hidden states of usual and of large size: a soft cap hardly shows on small logits.
    """
    inner = causal_lm(model)
    head = inner.get_output_embeddings()
    if type(getattr(head, "original_module", head)) is not nn.Linear:
        return False
    weight = head.weight
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(4, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    probe = torch.cat([probe, probe * 100])
    expected = head(probe).float()
    size = float(expected.abs().max())
    try:
        logits = own_logits(model, probe)
    except AttributeError as error:  # it asks more of its body than to be called
        reason = f"its logits cannot be made from hidden states ({first_line(error)})"
        raise UserError(unsupported(type(inner).__name__, reason)) from error
    return torch.allclose(logits.float(), expected, rtol=1e-3, atol=1e-4 * size)
