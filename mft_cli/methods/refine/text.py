"""The text of a batch so far, in the backbone's key-value cache: left-padded, and cut back where a guess was wrong.

B rows, T columns, D the backbone's width. Columns that were taken back stay in the cache of rows that are longer; the mask
hides them, and positions count what the mask shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from mft_cli.errors import UserError
from mft_cli.models.kernels.cross_entropy import causal_lm, head_is_plain, hidden_states, own_logits


class Text:
    """Prompts first, then what is appended."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[tuple[int, ...]]):
        self.model = model
        self.plain_head = head_is_plain(model)
        config = causal_lm(model).config.get_text_config()
        self.positions = int(getattr(config, "max_position_embeddings", None) or 2**31)
        self.cache = DynamicCache(config=config)
        if any(getattr(layer, "is_sliding", False) for layer in self.cache.layers):
            raise UserError(
                f"{type(model).__name__} has sliding-window attention, whose cache cannot take a token back: "
                "use eval.decode=plain"
            )
        device = next(model.parameters()).device
        self.width = max(map(len, prompts))
        # padding is masked: any id will do
        ids = torch.zeros(len(prompts), self.width, dtype=torch.long, device=device)
        self.mask = torch.zeros_like(ids)[:, :0]
        shown = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, self.width - len(prompt) :] = torch.tensor(prompt, device=device)
            shown[row, self.width - len(prompt) :] = 1
        self.prompt_states = self.append(ids, shown)

    def append(self, ids: Tensor, shown: Tensor | None = None) -> Tensor:
        """States [B, n, D] of ids [B, n] after what there is; `shown` [B, n] is 0 at padding."""
        self.mask = torch.cat([self.mask, torch.ones_like(ids) if shown is None else shown], 1)
        positions = (self.mask.cumsum(-1) - 1).clamp(0, self.positions - 1)[:, -ids.shape[1] :]
        return hidden_states(
            self.model, input_ids=ids, attention_mask=self.mask, position_ids=positions, past_key_values=self.cache,
            use_cache=True,
        )  # fmt: skip

    def keep_of_last(self, count: int, kept: Tensor) -> None:
        """Of the last `count` columns each row keeps its first `kept` [B]."""
        column = torch.arange(count, device=self.mask.device)
        self.mask[:, self.mask.shape[1] - count :] = (column < kept[:, None]).long()
        surplus = count - int(kept.max())
        if surplus:
            self.cache.crop(-surplus)
            self.mask = self.mask[:, :-surplus]

    def logits(self, states: Tensor) -> Tensor:
        """[..., V] in fp32 of states [..., D]."""
        if self.plain_head:
            return self.model.get_output_embeddings()(states).float()
        return own_logits(self.model, states.flatten(0, -2)).unflatten(0, states.shape[:-1]).float()

    def keep_rows(self, index: Tensor) -> None:
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]
