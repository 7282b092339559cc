r"""Where a completion announces its answer: "the answer is", "Answer:", \textbf{Answer:}, {"answer": 12}, 答案是 ...

An announcement that is no statement ("if the answer is 5", "is the answer 5?") is none; `hedges` tells them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mft_cli.answers.hedges import is_asserted

MAX_CANDIDATE = 1000  # characters; a longer "answer" is none
MOST = 60  # announcements of a text, from the last one on
SAYS = r"(?:is|are|was|equals|becomes|(?:would|will|should|must)\sbe|comes\s(?:out\s)?to)\b"
CLOSED = r"(?:\s?\}|</\w{1,6}>)?"  # of \textbf{Answer:} and <b>Answer:</b>
# Both are for small letters; without re.IGNORECASE "ans" is a literal that re looks for quickly.
ENGLISH = re.compile(
    rf"ans(?:wers?)?(?:(?P<alone>[*_}} \t]{{0,4}}(?:$|\.[*_}} \t]{{1,4}}(?=\S)|\s[*_]{{0,2}}(?=-?[$\d][^a-z\n]{{0,40}}$)))"
    rf"|[\s*_]{{0,5}}(?:to\s(?:the|this|your)\s(?:\w{{1,20}}\s)?(?:question|problem|exercise)[\s*_]{{0,5}})?{CLOSED}"
    rf"(?:{SAYS}|[:：=→]|->|\s[-–—](?=\s)){CLOSED})",
    re.MULTILINE,
)
HEAD = re.compile(  # what may stand before the word on a line of its own
    r"(?:[#>*_ \t]|\\text(?:bf|it|rm)?\{|<\w{1,6}>){0,8}(?:the |my )?(?:final )?"
)
OTHERS = re.compile(
    r"(?:정답|답)은|(?:答案|答え|正解|정답|답|\b答)(?:应该|應該)?[\s*]{0,3}(?:是|为|為|は|就是|[:：=])"
    r"|\b(?:antwort|antwoord|svar(?:et)?|respuesta|resposta|risposta|r[ée]ponse|ответ|відповідь|odpowied[źz]|cevap|jawaban(?:nya)?)"
    r"\b[\s*]{0,3}(?:finale?\b|correcta\b|correct[ae]?\b|corrett?[ao]\b)?[\s*]{0,3}"
    r"(?:(?:ist|lautet|is|är|er|es|é|è|est|to|равен|дорівнює|adalah)(?!\w)|[:：=—])"
    r"|(?:الإجابة|الجواب|उत्तर|উত্তর|คำตอบ)[\s*]{0,3}(?:النهائية|النهائي)?[\s*]{0,3}(?:هي|هو|है|হল|คือ|[:：=])"
)
STEMS = (
    "答", "正解", "정답", "답", "antwo", "svar", "respuesta", "resposta", "risposta", "réponse", "reponse", "ответ",
    "відповідь", "odpowied", "cevap", "jawaban", "إجابة", "جواب", "उत्तर", "উত্তর", "คำตอบ",
)  # fmt: skip
ASCII_STEMS = tuple(stem for stem in STEMS if stem.isascii())
KEYED = re.compile(  # a field of JSON, or of what a model takes for JSON
    r"""["'](?:(?:final|correct)[ _]?)?answer["']\s{0,4}:\s{0,4}"""
    r"""(?:"(?P<text>(?:\\.|[^"\\\n]){1,900})"|'(?P<quoted>[^'\n]{1,900})'|(?P<list>\[[^\[\]\n]{1,900}\])|(?P<bare>(?!null|none|nan)[^\s"',}\[{][^,}\n]{0,200}))""",
    re.IGNORECASE,
)


def announced(text: str, start: int, end: int, *, asserted: bool = True) -> Iterator[tuple[int, int]]:
    """(start, end) of what follows the announcements between two places, the last first; or of those that state nothing."""
    part = text[start:end].lower()
    part = part if len(part) == end - start else text[start:end]  # a letter may become two
    matches = [m for m in ENGLISH.finditer(part) if _is_word(part, m)] if "ans" in part else []
    if any(stem in part for stem in (ASCII_STEMS if part.isascii() else STEMS)):
        matches += OTHERS.finditer(part)
    for match in sorted(matches, key=lambda m: -m.end())[:MOST]:
        if is_asserted(part, match.start(), match.end()) is asserted:
            place = start + match.end()
            yield place, _end(text, place, min(end, place + 2 * MAX_CANDIDATE))


def keyed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the values of "answer" in JSON between two places."""
    if 'nswer"' in text or "nswer'" in text:
        yield from (match.span(match.lastgroup or 0) for match in KEYED.finditer(text, start, end))


def _end(text: str, place: int, end: int) -> int:
    r"""Where the bracket is closed that the announcement stands in (\textbf{Answer: 12}); else `end`."""
    line = text.find("\n", place, end)
    depth, brace = 0, text.find("}", place, end if line < 0 else line)
    if brace < 0:
        return end
    for position in range(place, end if line < 0 else line):
        if text[position] in "{}" and text[position - 1] != "\\":
            depth += 1 if text[position] == "{" else -1
        if depth < 0:
            return position
    return end


def _is_word(text: str, match: re.Match[str]) -> bool:
    """Whether "answer" is no part of another word, and begins its line if nothing announces the answer."""
    start = match.start()
    if start and (text[start - 1].isalnum() or text[start - 1] == "\\"):
        return False
    return match["alone"] is None or HEAD.fullmatch(text, text.rfind("\n", 0, start) + 1, start) is not None
