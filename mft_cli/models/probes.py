"""A model is asked before it is trusted: what does a token see in packed sequences?

Some architectures carry a state over from token to token (recurrent layers, convolutions) and take no notice of where a
document starts; some ignore the attention that they are given. Neither fails: they train on wrong numbers. So the loaded
model, after all swaps, runs on three sequences that differ in a known way, and its hidden states are compared. What does
not run so, or is not causal, is asked again with its own attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mft_cli.distributed.zero import shape_of
from mft_cli.errors import UserError, first_line
from mft_cli.models.architectures import unsupported
from mft_cli.models.kernels.attention import packed_kwargs
from mft_cli.models.kernels.cross_entropy import causal_lm, hidden_states, is_plain
from mft_cli.models.kernels.own_attention import has_own_attention, use_own_attention
from mft_cli.models.vocabulary import table

LENGTH, CHANGED = 12, 4  # tokens of each of the two documents, and of the end that is changed
# of the largest hidden state; experts' products differ with the number of their tokens
TOLERANCE = {torch.float32: 1e-5}
TOLERANCE_16_BITS = 3e-2


@dataclass(frozen=True)
class Sight:
    """What tokens of a packed sequence see that they must not."""

    other_documents: bool
    later_tokens: bool


class CannotRun(UserError):
    """A model that does not run on packed sequences, for a `reason`."""

    def __init__(self, model: nn.Module, reason: str):
        super().__init__(unsupported(architecture(model), reason))
        self.reason = reason


_packs: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def may_pack(model: nn.Module) -> bool:
    """Whether a model that was settled keeps the examples of a packed sequence apart."""
    return _packs[causal_lm(model)]


def settle(model: nn.Module, device: torch.device) -> str | None:
    """Finds out what the model's tokens see; where it takes no attention for packed sequences it gets its own.

    Returns one line where its examples cannot be packed, else None. All ranks have to call, as for `probe`. Raises UserError
    for a model that cannot be trained.
    """
    leaks, refusal = False, "it chooses among transformers' own by name"
    if not has_own_attention(model):
        leaks, refusal = with_packing(model, device)
    if refusal:
        use_own_attention(model)
        refuse_untrainable(model, probe(model, device))
    _packs[causal_lm(model)] = not (leaks or refusal)
    return unpacked_notice(model, refusal) if leaks or refusal else None


def with_packing(model: nn.Module, device: torch.device) -> tuple[bool, str]:
    """(whether examples of a packed sequence see each other, why the model does not run so at all, else "")."""
    try:
        sight = probe(model, device)
    except CannotRun as error:
        return False, error.reason
    return sight.other_documents, "its tokens see later ones" if sight.later_tokens else ""


@torch.no_grad()
def probe(model: nn.Module, device: torch.device) -> Sight:
    """Runs the causal LM on three packed sequences of two documents. All ranks have to call.

    Under ZeRO-3 call it inside the engine's forward pass, whose hooks make the parameters whole. Raises UserError where the
    architecture cannot run on packed sequences at all.
    """
    rows = probe_rows(int(shape_of(table(causal_lm(model).get_input_embeddings()))[0])).to(device)
    positions = torch.arange(LENGTH, device=device).repeat(2).expand(len(rows), -1)
    training = model.training
    model.eval()
    try:
        packed = packed_kwargs([[LENGTH, LENGTH]] * len(rows))
        states = hidden_states(model, input_ids=rows, position_ids=positions, use_cache=False, **packed)
        is_plain(model)  # its way from hidden states to logits, too
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError) as error:
        reason = "it does not hand the documents of a packed sequence down to its attention"
        raise CannotRun(model, reason if "packed_kwargs" in str(error) else first_line(error)) from error
    finally:
        model.train(training)
    return judge(states)


def probe_rows(vocabulary: int) -> Tensor:
    """int64 [3, 2 * LENGTH]: two documents; the same with another first one; the same with another end."""
    generator = torch.Generator().manual_seed(0)
    first, second, other = torch.randint(0, vocabulary, (3, LENGTH), generator=generator)
    other = torch.where(other == first, (other + 1) % vocabulary, other)
    changed_end = second.clone()
    changed_end[-CHANGED:] = (second[-CHANGED:] + 1) % vocabulary
    return torch.stack([torch.cat(row) for row in ((first, second), (other, second), (first, changed_end))])


def judge(states: Tensor) -> Sight:
    """`states` [3, 2 * LENGTH, D]: the final hidden states of `probe_rows`."""
    plain, other_first, other_end = states.float()
    limit = TOLERANCE.get(states.dtype, TOLERANCE_16_BITS) * float(plain.abs().max())

    def differs(changed: Tensor, start: int, stop: int) -> bool:
        return not float((changed - plain)[start:stop].abs().max()) <= limit  # NaN differs too

    return Sight(differs(other_first, LENGTH, 2 * LENGTH), differs(other_end, 0, 2 * LENGTH - CHANGED))


def architecture(model: nn.Module) -> str:
    """The model's class in transformers, such as LlamaForCausalLM."""
    return type(causal_lm(model)).__name__


def refuse_untrainable(model: nn.Module, sight: Sight) -> None:
    """Raises UserError for a model whose tokens see later ones."""
    if sight.later_tokens:
        reason = "its tokens see later ones, so that the labels stand in the inputs"
        raise UserError(unsupported(architecture(model), reason))


def unpacked_notice(model: nn.Module, refusal: str) -> str:
    """One line where packing is switched off; `refusal` says why the model has its own attention, if it has."""
    leaks = "carries something over from one example of a packed sequence to the next: trained"
    takes = f"takes no attention for packed sequences ({refusal}): trained with its own and"
    what = f"{takes} " if refusal else f"{leaks} with "
    return f"{architecture(model)} {what}one example a sequence, as with train.packing=false"
