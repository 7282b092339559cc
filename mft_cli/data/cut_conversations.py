"""Conversations cut into segments of the text that a chat template makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mft_cli.data.conversations import Turn
from mft_cli.data.segments import Segment

THOUGHT, THOUGHT_END = "<think>", "</think>"


def parts(content: str) -> list[str]:
    """An answer's thought and what follows it, each as far as there is some."""
    thought, _, answer = content.rpartition(THOUGHT_END)
    return [part for part in (thought.strip().removeprefix(THOUGHT).strip(), answer.strip()) if part]


def visible(message: Turn) -> str:
    """What a template has to write of a turn's text: the thought of an answer may be left out (it is looked for elsewhere)."""
    content = message["content"].strip()
    return content.rpartition(THOUGHT_END)[2].strip() if message["role"] == "assistant" else content


def unwritten(message: Turn, last: bool) -> list[str]:
    """Texts besides its content that a template has to write of a turn: tools' names, and the reasoning of the last turn."""
    calls = [call for call in message.get("tool_calls", []) if isinstance(call, dict)]
    names = [call.get("function", call).get("name") for call in calls if isinstance(call.get("function", call), dict)]
    reasoning = message.get("reasoning_content", "") if last else ""
    return [text for text in (*names, reasoning.strip()) if isinstance(text, str) and text]


