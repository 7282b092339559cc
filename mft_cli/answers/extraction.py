"""Finding the final answer in a completion, where answers are numbers; `mathematics` and `choices` build on it.

Order of extraction: the benchmark's own marker (the last one), the last \\boxed{}, "the answer is" / "final answer:" /
"answer:", then the last number where the benchmark allows it. Text after </think> is searched first.

A base model that has answered often goes on with a new question of its own, and its answer to that must not count. So
the completion is cut at the first line that opens a new turn (`NEW_TURN`: "Question:", "Q:", "### Instruction:",
"User:", "<|im_start|>user" ...) *behind an announced answer*; the last marker in front of the cut counts. A restated
question in front of the first answer cuts nothing.

Extraction of a number drops units, the percent sign among them, so a completion that ends in "#### 40%" is right for
the gold 40, as in every public GSM8K grader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from mft_cli.answers.numbers import NUMBER, UNSIGNED, clean, number_text, parse_number

MAX_CANDIDATE = 1000  # characters; a longer "answer" is none
MAX_TEXT = 200_000  # characters from the end that are searched; far more than a completion ever has
NEW_TURN = re.compile(
    r"^[ \t>*]{0,8}(?:(?:#{1,4} ?)?"
    r"(?:Question|Problem|Instruction|Input|User|Human|Q|Example|Exercise)\b ?\d{0,4} ?[:.]"
    r"|Below is an instruction\b|<\|im_start\|>\s?user|<\|user\|>|\[INST\]|<\|eot_id\|>)",
    re.MULTILINE | re.IGNORECASE,
)
PHRASE = re.compile(  # every repetition is bounded: "answer" a million times must stay linear
    r"\banswer[\s*]{0,5}(?:(?:is|was|equals|comes to)(?:\s{1,3}(?:that|therefore))?\b|[:=])[\s:*=]{0,10}", re.IGNORECASE
)
BOX = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\[{}]|[{}]")
SENTENCE_END = re.compile(r"(?<=[\w%)}$*\]])[.!?](?:\*\*)?(?=\s+[A-Z\\]|\s*$)|\s\((?=[A-Za-z])|(?<=[A-Za-z])\s\(|;\s")
ANY_NUMBER = re.compile(  # a minus counts only where no operand stands in front of it: 16-3 holds 16 and 3
    rf"(?:(?<![\w)\]}}.$])[-−](?=[$€£.\d]))?(?:[$€£]-?)?"
    rf"(?:\d++\s\d++/\d++|(?!\.)(?:{UNSIGNED})(?:\s?/\s?{UNSIGNED})?|(?<![.\w])\.\d++)"
)
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
MATH_WORDS = {"sqrt", "frac", "pi", "sin", "cos", "tan", "log", "ln", "exp", "cup", "cap", "infty", "infinity", "begin"}
CLOSING_TAG = re.compile(r"</?\w+>")


# ---- extraction -----------------------------------------------------------------------------------------------------


def extract(text: str, *, markers: Sequence[str] = ("####",), last_number: bool = True) -> str | None:
    """The final answer in a completion, without units, or None. Linear in the text's length; never raises."""
    return behind_thoughts(text, lambda part: _extract(part, markers, last_number))


def behind_thoughts(text: str, find: Callable[[str], str | None]) -> str | None:
    """What `find` finds behind </think>, else in all of the text (its last MAX_TEXT characters)."""
    text = text[-MAX_TEXT:]
    if "</think>" in text and (found := find(text.rpartition("</think>")[2])) is not None:
        return found
    return find(text)


def _extract(text: str, markers: Sequence[str], last_number: bool) -> str | None:
    text = cut_new_turn(text, markers)
    for announced, candidates in ((True, marked(text, markers)), (False, boxed(text)), (False, phrased(text))):
        for candidate in candidates:
            if (answer := _tidy(candidate)) is not None:
                return answer
            if announced and NUMBER.match(candidate.strip(" $*")):
                return candidate.strip()[:MAX_CANDIDATE]  # "5 hours 30 minutes" was meant, and is no number
    return number_at_the_end(text) if last_number else None


