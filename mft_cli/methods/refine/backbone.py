"""Is a backbone causal? A state that sees later tokens would show the head what it has to predict."""

from __future__ import annotations

from transformers import PreTrainedModel

from mft_cli.errors import UserError


def refuse_bidirectional(model: PreTrainedModel) -> None:
    """Raises UserError for attention that says so itself. Every model is asked what its tokens see before the first step, too."""
    bidirectional = [type(m).__name__ for m in model.modules() if getattr(m, "is_causal", True) is False]
    if bidirectional:
        raise UserError(
            f"method=chunk_refine needs a causal backbone, and {type(model).__name__} is bidirectional "
            f"({bidirectional[0]} sees later tokens): choose a causal language model with model="
        )
