r"""Where the final answer of a completion stands, for every answer type; `reading`, `mathematics` and `choices` read it.

The order (docs/scoring.md has it in ten lines):

1. Thoughts are not answers. What follows </think> is searched; a <think> that is still open has no answer at all.
2. A base model that has answered often goes on with a question of its own. The text is cut at the line that opens it
   ("Question:", "### Instruction:" ...), after a completed answer and never before the last marker.
3. The benchmark's markers: tags such as <answer>, then others such as "####". A marker of "#" alone is a Markdown
   heading where a box or an announcement follows it.
4. The last \boxed{}, then the last announcement ("the answer is", "Answer:", "答案是"), each if it can be read.
5. What the answer type falls back to: a letter, a lone line, the sentence that concludes; then the last box of the
   thoughts, and only then the last number.

Everything is linear in the text's length: every repetition is bounded, and at most MAX_TEXT characters are searched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mft_cli.answers.announcements import announced, keyed
from mft_cli.answers.numbers import separate_groups

MARKER, BOX, ANNOUNCEMENT, CONCLUSION, LAST_NUMBER, CHOICE, WHOLE = (
    "marker", "box", "announcement", "conclusion", "last_number", "choice", "whole_text",
)  # fmt: skip
MAX_TEXT = 200_000  # characters from the end that are searched; far more than a completion ever has
TRIES = 20  # candidates of a kind, from the last one on
THOUGHT = re.compile(  # a group holds what closes one: of Qwen and R1, OpenThinker, gpt-oss
    r"<(?:(/?)(?:think|thinking|thought)>|\|(?:begin|(end))_of_thought\|>|\|channel\|>(?:analysis|(final))<\|message\|>)",
    re.IGNORECASE,
)
NEW_TURN = re.compile(
    r"^[ \t>*]{0,8}(?:(?:#{1,4} ?)?"
    r"(?P<header>Question|Problem|Instruction|Input|User|Human|Q|Example|Exercise)\b ?\d{0,4} ?(?:\*\*)?[:.]"
    r"|#{1,4} ?(?P<title>Question|Problem|Exercise|Example) ?\d{0,4}[ \t]*$"
    r"|Below is an instruction\b|<\|im_start\|>\s?user|<\|user\|>|\[INST\]|<\|eot_id\|>)",
    re.MULTILINE | re.IGNORECASE,
)
BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\[{}]|[{}]")
LOOSE_BOX = re.compile(r"\\boxed\s{1,3}(\\?[\w.]{1,40})|<\|begin_of_box\|>([^|]{1,1000})<\|end_of_box\|>")  # GLM's too
BETWEEN = r"(?:\s|\\[ ,;:]|\\q?quad\b){0,8}"
JOINT = re.compile(  # from one box to the next of the same answer: "$x = \boxed{-2}$ and $x = \boxed{3}$"
    rf"\}}(?:\${{1,2}}|\\[)\]])?{BETWEEN}(?:[,;]?{BETWEEN}(?:\b(?:and|or|und|oder|et|ou|y|o|e)\b|\\text\{{\s?(?:and|or)\s?\}}|[和或与])|[,;])"
    rf"{BETWEEN}(?:\${{1,2}}|\\[(\[])?\s?(?:[A-Za-z](?:_\{{?\w\}}?)?\s?=\s?)?\\(?:boxed|fbox)\s{{0,3}}\{{"
)
BLANK = re.compile(r"[\s*_]*+")
NEXT_TURN = re.compile(  # what follows the end of a turn was not asked for
    r"(?<=\S)\s*(?:<\|(?:im_end|endoftext|end_of_text|eot_id|eom_id)\|>|<end_of_turn>|<｜end▁of▁sentence｜>|</s>(?=\s*(?:<s>|\[INST\]))|\[INST\])"
)
ENDING = re.compile(  # what a model or a chat program writes behind the end
    r"(?:\s|<\|(?:im_end|endoftext|end_of_text|eot_id|eom_id|end)\|>|</s>|<eos>|<end_of_turn>|<｜end▁of▁sentence｜>|[\U0001f000-\U0001faff\ufe0f\u200d])+\Z"
)


@dataclass(frozen=True)
class Candidate:
    """Where an answer may stand: the characters [start, end) of the text.

    `enclosed`: all of it is the answer (a box, a tag); else the answer stands at its beginning. `heading`: the marker is
    one of "#" alone. `escaped`: a string of JSON, in which a backslash is written twice.
    """

    source: str
    start: int
    end: int
    enclosed: bool = False
    heading: bool = False
    escaped: bool = False

    def content(self, text: str) -> str:
        part = text[self.start : self.end]
        part = JOINT.sub(" and ", part) if "box" in part and self.source == BOX else part
        return part.replace("\\\\", "\\") if self.escaped else part


@dataclass(frozen=True)
class Answer:
    """A final answer. `source`: how it was announced; `span`: the characters [start, end) of the text that were read."""

    text: str
    source: str
    span: tuple[int, int]


def within(answer: Answer | None, place: Candidate) -> Answer | None:
    """An answer that was read from a candidate's content: as the candidate's, and where it stands in the text."""
    if answer is None:
        return None
    span = (place.start, place.end) if place.escaped else (answer.span[0] + place.start, answer.span[1] + place.start)
    return Answer(answer.text, place.source, span)


Reader = Callable[[str, Candidate], Answer | None]
Fallback = Callable[[str], Answer | None]


def find(
    text: str,
    read: Reader,
    *,
    markers: Sequence[str] = (),
    fallback: Fallback | None = None,
    prompt: str | None = None,
) -> Answer | None:
    """The final answer of a completion, or None. Linear in the text's length; never raises.

    `read` reads one candidate and `fallback` a text that announces nothing. `prompt`: what was asked, if it is known:
    its own format says what opens a new question, and it may end in an open <think>.
    """
    offset = max(0, len(text) - MAX_TEXT)
    text = plain_blanks(text[offset:])
    thoughts = thoughts_end(text, prompt)
    if thoughts is None:
        return None
    start = thoughts[1]
    visible = cut_new_turn(text[start:], markers, read, prompt)
    answer = first_readable(visible, markers, read) or (fallback(visible) if fallback else None)
    if start and (answer is None or answer.source == LAST_NUMBER):
        boxed_thoughts = (a for c in boxes(text[: thoughts[0]]) if (a := read(text, c)) is not None)
        if (thought := next(boxed_thoughts, None)) is not None:
            return _moved(thought, offset)
    return _moved(answer, start + offset) if answer else None


def plain_blanks(text: str) -> str:
    """The text with plain blanks and line ends, digits grouped by commas, and no token or emoji behind its end.

    Every character that stays has its place.
    """
    text = separate_groups(text).replace("\r\n", " \n")
    if not text.isascii():
        text = text.replace("\u00a0", " ").replace("\ufeff", " ")
    if ("|>" in text or "[INST]" in text or "_turn>" in text) and (turn := NEXT_TURN.search(text)):
        text = text[: turn.start()]
    if text[-1:].isalnum() or text[-1:] in (".", "}", "$", "*", ")"):
        return text  # most do
    ending = ENDING.search(text, max(0, len(text) - 200))
    return text[: ending.start()] if ending else text


def _moved(answer: Answer, offset: int) -> Answer:
    return replace(answer, span=(answer.span[0] + offset, answer.span[1] + offset)) if offset else answer


def first_readable(text: str, markers: Sequence[str], read: Reader) -> Answer | None:
    return next((a for c in candidates(text, markers) if (a := read(text, c)) is not None), None)


# ---- thoughts and new turns -----------------------------------------------------------------------------------------


def thoughts_end(text: str, prompt: str | None = None) -> tuple[int, int] | None:
    """(start, end) of the last </think>, (0, 0) if there is no thought; None if a thought is still open.

    A prompt that ends in <think> has opened one.
    """
    last = None
    if "◁" in text:  # Kimi's
        text = text.replace("◁think▷", "<think>").replace("◁/think▷", "</think>")
    low = text.lower()
    if "<" in text and any(word in low for word in ("think", "thought", "channel")):
        for last in THOUGHT.finditer(text):  # noqa: B007
            pass
    if last is None:
        return None if _opens_thought(prompt) else (0, 0)
    return last.span() if any(last.groups()) else None


def without_thoughts(text: str, prompt: str | None = None) -> str:
    """What a reader of the answer sees: the text after </think>, "" while a thought is still open."""
    thoughts = thoughts_end(text, prompt)
    if thoughts is None:
        return ""
    return text[thoughts[1] :].lstrip("\n") if thoughts[1] else text


def _opens_thought(prompt: str | None) -> bool:
    return prompt is not None and prompt[-40:].rstrip().endswith(("<think>", "<thinking>", "<thought>", "◁think▷"))


def cut_new_turn(text: str, markers: Sequence[str], read: Reader, prompt: str | None = None) -> str:
    """The text up to the first line after a completed answer that opens a new question.

    The answer is completed by the first marker that can be read; without markers by the first box, else by the first
    announcement, and then, if the prompt is known, only a header of the prompt's own opens a question.
    """
    turns = list(NEW_TURN.finditer(text))
    if not turns:
        return text
    answer = _first_completed(text, markers, read)
    if answer is None:
        return text
    if answer.source != MARKER and prompt is not None:
        known = {_header(match) for match in NEW_TURN.finditer(prompt)}
        turns = [match for match in turns if _header(match) in known]
    end = next((match.start() for match in turns if match.start() >= answer.span[1]), len(text))
    return text[:end]


def _header(match: re.Match[str]) -> str:
    return (match["header"] or match["title"] or match.group()).casefold()


def _first_completed(text: str, markers: Sequence[str], read: Reader) -> Answer | None:
    """The first answer of the strongest kind that there is."""
    kinds = (marked(text, markers), boxes(text), announcements(text, 0, len(text)))
    for kind in kinds:
        answers = [answer for c in sorted(kind, key=lambda c: c.start) if (answer := read(text, c)) is not None]
        if answers:
            return answers[0]
    return None


# ---- candidates -----------------------------------------------------------------------------------------------------


def candidates(text: str, markers: Sequence[str]) -> Iterator[Candidate]:
    """All places where the answer may stand, the likeliest first. After a heading's marker what follows comes first."""
    headings = []
    for candidate in marked(text, markers):
        if candidate.heading:
            headings.append(candidate)
        else:
            yield candidate
    boxed_places, end = list(boxes(text)), len(text)
    for candidate in headings:
        yield from (box for box in boxed_places if candidate.start <= box.start < end)
        yield from announcements(text, candidate.start, end)
        yield candidate
        end = candidate.start
    yield from (box for box in boxed_places if box.start < end)
    yield from announcements(text, 0, end)


