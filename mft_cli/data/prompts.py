"""Prompts: one renderer for training and evaluation, straight to token ids.

Prompt and response are tokenized apart and joined as ids (`segments` says when not), so the boundary is exact and the ids
that a model is trained after are the ids that it is asked with. There is exactly one beginning-of-sequence token, and only
where the tokenizer itself would add one or the chat template writes it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.data.conversations import HANDED_ON, Turn, quoted_arguments, with_objects
from mft_cli.data.cut_conversations import THOUGHT, THOUGHT_END, CutConversation
from mft_cli.data.options import CODE_FAILURES
from mft_cli.data.segments import Piece, Segment, apart, begins_with_blank, in_context
from mft_cli.errors import UserError, first_line

Choices = dict[str, str]  # letter -> text of the option, in the order shown


class UnsafeText(ValueError):
    """A text holds a control token of the tokenizer."""


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """id -> text of all control tokens, also of those that tokenizer.json alone calls special (Gemma's <end_of_turn>)."""
    tokens = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return tokens | {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}


class Renderer:
    """Token ids of prompts and responses for one tokenizer and one prompt configuration.

    `allowed` are special tokens that responses may hold (a method's own tags).
    """

    def __init__(self, tokenizer: Any, prompt: PromptConfig, allowed: tuple[str, ...] = ()):
        self.tokenizer, self.prompt, self.allowed = tokenizer, prompt, allowed
        if prompt.kind == "chat" and not tokenizer.chat_template:
            raise UserError(
                "prompt.kind=chat, but the tokenizer has no chat template: choose prompt=alpaca or prompt=raw, "
                "or give one with model.chat_template=FILE"
            )
        if "{question}" not in prompt.template:
            raise UserError(f"prompt.template of prompt {prompt.name} does not contain {{question}}")
        if prompt.template_input and not {"{instruction}", "{input}"} <= set(
            re.findall(r"\{\w+\}", prompt.template_input)
        ):
            raise UserError(
                f"prompt.template_input of prompt {prompt.name} does not contain {{instruction}} and {{input}}"
            )
        self.special = special_tokens(tokenizer)
        control = [t for t in self.special.values() if t not in allowed]
        self.control = re.compile("|".join(map(re.escape, control))) if control else None
        bare = tokenizer("", add_special_tokens=True)["input_ids"]
        self.bos = [tokenizer.bos_token_id] if bare[:1] == [tokenizer.bos_token_id] and bare else []
        self.begins_with_blank = begins_with_blank(tokenizer)
        self.notice: str | None = None
        self.around = "", ""  # what the chat template writes between a generation prompt, an answer, and its end token
        self.opened = ""  # the thought that the generation prompt opens, and a conversation does not hold
        self.end_id = self._try_template()
        self.end_ids = sorted({i for i in (self.end_id, tokenizer.eos_token_id) if i is not None})
        self.stop = list(prompt.stop)

    # ---- question and response ----

    def prompt_ids(
        self, question: str, system: str | None = None, choices: Choices | None = None, instruction: str | None = None
    ) -> list[int]:
        """Ids of everything before the response."""
        return self._start(self.encode(self.prompt_text(question, system, choices, instruction)))

    def prompt_text(
        self, question: str, system: str | None = None, choices: Choices | None = None, instruction: str | None = None
    ) -> str:
        """The prompt: `choices` (letter -> option) stand on lines after the question, then a benchmark's instruction."""
        prompt = self.prompt
        for text in (question, *(choices or {}).values()):
            self.check(text)
        if system and prompt.kind == "template" and "{system}" not in prompt.template:
            raise ValueError(
                f"the row has a system turn, and prompt={prompt.name} has no {{system}} in its template; add it, take "
                "prompt=chat, or leave the field out with system=null"
            )
        if prompt.kind == "chat":
            return self._chat(self._asking(question, system, choices, instruction), ask=True)
        asked = self.asked(question, choices or {}, instruction, system)
        shots = [prompt.template.replace("{question}", s.question) + s.response for s in prompt.shots]
        return prompt.shot_separator.join([*shots, asked])

    def _asking(
        self, question: str, system: str | None, choices: Choices | None, instruction: str | None = None
    ) -> list[Turn]:
        """The turns that ask a question."""
        opening = self._opening(system if system is not None else self.prompt.system)
        return [*opening, {"role": "user", "content": self.asked(question, choices or {}, instruction)}]

    def _opening(self, system: str | None) -> list[Turn]:
        """The turns before a question: the system's, and the prompt's shots."""
        turns: list[Turn] = [{"role": "system", "content": system}] if system is not None else []
        for shot in self.prompt.shots:
            turns.append({"role": "user", "content": self.prompt.template.replace("{question}", shot.question)})
            turns.append({"role": "assistant", "content": shot.response})
        return turns

    def asked(self, question: str, choices: Choices, instruction: str | None, system: str | None = None) -> str:
        """The template around question, options and instruction, filled in one pass: a question may hold {choices}."""
        prompt = self.prompt
        first, _, others = question.partition("\n")
        template = prompt.template_input if prompt.template_input and others else prompt.template
        lines = (prompt.option.replace("{letter}", letter).replace("{text}", text) for letter, text in choices.items())
        options = "\n".join(lines)
        behind = ""
        if options and "{choices}" not in template:
            behind, options = f"\n{options}", ""
        if instruction:
            behind += f"\n\n{instruction}"
        filled = {
            "{question}": question + behind, "{instruction}": first, "{input}": others + behind, "{choices}": options,
            "{system}": system or "",
        }  # fmt: skip
        names = r"\{(question|instruction|input|choices|system)\}"
        return re.sub(names, lambda match: filled[match.group()], template)

    def turns_ids(self, turns: list[Turn]) -> list[int]:
        """Ids of a conversation that the model is to go on with, after the prompt's system turn and shots."""
        asked: list[Turn] = [
            {**turn, "content": self.asked(turn["content"], {}, None)} if turn["role"] == "user" else turn
            for turn in turns
        ]
        return self._start(self.encode(self._chat([*self._opening(self.prompt.system), *asked], ask=True)))

    def response_text(self, response: str, answer: str | None = None) -> str:
        if answer is None and "{answer}" in self.prompt.response:
            raise UserError(f"prompt {self.prompt.name} needs the short answer: set `answer` of the data source")
        text = self.prompt.response.replace("{response}", response).replace("{answer}", answer or "")
        self.check(text)
        opening, closing = self.around
        return f"{opening}{text}{closing}"

    def response_ids(self, response: str, answer: str | None = None) -> list[int]:
        """Ids of the response with its end token."""
        return self.response_piece(response, answer).ids

    def response_piece(self, response: str, answer: str | None = None) -> Piece:
        return self.tokenized([[self.response_segment(response, answer)]])[0][0]

    def response_segment(self, response: str, answer: str | None = None) -> Segment:
        return Segment(self.response_text(response, answer), True, self.end_id)

    def segments(
        self, question: str, response: str, answer: str | None, system: str | None, choices: Choices | None = None
    ) -> list[Segment]:
        """A question with its response. Raises ValueError for a response without the thought that the prompt opens."""
        segments = [Segment(self.prompt_text(question, system, choices)), self.response_segment(response, answer)]
        opening = self.around[0]
        if self.allowed or not (
            self.opened or (THOUGHT in opening + segments[0].text[-20:] and THOUGHT_END in response)
        ):
            return segments
        text = segments[1].text.removeprefix(opening)  # the template knows thoughts: the row's is no second one
        answered: Turn = {"role": "assistant", "content": text}
        return self.cut([*self._asking(question, system, choices), answered]).examples("last")[0]

    # ---- conversations ----

    def conversation(
        self, messages: list[Turn], loss_on: str, tools: Sequence[dict[str, Any]] = ()
    ) -> list[list[Segment]]:
        """A conversation's examples: see `CutConversation`; `tools` in OpenAI's form. A template prompt takes one question
        with its answer. Raises ValueError.
        """
        if self.prompt.kind != "chat":
            return [self.one_turn(messages, tools)]
        for message in messages:
            self.check(message["content"])
        beside = [message.get(key) for message in messages for key in HANDED_ON]
        if tools or any(beside):
            self.check(json.dumps([*tools, *beside], ensure_ascii=False))
        return self.cut(messages, tools).examples(loss_on)

    def cut(self, messages: list[Turn], tools: Sequence[dict[str, Any]] = ()) -> CutConversation:
        """A conversation under the chat template. Raises ValueError where the template does not write the tools."""
        chat = partial(self._chat, tools=tools)
        if quoted := quoted_arguments(messages):
            written = chat(messages)
            if any(text in written for text in quoted):
                messages = with_objects(messages)
        result = CutConversation(messages, chat, self._end_token(), self.around[1], self.opened)
        if tools and result.whole == self._chat(messages):
            raise ValueError(
                f"the row has {len(tools)} tools, and the chat template does not write them; take a template that does with "
                "model.chat_template=FILE, or leave them out with tools=null of the data source"
            )
        return result

    def one_turn(self, messages: list[Turn], tools: Sequence[dict[str, Any]] = ()) -> list[Segment]:
        """A conversation of one question and its answer under a template prompt. Raises ValueError for others."""
        if tools:
            raise ValueError(
                f"the row has {len(tools)} tools, and prompt={self.prompt.name} has no room for them; take prompt=chat, or leave "
                "them out with tools=null of the data source"
            )
        system = next((m["content"] for m in messages if m["role"] in ("system", "developer")), None)
        turns = [m for m in messages if m["role"] not in ("system", "developer")]
        if [m["role"] for m in turns] != ["user", "assistant"]:
            raise ValueError(
                f"{len(turns)} turns, and prompt={self.prompt.name} is a text around one question and its answer; a model with a "
                "chat template takes prompt=chat, others one with model.chat_template=FILE"
            )
        return self.segments(turns[0]["content"], turns[1]["content"], None, system)

    def plain(self, text: str) -> list[Segment]:
        """Plain text, all of it in the loss, between the tokenizer's own start and end tokens."""
        self.check(text)
        eos = self.tokenizer.eos_token_id
        return [Segment(""), Segment(text, True, eos if eos is not None else self.end_id)]

    def _end_token(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.end_id))

    # ---- ids ----

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokenized(self, rows: Sequence[list[Segment]]) -> list[list[Piece]]:
        """The pieces of each row's segments, up to its last response. The tokenizer gets all texts at once: it is faster so."""
        tokenize = in_context if self.prompt.kind == "chat" and self.begins_with_blank else apart
        return [self._joined(pieces) for pieces in tokenize(self.tokenizer, rows)]

    def _joined(self, pieces: list[Piece]) -> list[Piece]:
        """A row's pieces: an end token behind a response is the response's, and nothing is trained on after the last one."""
        for piece, following in itertools.pairwise(pieces):
            if piece.loss_mask and not following.loss_mask and following.ids[:1] == [self.end_id]:
                piece.ids.append(following.ids.pop(0))
        while not pieces[-1].loss_mask:
            pieces.pop()
        if pieces[-1].ids[-1:] and pieces[-1].ids[-1] not in self.special:
            pieces[-1].ids.append(self.end_id)  # some templates write none behind the last answer
        if not pieces[0].loss_mask:
            pieces[0].ids = self._start(pieces[0].ids)
        return pieces

    def _start(self, ids: list[int]) -> list[int]:
        """Exactly one beginning-of-sequence token: templates often write it, the tokenizer must add no second."""
        return ids if not self.bos or ids[:1] == self.bos else self.bos + ids

    def check(self, text: str) -> None:
        """Control tokens inside a text would end a turn or forge one: refused."""
        if self.control and (match := self.control.search(text)):
            raise UnsafeText(f"the text holds the control token {match.group()!r}")

    def _chat(self, messages: list[Turn], ask: bool = False, tools: Sequence[dict[str, Any]] = ()) -> str:
        """The conversation as text. Raises TemplateError; ValueError for what the template's code fails on."""
        given = {"tools": list(tools)} if tools else {}
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask, **given))
        except CODE_FAILURES as error:
            raise ValueError(f"the chat template cannot write this conversation ({first_line(error)})") from None

    def _try_template(self) -> int:
        """The token that ends an answer. Raises UserError for a chat template that cannot be rendered with this prompt."""
        try:
            if self.prompt.kind == "chat" and self.prompt.system is not None:
                self._chat([{"role": "system", "content": self.prompt.system}, {"role": "user", "content": "Q"}])
            return self._end_of_turn()
        except (TemplateError, ValueError) as error:
            line = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
            raise UserError(
                f"the chat template cannot be used with prompt={self.prompt.name}: {line}{first_line(error)}; give another with "
                "model.chat_template=FILE, or leave out what it refuses (prompt.system=null)"
            ) from None

    def _end_of_turn(self) -> int:
        """The token that ends an answer: what the chat template writes after it, else the end-of-sequence token."""
        eos = self.tokenizer.eos_token_id
        if self.prompt.kind == "chat":
            turns: list[Turn] = [{"role": "user", "content": "QUUX"}, {"role": "assistant", "content": "XYZZY"}]
            whole, asked = self._chat(turns), self._chat(turns[:1], ask=True)
            if "QUUX" not in asked:
                raise ValueError("it does not write what the user says")
            before, _, after = whole.rpartition("XYZZY")
            ends = [token for token in self.encode(after.lstrip())[:1] if token in self.special]
            closing = after[: len(after) - len(after.lstrip())] if ends else ""
            if before.startswith(asked):
                self.around = before.removeprefix(asked), closing
            elif asked.startswith(before) and THOUGHT in asked.removeprefix(before):
                self.around, self.opened = ("", closing), asked.removeprefix(before)
            else:
                self.notice = (
                    f"the chat template asks for an answer with {asked[-30:]!r}, which it does not write before an answer of a "
                    "conversation: responses are trained on right behind it"
                )
            if ends:
                return int(ends[0])
        if eos is None:
            raise UserError("the tokenizer has no end-of-sequence token")
        return int(eos)
