"""Prompts: one renderer for training and evaluation, straight to token ids.

Prompt and response are tokenized apart and joined as ids, so the boundary is exact and the ids that a model is trained
after are the ids that it is asked with. There is exactly one beginning-of-sequence token, and only where the tokenizer
itself would add one or the chat template writes it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.data.conversations import Turn
from mft_cli.data.segments import Piece, Segment, apart, begins_with_blank, in_context
from mft_cli.errors import UserError, first_line

Choices = dict[str, str]  # letter -> text of the option, in the order shown


def unwritten(message: Turn, last: bool) -> list[str]:
    """Texts besides its content that a template has to write of a turn: tools' names, and the reasoning of the last turn."""
    calls = [call for call in message.get("tool_calls", []) if isinstance(call, dict)]
    names = [call.get("function", call).get("name") for call in calls if isinstance(call.get("function", call), dict)]
    reasoning = message.get("reasoning_content", "") if last else ""
    return [text for text in (*names, reasoning.strip()) if isinstance(text, str) and text]


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
        asked = self.asked(question, choices or {}, instruction, system if prompt.kind == "template" else None)
        if prompt.kind == "template":
            shots = [prompt.template.replace("{question}", s.question) + s.response for s in prompt.shots]
            return prompt.shot_separator.join([*shots, asked])
        opening = self._opening(system if system is not None else prompt.system)
        return self._chat([*opening, {"role": "user", "content": asked}], ask=True)

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
        """A question with its response."""
        return [Segment(self.prompt_text(question, system, choices)), self.response_segment(response, answer)]

    # ---- conversations ----

    def conversation(self, messages: list[Turn], loss_on: str) -> list[Segment]:
        """Segments of a conversation, cut from the text that the chat template makes of the whole of it.

        Every answer is verified: the text before it is what generation would be asked with at that point, and what stands
        between the two (an empty think block, a channel) is part of the answer, since the model has to write it. A template
        prompt takes one question with its answer. Raises ValueError, which names the turn, where a template does otherwise.
        """
        if self.prompt.kind != "chat":
            return self.one_turn(messages)
        for message in messages:
            self.check(message["content"])
        whole = self._chat(messages)
        self._check_is_written(messages, whole)
        answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        segments: list[Segment] = []
        done = 0  # characters of `whole` that are in segments
        for i in answers[-1:] if loss_on == "last" else answers:
            if messages[i].get("weight", 1) == 0:
                continue
            start = self._answer_start(messages, i, whole, done)
            end = self._answer_end(messages[i], whole, start)
            turn_end = self._turn_end(messages, i, whole, end)
            if messages[i].get("tool_calls"):
                end = self._calls_end(i, whole, end, turn_end)
            segments += [Segment(whole[done:start]), Segment(whole[start:end], True), Segment(whole[end:turn_end])]
            done = turn_end
        if not segments:
            raise ValueError("no answer is trained on (every assistant turn has weight 0)")
        return segments

    def one_turn(self, messages: list[Turn]) -> list[Segment]:
        """A conversation of one question and its answer under a template prompt. Raises ValueError for others."""
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

    def _check_is_written(self, messages: list[Turn], whole: str) -> None:
        """Raises ValueError for a turn whose text the template leaves out, as some do with tools and system turns."""
        at = 0
        for number, message in enumerate(messages, 1):
            content = message["content"].strip()
            at = whole.find(content, at)
            if at < 0:
                raise ValueError(
                    f"turn {number} ({message['role']}): the chat template does not write its text in its place"
                )
            at += len(content)
            for part in unwritten(message, last=number == len(messages)):
                if part not in whole:
                    raise ValueError(
                        f"turn {number} ({message['role']}): the chat template does not write {part[:40]!r} of its tool_calls or "
                        "reasoning_content; take a template that does with model.chat_template=FILE, or leave the field out"
                    )

    def _answer_start(self, messages: list[Turn], i: int, whole: str, done: int) -> int:
        """Where in `whole` the answer of turn i starts: after what generation is asked with. Raises ValueError."""
        if i:
            asked = self._chat(messages[:i], ask=True)
            if whole.startswith(asked):
                return len(asked)
            common = next(k for k, (a, b) in enumerate(zip(whole + "\0", asked + "\1", strict=False)) if a != b)
            raise ValueError(
                f"turn {i + 1} (assistant): the chat template asks for it with {asked[max(0, common - 20) :][:80]!r}, and writes "
                f"{whole[max(0, common - 20) :][:80]!r} in the whole conversation; give a template that writes the same with "
                "model.chat_template=FILE, set model.template_options, or train on the last answer alone (loss_on: last)"
            )
        start = whole.find(messages[0]["content"].strip(), done)  # a greeting: nothing was asked
        return start if start >= 0 else done

    def _answer_end(self, message: Turn, whole: str, start: int) -> int:
        """Where the text of an answer that starts at `start` ends. Raises ValueError."""
        content = message["content"].strip()
        # its first characters may stand in what generation is asked with (a template that opens <think>): the text that ends after it
        end = whole.find(content, max(0, start - len(content) + 1)) + len(content) if content else start
        if end < start:
            raise ValueError("the chat template does not write an answer's text where it is asked for")
        closing = self.around[1]  # Llama 2 writes a blank before its end token
        return end + len(closing) if whole.startswith(closing + self._end_token(), end) else end

    def _turn_end(self, messages: list[Turn], i: int, whole: str, end: int) -> int:
        """Where turn i, whose text ends at `end`, ends: where a conversation up to it does, else after its end token."""
        so_far = self._chat(messages[: i + 1])
        if whole.startswith(so_far):
            return len(so_far)
        following = messages[i + 1]["content"].strip() if i + 1 < len(messages) else ""
        stop = whole.find(following, end) if following else len(whole)
        closing = whole.find(self._end_token(), end, stop)
        return closing + len(self._end_token()) if closing >= 0 else end

    def _calls_end(self, i: int, whole: str, end: int, turn_end: int) -> int:
        """Where the tool calls behind the text of turn i end, with the token that the template writes behind them."""
        if turn_end == end:
            raise ValueError(f"turn {i + 1} (assistant): the chat template does not tell where its tool calls end")
        return end + len(whole[end:turn_end].rstrip())

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

    def _chat(self, messages: list[Turn], ask: bool = False) -> str:
        """The conversation as text. Raises TemplateError; ValueError for what the template's code fails on."""
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
        except (TypeError, AttributeError, KeyError, IndexError) as error:
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
            turns: list[Turn] = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "XYZZY"}]
            whole, asked = self._chat(turns), self._chat(turns[:1], ask=True)
            before, _, after = whole.rpartition("XYZZY")
            ends = [token for token in self.encode(after.lstrip())[:1] if token in self.special]
            if before.startswith(asked):
                self.around = before.removeprefix(asked), after[: len(after) - len(after.lstrip())] if ends else ""
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