def marked(text: str, markers: Sequence[str]) -> list[Candidate]:
    """What follows each marker, the last marker first: up to the closing tag, or the rest of its line."""
    places: list[Candidate] = []
    for marker in markers:
        heading, tag = not marker.strip("#"), marker.startswith("<")
        start = text.rfind(marker)
        while start >= 0 and len(places) < TRIES * len(markers):
            begin = start + len(marker)
            whole = not heading or (text[begin : begin + 1] != "#" and text[start - 1 : start] != "#")
            if whole:
                end = _tag_end(text, begin, marker) if tag else line_end(text, begin)
                places.append(Candidate(MARKER, begin, end, enclosed=tag, heading=heading))
            start = text.rfind(marker, 0, start)
    return sorted(places, key=lambda place: -place.start)


def _tag_end(text: str, begin: int, tag: str) -> int:
    """Where a tag is closed; for one that is not, the end of its paragraph."""
    closing = text.find(f"</{tag[1:]}", begin)
    if closing < 0:
        closing = text.find("\n\n", begin)
    return len(text) if closing < 0 else closing


def line_end(text: str, begin: int) -> int:
    """The end of the line that `begin` is in, or of the next line with content if nothing follows on that line."""
    blank = BLANK.match(text, begin)
    end = text.find("\n", blank.end() if blank else begin)
    return len(text) if end < 0 else end


