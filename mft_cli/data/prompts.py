"""Prompts: one renderer for training and evaluation, straight to token ids.

Prompt and response are tokenized apart and joined as ids, so the boundary is exact and the ids that a model is trained
behind are the ids that it is asked with. There is exactly one beginning-of-sequence token, and only where the tokenizer
itself would add one or the chat template writes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.errors import UserError

Messages = list[dict[str, str]]
Choices = dict[str, str]  # letter -> text of the option, in the order shown


class UnsafeText(ValueError):
    """A text holds a control token of the tokenizer."""


@dataclass
class Piece:
    """A run of token ids; `loss_mask` marks response tokens, `text` and `offsets` are kept for responses."""

    ids: list[int]
    loss_mask: bool = False
    text: str = ""
    offsets: list[tuple[int, int]] | None = None


class Renderer:
    """Token ids of prompts and responses for one tokenizer and one prompt configuration.

    `allowed` are special tokens that responses may hold (a method's own tags).
    """

    def __init__(self, tokenizer: Any, prompt: PromptConfig, allowed: tuple[str, ...] = ()):
        self.tokenizer = tokenizer
        self.prompt = prompt
        if prompt.kind == "chat" and not tokenizer.chat_template:
            raise UserError(
                "prompt.kind=chat, but the tokenizer has no chat template: choose prompt=alpaca or prompt=raw, "
                "or give one with model.chat_template=FILE"
            )
        if "{question}" not in prompt.template:
            raise UserError(f"prompt.template of prompt {prompt.name} does not contain {{question}}")
        special = [t for t in tokenizer.all_special_tokens if t not in allowed]
        self.control = re.compile("|".join(map(re.escape, special))) if special else None
        bare = tokenizer("", add_special_tokens=True)["input_ids"]
        self.bos = [tokenizer.bos_token_id] if bare[:1] == [tokenizer.bos_token_id] and bare else []
        self.end_id = self._end_of_turn()
        self.end_ids = sorted({i for i in (self.end_id, tokenizer.eos_token_id) if i is not None})
        self.stop = list(prompt.stop)

    # ---- question and response ----

    def prompt_ids(
        self, question: str, system: str | None = None, choices: Choices | None = None, instruction: str | None = None
    ) -> list[int]:
        """Ids of everything in front of the response."""
        return self._start(self.encode(self.prompt_text(question, system, choices, instruction)))

    def prompt_text(
        self, question: str, system: str | None = None, choices: Choices | None = None, instruction: str | None = None
    ) -> str:
        """The prompt: `choices` (letter -> option) stand on lines behind the question, then a benchmark's instruction."""
        prompt = self.prompt
        for text in (question, *(choices or {}).values()):
            self.check(text)
        asked = self.asked(question, choices or {}, instruction)
        if prompt.kind == "template":
            shots = [prompt.template.replace("{question}", s.question) + s.response for s in prompt.shots]
            return prompt.shot_separator.join([*shots, asked])
        system = system if system is not None else prompt.system
        messages: Messages = [{"role": "system", "content": system}] if system is not None else []
        for shot in prompt.shots:
            messages.append({"role": "user", "content": prompt.template.replace("{question}", shot.question)})
            messages.append({"role": "assistant", "content": shot.response})
        return self._chat([*messages, {"role": "user", "content": asked}], ask=True)

    def asked(self, question: str, choices: Choices, instruction: str | None) -> str:
        """The template around question, options and instruction, filled in one pass: a question may hold {choices}."""
        prompt = self.prompt
        lines = (prompt.option.replace("{letter}", letter).replace("{text}", text) for letter, text in choices.items())
        options = "\n".join(lines)
        if options and "{choices}" not in prompt.template:
            question, options = f"{question}\n{options}", ""
        if instruction:
            question = f"{question}\n\n{instruction}"
        filled = {"{question}": question, "{choices}": options}
        return re.sub(r"\{question\}|\{choices\}", lambda match: filled[match.group()], prompt.template)

    def response_text(self, response: str, answer: str | None = None) -> str:
        if answer is None and "{answer}" in self.prompt.response:
            raise UserError(f"prompt {self.prompt.name} needs the short answer: set `answer` of the data source")
        return self.prompt.response.replace("{response}", response).replace("{answer}", answer or "")

    def response_ids(self, response: str, answer: str | None = None) -> list[int]:
        """Ids of the response with its end token."""
        return self.response_piece(response, answer).ids

    def response_piece(self, response: str, answer: str | None = None) -> Piece:
        text = self.response_text(response, answer)
        self.check(text)
        piece = self._response(text)
        piece.ids.append(self.end_id)
        return piece

    def pieces(
        self, question: str, response: str, answer: str | None, system: str | None, choices: Choices | None = None
    ) -> list[Piece]:
        return [Piece(self.prompt_ids(question, system, choices)), self.response_piece(response, answer)]

    # ---- conversations ----

    def conversation(self, messages: Messages, loss_on: str) -> list[Piece]:
        """Pieces of a conversation. Raises ValueError if the chat template does not append turn by turn."""
        if self.prompt.kind != "chat":
            raise UserError("conversations need a chat prompt: set prompt=chat")
        for message in messages:
            self.check(message["content"])
        last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
        pieces, done = [], ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = self._chat(messages[:i], ask=True), self._chat(messages[: i + 1])
            content = message["content"]
            if not after[len(before) :].startswith(content):
                content = content.strip()
            if not before.startswith(done) or not after.startswith(before + content):
                raise ValueError("the chat template rewrites earlier turns, so that spans cannot be verified")
            pieces.append(Piece(self.encode(before[len(done) :])))
            if loss_on == "all" or i == last:
                pieces.append(self._response(content))
            else:
                pieces.append(Piece(self.encode(content)))
            tail = self.encode(after[len(before) + len(content) :])
            if pieces[-1].loss_mask and tail[:1] == [self.end_id]:
                pieces[-1].ids.append(tail.pop(0))
            pieces.append(Piece(tail))
            done = after
        while pieces and not pieces[-1].loss_mask:
            pieces.pop()  # nothing is trained on behind the last answer
        pieces[0].ids[:] = self._start(pieces[0].ids)
        return pieces

    # ---- ids ----

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _response(self, text: str) -> Piece:
        done = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return Piece(list(done["input_ids"]), True, text, [tuple(o) for o in done["offset_mapping"]])

    def _start(self, ids: list[int]) -> list[int]:
        """Exactly one beginning-of-sequence token: templates often write it, the tokenizer must add no second."""
        return ids if not self.bos or ids[:1] == self.bos else self.bos + ids

    def check(self, text: str) -> None:
        """Control tokens inside a text would end a turn or forge one: refused."""
        if self.control and (match := self.control.search(text)):
            raise UnsafeText(f"the text holds the control token {match.group()!r}")

    def _chat(self, messages: Messages, ask: bool = False) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))

    def _end_of_turn(self) -> int:
        """The token that ends an answer: what the chat template writes behind it, else the end-of-sequence token."""
        eos = self.tokenizer.eos_token_id
        if self.prompt.kind == "chat":
            turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "XYZZY"}]
            behind = self.encode(self._chat(turns).rsplit("XYZZY", 1)[-1].lstrip())
            if behind and behind[0] in self.tokenizer.all_special_ids:
                return int(behind[0])
        if eos is None:
            raise UserError("the tokenizer has no end-of-sequence token")
        return int(eos)
