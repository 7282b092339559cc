r"""Where the final answer of a completion stands, for every answer type; `reading`, `mathematics` and `choices` read it.

The order (docs/scoring.md has it in ten lines):

1. Thoughts are not answers. What follows </think> is searched; a <think> that is still open has no answer at all.
2. A base model that has answered often goes on with a question of its own. The text is cut at the line that opens it
   ("Question:", "### Instruction:" ...), after a completed answer and never before the last marker.
3. The benchmark's markers: tags such as <answer>, then others such as "####". A marker of "#" alone is a Markdown
   heading where a box or an announcement follows it.
4. The last \boxed{}, then the last announcement ("the answer is", "Answer:", "答案是"), each if it can be read.
5. The last box of the thoughts. 6. What the answer type falls back to: the last number, a letter, a lone line.

Everything is linear in the text's length: every repetition is bounded, and at most MAX_TEXT characters are searched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mft_cli.answers.numbers import separate_groups

MARKER, BOX, ANNOUNCEMENT, LAST_NUMBER, CHOICE, WHOLE = (
    "marker", "box", "announcement", "last_number", "choice", "whole_text",
)  # fmt: skip
MAX_CANDIDATE = 1000  # characters; a longer "answer" is none
MAX_TEXT = 200_000  # characters from the end that are searched; far more than a completion ever has
TRIES = 20  # candidates of a kind, from the last one on
THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought)>", re.IGNORECASE)
NEW_TURN = re.compile(
    r"^[ \t>*]{0,8}(?:(?:#{1,4} ?)?"
    r"(?P<header>Question|Problem|Instruction|Input|User|Human|Q|Example|Exercise)\b ?\d{0,4} ?(?:\*\*)?[:.]"
    r"|Below is an instruction\b|<\|im_start\|>\s?user|<\|user\|>|\[INST\]|<\|eot_id\|>)",
    re.MULTILINE | re.IGNORECASE,
)
BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\[{}]|[{}]")
LOOSE_BOX = re.compile(r"\\boxed\s{1,3}(\\?[\w.]{1,40})")
SAYS = r"(?:is|are|was|equals|becomes|(?:would|will|should|must)\sbe|comes\s(?:out\s)?to)\b"
# Both are for small letters; without re.IGNORECASE "ans" is a literal that re looks for quickly.
ENGLISH = re.compile(
    rf"ans(?:wers?)?(?:(?P<alone>[*_ \t]{{0,4}}$)|[\s*_]{{0,5}}"
    rf"(?:to\s(?:the|this|your)\s(?:\w{{1,20}}\s)?(?:question|problem|exercise)[\s*_]{{0,5}})?"
    rf"(?:{SAYS}|[:：=→]|->|\s[-–—](?=\s)))",
    re.MULTILINE,
)
HEAD = re.compile(r"[#>*_ \t]{0,8}(?:the |my )?(?:final )?")  # what may stand before the word on a line of its own
OTHERS = re.compile(
    r"(?:정답|답)은|(?:答案|答え|正解|정답|답|\b答)(?:应该|應該)?[\s*]{0,3}(?:是|为|為|は|就是|[:：=])"
    r"|\b(?:antwort|antwoord|svar(?:et)?|respuesta|resposta|risposta|r[ée]ponse|ответ|відповідь|odpowied[źz]|cevap|jawaban(?:nya)?)"
    r"\b[\s*]{0,3}(?:finale?\b|correcta\b|correct[ae]?\b)?[\s*]{0,3}"
    r"(?:(?:ist|lautet|is|är|er|es|é|è|est|to|равен|дорівнює|adalah)(?!\w)|[:：=—])"
    r"|(?:الإجابة|الجواب|उत्तर|উত্তর|คำตอบ)[\s*]{0,3}(?:النهائية|النهائي)?[\s*]{0,3}(?:هي|هو|है|হল|คือ|[:：=])"
)
STEMS = (
    "答", "正解", "정답", "답", "antwo", "svar", "respuesta", "resposta", "risposta", "réponse", "reponse", "ответ",
    "відповідь", "odpowied", "cevap", "jawaban", "إجابة", "جواب", "उत्तर", "উত্তর", "คำตอบ",
)  # fmt: skip
BLANK = re.compile(r"[\s*_]*+")


@dataclass(frozen=True)
class Candidate:
    """Where an answer may stand: the characters [start, end) of the text.

    `enclosed`: all of it is the answer (a box, a tag); else the answer stands at its beginning. `heading`: the marker is
    one of "#" alone.
    """

    source: str
    start: int
    end: int
    enclosed: bool = False
    heading: bool = False


@dataclass(frozen=True)
class Answer:
    """A final answer. `source`: how it was announced; `span`: the characters [start, end) of the text that were read."""

    text: str
    source: str
    span: tuple[int, int]


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
    text = separate_groups(text[offset:])
    thoughts = thoughts_end(text, prompt)
    if thoughts is None:
        return None
    start = thoughts[1]
    visible = cut_new_turn(text[start:], markers, read, prompt)
    answer = first_readable(visible, markers, read)
    if answer is None and start:
        answer = next((a for c in boxes(text[: thoughts[0]]) if (a := read(text, c)) is not None), None)
        start = start if answer is None else 0
    if answer is None and fallback is not None:
        answer = fallback(visible)
    return _moved(answer, start + offset) if answer else None


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
    if "<" in text:
        for last in THOUGHT.finditer(text):  # noqa: B007
            pass
    if last is None:
        return None if _opens_thought(prompt) else (0, 0)
    return last.span() if last[1] else None


def without_thoughts(text: str, prompt: str | None = None) -> str:
    """What a reader of the answer sees: the text after </think>, "" while a thought is still open."""
    thoughts = thoughts_end(text, prompt)
    if thoughts is None:
        return ""
    return text[thoughts[1] :].lstrip("\n") if thoughts[1] else text


def _opens_thought(prompt: str | None) -> bool:
    return prompt is not None and prompt[-40:].rstrip().endswith(("<think>", "<thinking>", "<thought>"))


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
    return (match["header"] or match.group()).casefold()


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
    r"""The contents of the closed \boxed{}, the last first, outer ones alone; `\boxed 5`, too. One pass."""
    if "boxed" not in text and "fbox" not in text:
        return
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
    spans += [match.span(1) for match in LOOSE_BOX.finditer(text)][-TRIES:]
    for start, end in sorted(spans, reverse=True)[:TRIES]:
        if text[start:end].strip():
            yield Candidate(BOX, start, end, enclosed=True)


def boxed(text: str) -> list[str]:
    r"""What the boxes of a text hold, as it stands there, the last first."""
    return [text[box.start : box.end] for box in boxes(text)]


def announcements(text: str, start: int, end: int) -> list[Candidate]:
    """What follows "the answer is", "Answer:" and their like between two places, the last announcement first."""
    part = text[start:end].lower()
    part = part if len(part) == end - start else text[start:end]  # a letter may become two
    ends = []
    if "ans" in part:
        ends += [start + m.end() for m in ENGLISH.finditer(part) if _is_word(part, m)]
    if any(stem in part for stem in STEMS):
        ends += [start + m.end() for m in OTHERS.finditer(part)]
    ends.sort(reverse=True)
    return [Candidate(ANNOUNCEMENT, place, min(end, place + 2 * MAX_CANDIDATE)) for place in ends[:TRIES]]


def _is_word(text: str, match: re.Match[str]) -> bool:
    """Whether "answer" is no part of another word, and stands alone on its line if nothing announces the answer."""
    start = match.start()
    if start and (text[start - 1].isalnum() or text[start - 1] == "\\"):
        return False
    return match["alone"] is None or HEAD.fullmatch(text, text.rfind("\n", 0, start) + 1, start) is not None