@dataclass
class CutConversation:
    """A conversation, cut from the text that the chat template makes of the whole of it.

    Every answer is verified: the text before it is what generation would be asked with at that point, and what stands
    between the two (an empty think block, a channel) is part of the answer, since the model has to write it. An answer
    that the whole text holds otherwise (behind another text, without its thought) is the last turn of an example of its
    own. Raises ValueError, which names the turn, where neither can be.
    """

    messages: list[Turn]
    chat: Callable[..., str]  # (messages, ask=False): the template's text
    end_token: str
    closing: str  # what the template writes between an answer and its end token
    opened: str = ""  # the thought that a generation prompt opens, and a conversation does not hold

    def __post_init__(self) -> None:
        self.whole = self.chat(self.messages)
        self.asked: dict[int, str] = {}  # see _asked: a template is slow, and each answer is looked at more than once
        self._check_is_written()

    def examples(self, loss_on: str) -> list[list[Segment]]:
        """Context and answers in turn, of one example or more; `loss_on` is all, last or everything."""
        answers = [i for i, m in enumerate(self.messages) if m["role"] == "assistant"]
        trained = [
            i for i in (answers[-1:] if loss_on == "last" else answers) if self.messages[i].get("weight", 1) != 0
        ]
        if not trained:
            raise ValueError("no answer is trained on (every assistant turn has weight 0)")
        together = [i for i in trained if self._stands(i)]
        alone = [i for i in trained if i not in together]
        if alone and loss_on == "everything":
            raise ValueError(f"{self._difference(alone[0])}; loss_on: everything takes one text only")
        return ([self._segments(together)] if together else []) + [self._up_to(i)._last() for i in alone]

    def _segments(self, answers: list[int]) -> list[Segment]:
        segments: list[Segment] = []
        done = 0  # characters that are in segments
        for i in answers:
            start, end, turn_end = self._bounds(i, done)
            segments += [Segment(self.whole[done:start]), Segment(self.whole[start:end], loss_mask=True)]
            segments.append(Segment(self.whole[end:turn_end]))
            done = turn_end
        return segments

    # ---- an answer by itself ----

    def _up_to(self, i: int) -> CutConversation:
        return self if i + 1 == len(self.messages) else replace(self, messages=self.messages[: i + 1])

    def _last(self) -> list[Segment]:
        """The last answer behind what generation is asked with."""
        i = len(self.messages) - 1
        return self._segments([i]) if self._stands(i) else self._behind_opened(i)

    def _behind_opened(self, i: int) -> list[Segment]:
        """The last answer, which goes on with the thought that the generation prompt opens. Raises ValueError."""
        asked, content = self._asked(i), self.messages[i]["content"].strip()
        before = asked.removesuffix(self.opened)
        rest = self.whole.removeprefix(before).lstrip()
        written = next((text for text in (content, visible(self.messages[i])) if rest.startswith(text)), None)
        if not self.opened or not self.whole.startswith(before) or written is None:
            raise ValueError(
                f"{self._difference(i)}; give a template that writes the same with model.chat_template=FILE, set "
                "model.template_options, or leave the turn out with weight: 0"
            )
        if THOUGHT_END not in content:
            raise ValueError(
                f"turn {i + 1} (assistant): the chat template asks for an answer with an open {THOUGHT}, and this one has no "
                f"{THOUGHT_END}: a model would learn to leave the thought open; write the thought into the answer, or give a "
                "template that opens none with model.chat_template=FILE"
            )
        went_on = content.removeprefix(self.opened)
        if went_on == content and content.startswith(THOUGHT):
            went_on = content.removeprefix(THOUGHT).lstrip("\n")
        return [Segment(asked), Segment(went_on + self.closing, True), Segment(rest.removeprefix(written).lstrip())]

    # ---- an answer in the whole text ----

    def _asked(self, i: int) -> str:
        """What generation is asked with for turn i."""
        if i not in self.asked:
            self.asked[i] = self.chat(self.messages[:i], ask=True)
        return self.asked[i]

    def _stands(self, i: int) -> bool:
        """Whether the whole text holds the answer of turn i with its thought, behind what generation is asked with."""
        if not i:
            return True
        asked = self._asked(i)
        return self.whole.startswith(asked) and self._text_end(self.messages[i], len(asked)) >= 0

    def _bounds(self, i: int, done: int) -> tuple[int, int, int]:
        """Where in `whole` the answer of turn i, which stands there, starts and ends, and where the turn ends."""
        start = len(self._asked(i)) if i else self._greeting_start(done)
        end = self._answer_end(self.messages[i], start)
        turn_end = self._turn_end(i, end)
        if self.messages[i].get("tool_calls"):
            end = self._calls_end(i, end, turn_end)
        return start, end, turn_end

    def _check_is_written(self) -> None:
        """Raises ValueError for a turn whose text the template leaves out, as some do with tools and system turns."""
        at = 0
        for number, message in enumerate(self.messages, 1):
            content = visible(message)
            at = self.whole.find(content, at)
            if at < 0:
                raise ValueError(
                    f"turn {number} ({message['role']}): the chat template does not write its text in its place"
                )
            at += len(content)
            for part in unwritten(message, last=number == len(self.messages)):
                if part not in self.whole:
                    raise ValueError(
                        f"turn {number} ({message['role']}): the chat template does not write {part[:40]!r} of its tool_calls or "
                        "reasoning_content; take a template that does with model.chat_template=FILE, or leave the field out"
                    )

    def _difference(self, i: int) -> str:
        """How the whole text differs from what turn i is asked with."""
        asked = self._asked(i)
        common = next((k for k, (a, b) in enumerate(zip(self.whole + "\0", asked, strict=False)) if a != b), len(asked))
        return (
            f"turn {i + 1} (assistant): the chat template asks for it with {asked[max(0, common - 20) :][:80]!r}, and writes "
            f"{self.whole[max(0, common - 20) :][:80]!r} in the whole conversation"
        )

    def _greeting_start(self, done: int) -> int:
        """Where an answer to nothing starts."""
        start = self.whole.find(self.messages[0]["content"].strip(), done)
        return start if start >= 0 else done

    def _answer_end(self, message: Turn, start: int) -> int:
        """Where an answer that starts at `start` ends. Raises ValueError."""
        end = self._text_end(message, start)
        if end < 0:
            raise ValueError("the chat template does not write an answer's text where it is asked for")
        closing = self.closing  # Llama 2 writes a blank before its end token
        return end + len(closing) if self.whole.startswith(closing + self.end_token, end) else end

    def _text_end(self, message: Turn, start: int) -> int:
        """Where the text of an answer that starts at `start` ends, with its thought; -1 where it is not there."""
        content = message["content"].strip()
        if not content:
            return start
        # its first characters may stand in what generation is asked with (a template that opens <think>): the text that ends after it
        at = self.whole.find(content, max(0, start - len(content) + 1))
        end = at + len(content) if at >= 0 else -1
        if THOUGHT_END not in content:
            return end if end >= start else -1
        if end < start or self.end_token in self.whole[start:end]:  # a later turn may hold the same
            end = self._parts_end(content, start)
        return -1 if self.end_token in self.whole[start : max(start, end)] else end

    def _parts_end(self, content: str, start: int) -> int:
        """Where an answer ends whose thought the template writes in a form of its own; -1 where it is not there."""
        end = start
        for part in parts(content):
            at = self.whole.find(part, end)
            if at < 0:
                return -1
            end = at + len(part)
        return end

    def _turn_end(self, i: int, end: int) -> int:
        """Where turn i, whose text ends at `end`, ends: where a conversation up to it does, else after its end token."""
        so_far = self.chat(self.messages[: i + 1])
        if self.whole.startswith(so_far):
            return len(so_far)
        following = self.messages[i + 1]["content"].strip() if i + 1 < len(self.messages) else ""
        stop = self.whole.find(following, end) if following else len(self.whole)
        closing = self.whole.find(self.end_token, end, stop)
        return closing + len(self.end_token) if closing >= 0 else end

    def _calls_end(self, i: int, end: int, turn_end: int) -> int:
        """Where the tool calls behind the text of turn i end, with the token that the template writes behind them."""
        if turn_end == end:
            raise ValueError(f"turn {i + 1} (assistant): the chat template does not tell where its tool calls end")
        return end + len(self.whole[end:turn_end].rstrip())
