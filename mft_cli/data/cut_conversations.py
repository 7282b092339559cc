"""Conversations cut into segments of the text that a chat template makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mft_cli.data.conversations import Turn
from mft_cli.data.segments import Segment


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
    between the two (an empty think block, a channel) is part of the answer, since the model has to write it. Raises
    ValueError, which names the turn, where a template does otherwise.
    """

    messages: list[Turn]
    chat: Callable[..., str]  # (messages, ask=False): the template's text
    end_token: str
    closing: str  # what the template writes between an answer and its end token

    def __post_init__(self) -> None:
        self.whole = self.chat(self.messages)
        self._check_is_written()

    def segments(self, loss_on: str) -> list[Segment]:
        """Context and answers in turn; `loss_on` is all or last."""
        answers = [i for i, m in enumerate(self.messages) if m["role"] == "assistant"]
        segments: list[Segment] = []
        done = 0  # characters that are in segments
        for i in answers[-1:] if loss_on == "last" else answers:
            if self.messages[i].get("weight", 1) != 0:
                start, end, turn_end = self._bounds(i, done)
                segments += [Segment(self.whole[done:start]), Segment(self.whole[start:end], loss_mask=True)]
                segments.append(Segment(self.whole[end:turn_end]))
                done = turn_end
        if not segments:
            raise ValueError("no answer is trained on (every assistant turn has weight 0)")
        return segments

    def _bounds(self, i: int, done: int) -> tuple[int, int, int]:
        """Where in `whole` the answer of turn i starts and ends, and where the turn ends."""
        start = self._answer_start(i, done)
        end = self._answer_end(self.messages[i], start)
        turn_end = self._turn_end(i, end)
        if self.messages[i].get("tool_calls"):
            end = self._calls_end(i, end, turn_end)
        return start, end, turn_end

    def _check_is_written(self) -> None:
        """Raises ValueError for a turn whose text the template leaves out, as some do with tools and system turns."""
        at = 0
        for number, message in enumerate(self.messages, 1):
            content = message["content"].strip()
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

    def _answer_start(self, i: int, done: int) -> int:
        """Where in `whole` the answer of turn i starts: after what generation is asked with. Raises ValueError."""
        if i:
            asked = self.chat(self.messages[:i], ask=True)
            if self.whole.startswith(asked):
                return len(asked)
            common = next(k for k, (a, b) in enumerate(zip(self.whole + "\0", asked + "\1", strict=False)) if a != b)
            raise ValueError(
                f"turn {i + 1} (assistant): the chat template asks for it with {asked[max(0, common - 20) :][:80]!r}, and writes "
                f"{self.whole[max(0, common - 20) :][:80]!r} in the whole conversation; give a template that writes the same with "
                "model.chat_template=FILE, set model.template_options, or train on the last answer alone (loss_on: last)"
            )
        start = self.whole.find(self.messages[0]["content"].strip(), done)  # a greeting: nothing was asked
        return start if start >= 0 else done

    def _answer_end(self, message: Turn, start: int) -> int:
        """Where the text of an answer that starts at `start` ends. Raises ValueError."""
        content = message["content"].strip()
        # its first characters may stand in what generation is asked with (a template that opens <think>): the text that ends after it
        end = self.whole.find(content, max(0, start - len(content) + 1)) + len(content) if content else start
        if end < start:
            raise ValueError("the chat template does not write an answer's text where it is asked for")
        closing = self.closing  # Llama 2 writes a blank before its end token
        return end + len(closing) if self.whole.startswith(closing + self.end_token, end) else end

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
