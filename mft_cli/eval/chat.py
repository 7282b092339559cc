"""`mft chat`: several turns with a model, its words as they come, by plain transformers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, TextIteratorStreamer

from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.data.conversations import Turn
from mft_cli.data.prompts import Renderer
from mft_cli.errors import UserError
from mft_cli.eval.engines.hf import load_model
from mft_cli.eval.engines.load import device_and_dtype
from mft_cli.eval.plan import pick_prompt
from mft_cli.models.folder import check_context, open_model
from mft_cli.models.loading import load_tokenizer


@dataclass
class Chat:
    """A conversation with a loaded model. A prompt without a chat template knows one question at a time."""

    model: PreTrainedModel
    renderer: Renderer
    end_ids: list[int]
    context: int | None
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    turns: list[Turn] = field(default_factory=list)

    @property
    def remembers(self) -> bool:
        return self.renderer.prompt.kind == "chat"

    @property
    def prompt_name(self) -> str:
        return self.renderer.prompt.name

    def reply(self, text: str) -> Iterator[str]:
        """The pieces of the answer to `text`; both become turns. Raises UserError where they do not fit into the context."""
        self.renderer.check(text)
        asked: list[Turn] = [*self.turns, {"role": "user", "content": text}]
        ids = self.renderer.turns_ids(asked) if self.remembers else self.renderer.prompt_ids(text)
        room = self.max_new_tokens if self.context is None else min(self.max_new_tokens, self.context - len(ids))
        if room <= 0:
            raise UserError(
                f"the conversation has {len(ids)} tokens, the model {self.context} positions: begin again with /new"
            )
        pieces = []
        for piece in self._generated(ids, room):
            pieces.append(piece)
            yield piece
        if self.remembers:
            self.turns = [*asked, {"role": "assistant", "content": "".join(pieces)}]

    def _generated(self, ids: list[int], room: int) -> Iterator[str]:
        tokenizer: Any = self.renderer.tokenizer
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        prompt = torch.tensor([ids], device=self.model.device)
        sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p} if self.temperature else {}
        settings: dict[str, Any] = {
            "input_ids": prompt, "attention_mask": torch.ones_like(prompt), "max_new_tokens": room, "streamer": streamer,
            "eos_token_id": self.end_ids, "pad_token_id": self.end_ids[0], "do_sample": False, **sampling,
        }  # fmt: skip
        failures: list[Exception] = []
        model: Any = self.model

        def generate() -> None:
            try:
                model.generate(**settings)
            except Exception as error:
                failures.append(error)
                streamer.end()  # who reads would wait for ever

        worker = threading.Thread(target=generate, daemon=True)
        worker.start()
        yield from streamer
        worker.join()
        if failures:
            raise failures[0]


def open_chat(config: EvalRunConfig, **settings: Any) -> Chat:
    """Loads model.path with its own prompt, or eval.prompt. Raises UserError."""
    device, dtype = device_and_dtype(config)
    folder = open_model(config.model)
    if config.eval.max_model_len is not None:
        check_context(config.eval.max_model_len, folder.context)
    tokenizer = load_tokenizer(str(folder.tokenizer), config.model)
    renderer = Renderer(tokenizer, pick_prompt(BenchmarkConfig(), config.eval, folder.facts, tokenizer))
    model = load_model(folder.path, dtype, device, config.model.trust_remote_code, folder.adapter)
    ends = sorted({*renderer.end_ids, *folder.end_ids})
    return Chat(model, renderer, ends, config.eval.max_model_len or folder.context, **settings)
