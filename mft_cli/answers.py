"""Final answers: finding one in a completion, and deciding whether it equals the gold answer.

Order of extraction: the benchmark's own marker (the last one), the last \\boxed{}, "the answer is" / "final answer:" /
"answer:", then the last number where the benchmark allows it. Text after </think> is searched first.

A base model that has answered often goes on with a new question of its own, and its answer to that must not count. So
the completion is cut at the first line that opens a new turn (`NEW_TURN`: "Question:", "Q:", "### Instruction:",
"User:", "<|im_start|>user" ...) *behind an announced answer*; the last marker in front of the cut counts. A restated
question in front of the first answer cuts nothing.

Equality of numbers is exact (see exact_numbers). A percent sign counts only where the gold has it: gold "40%" accepts
"40%" and "40", and never 0.4; gold "40" does not accept "40%". Extraction drops units, the percent sign among them, so
a completion that ends in "#### 40%" is right for the gold 40, as in every public GSM8K grader.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mft_cli.exact_numbers import NUMBER, UNSIGNED, Number, clean, parse_number

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
    text = text[-MAX_TEXT:]
    if "</think>" in text:
        behind = text.rpartition("</think>")[2]
        found = _extract(behind, markers, last_number)
        if found is not None:
            return found
    return _extract(text, markers, last_number)


def _extract(text: str, markers: Sequence[str], last_number: bool) -> str | None:
    text = cut_new_turn(text, markers)
    for announced, candidates in ((True, _marked(text, markers)), (False, _boxed(text)), (False, _phrased(text))):
        for candidate in candidates:
            if (answer := _tidy(candidate)) is not None:
                return answer
            if announced and NUMBER.match(candidate.strip(" $*")):
                return candidate.strip()[:MAX_CANDIDATE]  # "5 hours 30 minutes" was meant, and is no number
    return _last_number(text) if last_number else None


def cut_new_turn(text: str, markers: Sequence[str]) -> str:
    """The text up to the first line behind an announced answer that opens a new question."""
    first = min((i for i in (_first_announcement(text, markers)) if i >= 0), default=-1)
    if first < 0:
        return text
    turn = NEW_TURN.search(text, first)
    return text[: turn.start()] if turn and text[first : turn.start()].strip() else text


def _first_announcement(text: str, markers: Sequence[str]) -> list[int]:
    """End positions of the first marker with something behind it, the first box and the first phrase; -1 for none."""
    places = []
    for marker in markers:
        found = re.search(re.escape(marker) + r"\s{0,20}(?=[-$\\(+.\d*])", text)
        places.append(found.end() if found else -1)
    for pattern in (r"\\boxed\s{0,3}\{", PHRASE.pattern + r"(?=[^\n]{0,200}\d)"):
        found = re.search(pattern, text, re.IGNORECASE)
        places.append(found.end() if found else -1)
    return places


def _marked(text: str, markers: Sequence[str]) -> list[str]:
    """What stands behind each marker, the last marker first."""
    places = sorted({(m.end(), m.start()) for marker in markers for m in re.finditer(re.escape(marker), text)})
    return [_line(text[end : end + 2 * MAX_CANDIDATE]) for end, _ in reversed(places[-50:])]


def _line(text: str) -> str:
    """The rest of the line, or the next line if that is empty, up to a closing tag."""
    text = text.lstrip()
    return CLOSING_TAG.split(text.split("\n", 1)[0], maxsplit=1)[0]


def _boxed(text: str) -> list[str]:
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


def _phrased(text: str) -> list[str]:
    return [_line(text[m.end() : m.end() + 2 * MAX_CANDIDATE]) for m in list(PHRASE.finditer(text))[-3:]][::-1]


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
    found = {m.group().strip() for m in ANY_NUMBER.finditer(sentence)}
    if len(found) == 1 and not re.match(r"(?:step|part|case|method|option)\b", sentence, re.IGNORECASE):
        number = parse_number(found.pop())
        return number_text(number) if number else None
    return None


def _last_number(text: str) -> str | None:
    last = None
    for last in ANY_NUMBER.finditer(text):  # noqa: B007
        pass
    number = parse_number(last.group()) if last else None
    return number_text(number) if number else None


def number_text(number: Number) -> str:
    """A number as canonical text: an integer, a finite decimal, or a/b."""
    value = number.value
    if value.denominator == 1:
        return str(value.numerator)
    rest, places = value.denominator, 0
    while rest % 10 == 0 or rest % 2 == 0 or rest % 5 == 0:
        rest, places = rest // (10 if rest % 10 == 0 else 2 if rest % 2 == 0 else 5), places + 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def has_prose(text: str) -> bool:
    """Whether words of a language stand in the text, LaTeX commands and function names aside."""
    return any(w.lower() not in MATH_WORDS for w in WORD.findall(re.sub(r"\\[a-zA-Z]+", " ", text)))


# ---- equality -------------------------------------------------------------------------------------------------------


def equal_fast(*, gold: str, answer: str) -> bool | None:
    """Equality that can be decided at once; None where only math-verify can tell (see equal_slowly). Never slow."""
    gold, answer = gold.strip(), answer.strip()
    if not gold or not answer or len(answer) > MAX_CANDIDATE or "\0" in answer:
        return False
    wanted, found = parse_number(gold), parse_number(answer)
    if wanted is not None and found is not None:
        return wanted.value == found.value and (wanted.percent or not found.percent)
    if gold == answer:
        return True
    if has_prose(clean(answer)) or (wanted is not None and re.search(r"[,:;<>%]", clean(answer))):
        return False  # words, lists, intervals, times and inequalities are no number
    return None


def equal_slowly(*, gold: str, answer: str) -> bool:
    """Equality by math-verify, exact for numbers. May run for ever or exhaust memory: call it in a killable worker."""
    from mft_cli.symbolic import same_expression

    return same_expression(gold=gold, answer=answer)


def equal(*, gold: str, answer: str) -> bool:
    """Whether an answer equals the gold answer. Not symmetric. For answers that you trust: it has no time limit."""
    fast = equal_fast(gold=gold, answer=answer)
    return equal_slowly(gold=gold, answer=answer) if fast is None else fast