def cut_new_turn(text: str, markers: Sequence[str], *, numbers: bool = True) -> str:
    """The text up to the first line behind an announced answer that opens a new question.

    `numbers`: only what holds a number is an answer.
    """
    first = min((i for i in (_first_announcement(text, markers, numbers)) if i >= 0), default=-1)
    if first < 0:
        return text
    turn = NEW_TURN.search(text, first)
    return text[: turn.start()] if turn and text[first : turn.start()].strip() else text


def _first_announcement(text: str, markers: Sequence[str], numbers: bool) -> list[int]:
    """End positions of the first marker with something behind it, the first box and the first phrase; -1 for none."""
    places = []
    for marker in markers:
        found = re.search(re.escape(marker) + r"\s{0,20}" + (r"(?=[-$\\(+.\d*])" if numbers else r"(?=\S)"), text)
        places.append(found.end() if found else -1)
    said = PHRASE.pattern + (r"(?=[^\n]{0,200}\d)" if numbers else r"(?=\S)")
    for pattern in (r"\\boxed\s{0,3}\{", said):
        found = re.search(pattern, text, re.IGNORECASE)
        places.append(found.end() if found else -1)
    return places


def marked(text: str, markers: Sequence[str], *, whole: bool = False) -> list[str]:
    """What stands behind each marker, the last marker first: the rest of its line, or (`whole`) some text."""
    places = sorted({(m.end(), m.start()) for marker in markers for m in re.finditer(re.escape(marker), text)})
    behind = (text[end : end + 2 * MAX_CANDIDATE] for end, _ in reversed(places[-50:]))
    return [part.lstrip() if whole else rest_of_line(part) for part in behind]


def rest_of_line(text: str) -> str:
    """The rest of the line, or the next line if that is empty, up to a closing tag."""
    text = text.lstrip()
    return CLOSING_TAG.split(text.split("\n", 1)[0], maxsplit=1)[0]


def boxed(text: str) -> list[str]:
    """The content of the last closed \\boxed{}: one pass, however deep the braces are nested."""
    stack: list[int] = []
    last: tuple[int, int] | None = None
    for match in BOX.finditer(text) if "boxed" in text or "fbox" in text else ():
        token = match.group()
        if token == "}":
            start = stack.pop() if stack else -1
            if start >= 0:
                last = (start, match.start())
        elif token == "{":
            stack.append(-1)
        elif token[-1] == "{" and len(token) > 2:
            stack.append(match.end())
    return [text[last[0] : last[1]]] if last else []


def phrased(text: str) -> list[str]:
    return [rest_of_line(text[m.end() : m.end() + 2 * MAX_CANDIDATE]) for m in list(PHRASE.finditer(text))[-3:]][::-1]


def _tidy(candidate: str) -> str | None:
    """A candidate as an answer: its number if it holds exactly one, itself if it is mathematics, None for prose."""
    candidate = candidate.strip()
    if not candidate or len(candidate) > MAX_CANDIDATE:
        return None
    if (number := parse_number(candidate)) is not None:
        return number_text(number)
    sentence = SENTENCE_END.split(clean(candidate), maxsplit=1)[0].strip(" .:*")
    if (number := parse_number(sentence)) is not None:
        return number_text(number)
    if not has_prose(sentence):
        return sentence or None
    return only_number(sentence)


def only_number(sentence: str) -> str | None:
    """The number of a sentence that holds exactly one."""
    found = {m.group().strip() for m in ANY_NUMBER.finditer(sentence)}
    if len(found) == 1 and not re.match(r"(?:step|part|case|method|option)\b", sentence, re.IGNORECASE):
        number = parse_number(found.pop())
        return number_text(number) if number else None
    return None


def number_at_the_end(text: str) -> str | None:
    last = None
    for last in ANY_NUMBER.finditer(text):  # noqa: B007
        pass
    number = parse_number(last.group()) if last else None
    return number_text(number) if number else None


def has_prose(text: str) -> bool:
    """Whether words of a language stand in the text, LaTeX commands and function names aside."""
    return any(w.lower() not in MATH_WORDS for w in WORD.findall(re.sub(r"\\[a-zA-Z]+", " ", text)))