def boxes(text: str) -> Iterator[Candidate]:
    r"""The boxes of a text, the last first. Those that a sentence joins are one: "$\boxed{1}$ or $\boxed{2}$"."""
    joined: list[tuple[int, int]] = []
    for start, end in box_spans(text):
        if joined and JOINT.fullmatch(text, end, joined[-1][0]):
            end = joined.pop()[1]
        joined.append((start, end))
    yield from (Candidate(BOX, start, end, enclosed=True) for start, end in joined)


def box_spans(text: str) -> list[tuple[int, int]]:
    r"""(start, end) of what the closed \boxed{} hold, the last first, outer ones alone; `\boxed 5`, too. One pass."""
    if "box" not in text:
        return []
    stack: list[int] = []
    spans: list[tuple[int, int]] = []
    for match in BOX_TOKEN.finditer(text):
        token = match.group()
        if token == "}":
            start = stack.pop() if stack else -1
            if start >= 0:
                while spans and spans[-1][0] > start:
                    spans.pop()
                spans.append((start, match.start()))
        elif token == "{":
            stack.append(-1)
        elif token[-1] == "{" and len(token) > 2:
            stack.append(match.end())
    spans += [match.span(match.lastindex or 0) for match in LOOSE_BOX.finditer(text)][-TRIES:]
    return sorted((span for span in spans if text[slice(*span)].strip()), reverse=True)[:TRIES]


def boxed(text: str) -> list[str]:
    r"""What the boxes of a text hold, as it stands there, the last first."""
    return [text[start:end] for start, end in box_spans(text)]


def announcements(text: str, start: int, end: int) -> list[Candidate]:
    """What is announced between two places, the last announcement first."""
    places = [Candidate(ANNOUNCEMENT, *span) for span in announced(text, start, end)]
    places += [Candidate(ANNOUNCEMENT, *span, enclosed=True, escaped=True) for span in keyed(text, start, end)]
    return sorted(places, key=lambda place: -place.start)[:TRIES]
