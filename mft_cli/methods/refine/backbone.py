"""Is a backbone causal? A state that sees later tokens would show the head what it has to predict."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from mft_cli.distributed.zero import is_partitioned
from mft_cli.errors import UserError
from mft_cli.models.kernels.attention import packed_kwargs
from mft_cli.models.kernels.cross_entropy import hidden_states
from mft_cli.models.vocabulary import embedding_rows


def refuse_bidirectional(model: PreTrainedModel) -> None:
    """Raises UserError. Asks the attention modules, then tries it out: changing the last token must change no other state.

    A backbone that ZeRO-3 has cut into parts cannot be tried out here; its attention refuses in the first step.
    """
    bidirectional = [type(m).__name__ for m in model.modules() if getattr(m, "is_causal", True) is False]
    if not bidirectional and not any(is_partitioned(p) for p in model.parameters()) and sees_later(model):
        bidirectional = [type(model).__name__]
    if bidirectional:
        raise UserError(
            f"method=chunk_refine needs a causal backbone, and {type(model).__name__} is bidirectional "
            f"({bidirectional[0]} sees later tokens): choose a causal language model with model="
        )


@torch.no_grad()
def sees_later(model: PreTrainedModel) -> bool:
    """Whether the states of earlier tokens depend on the last one."""
    device = next(model.parameters()).device
    ids = torch.arange(6, device=device).remainder(embedding_rows(model))[None].repeat(2, 1)
    ids[1, -1] = 0
    packed = packed_kwargs([[6], [6]]) if str(model.config._attn_implementation).startswith("mft_") else {}
    training = model.training
    model.eval()
    try:
        positions = torch.arange(6, device=device).expand(2, 6)
        states = hidden_states(model, **embedded(model, ids), position_ids=positions, use_cache=False, **packed)
    finally:
        model.train(training)
    return not torch.allclose(states[0, :-1], states[1, :-1], atol=1e-5)


def embedded(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The ids as arguments of a forward pass; of a model whose embedding alone is in fp32 yet, their embeddings."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(dtypes) == 1:
        return {"input_ids": ids}
    return {"inputs_embeds": model.get_input_embeddings()(ids).to(min(dtypes, key=lambda d: d.itemsize))}
