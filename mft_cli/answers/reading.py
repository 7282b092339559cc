r"""Reading a number where `extraction` says that one may stand, and the last number of a completion.

The number directly after the announcement is the answer, whatever follows it: "7 dozen eggs in 4 weeks" is 7,
"540 (3*3*60)" is 540, "18 / 2 = 9 dollars" is 9. What begins with a number and is none ("5 hours 30 minutes", "5 or 6",
3\pi) is the answer as it stands, so that no digit is torn out of it.

Units are dropped, the percent sign among them: "#### 40%" is right for the gold 40, as in every public GSM8K grader.
"""

from __future__ import annotations

import re
from functools import partial

from mft_cli.answers.announcements import MAX_CANDIDATE
from mft_cli.answers.extraction import (
    ANNOUNCEMENT,
    BOX,
    Answer,
    Candidate,
    Reader,
    first_readable,
    within,
)
from mft_cli.answers.hedges import is_remark
from mft_cli.answers.numbers import (
    CURRENCY,
    NOT_UNITS,
    SCALES,
    UNSIGNED,
    blank_groups,
    clean,
    number_text,
    parse_number,
)

SENTENCE_END = re.compile(r"(?<=[\w%)}$*\]])[.!?](?:\*\*)?(?=\s+[A-Z\\]|\s*$)|\s\((?=[A-Za-z])|(?<=[A-Za-z])\s\(|;\s")
ANY_NUMBER = re.compile(  # a minus counts only where no operand stands before it: 16-3 holds 16 and 3
    rf"(?:(?<![\w)\]}}.$])[-−](?=[$€£.\d]))?(?:[$€£]-?)?"
    rf"(?:\d++\s\d++/\d++|(?!\.)(?:{UNSIGNED})(?:\s?/\s?{UNSIGNED})?|(?<![.\w])\.\d++)"
)
LEAD = re.compile(
    r"(?:[\s:：=*_`\"'“”‘’~≈>→-]*?(?:\\approx|\\approxeq|\\simeq)?\s*"
    r"(?:\b(?:that|therefore|thus|hence|simply|just|exactly|only|indeed|then|now|clearly|definitely|obviously|certainly"
    r"|probably|approximately|about|around|roughly|nearly|donc|also|daher|somit|entonces|portanto|quindi|equal\sto|given\sby|a\stotal\sof|for\ssure|going\sto\sbe)\b)?"
    r"[\s:：,*_`]*){1,4}",
    re.IGNORECASE,
)
DIRECT = re.compile(
    rf"(?:[-+−–]\s?)?(?:{CURRENCY.pattern})?-?(?:\d++\s\d++/\d++|(?:{UNSIGNED})(?:\s?/\s?{UNSIGNED})?)", re.IGNORECASE
)
SCALE = re.compile(rf"\s?({'|'.join(SCALES)})\b(?!-)", re.IGNORECASE)
CALCULATION = re.compile(r"(?:[-+*/×÷^()\[\]\s\d.,$€£%−–·]|\\times|\\cdot|\\div){1,200}=\s*(?=[-$€£(\\*_\d.])")
LABEL = re.compile(  # words without a digit, then "is", "=" or a colon, then the number
    r"[^\d$\\=:：]{1,160}?(?:[=:：]|\b(?:is|are|was|were|equals|be|makes?|of)\b)[\s*_]{0,4}(?:about |approximately |exactly )?"
    r"(?=[-$€£(\\*_.]{0,3}\d)",
    re.IGNORECASE,
)
NO_LABEL = re.compile(r"[\s*_#(]*(?:step|part|case|method|option|problem|question|example|equation)\b", re.IGNORECASE)
RESULT = re.compile(  # "5 + 3 which is 8", "5 apples and 3 pears, 8 in total"
    rf"\b(?:which|that)\s(?:is|equals|makes)\s(?P<is>{DIRECT.pattern})|(?P<total>{DIRECT.pattern})(?:\s\w{{1,20}})?\s(?:in\stotal|altogether|in\sall)\b",
    re.IGNORECASE,
)
BREAKING = sorted(NOT_UNITS - {"of", "by", "if", "not", "but", "out", "than", "nor", "and", "or", "one", "n", "y", "z"})
NOT_THAT_NUMBER = re.compile(  # what makes "5 ..." something else than five
    r"\s*(?:[+*×÷^=·_]\s*[\d(\\$€£a-zA-Z]|[-/]\s*(?:[\d(\\$€£]|[a-zA-Z]\b)|\\(?!text|mathrm|mbox|,|;|!|:| |%|circ|[)\]])|[:,]\s?\$?\d|\.\d)"
    r"|\s*(?:[²³√π!])|\s*\^(?!\s*\{?\\circ)"
    rf"|\s?(?:{'|'.join(BREAKING)})\b"
    r"|[a-zA-Z]\b(?<![gmhsklLCFK])|[a-zA-Z]{1,3}\s?[-+*^=]"
    r"|\s*(?:[-–]\s?\d|(?:or|and|to|through)\s[$€£]?-?\d)"
    r"|\s(?:[\w$']{1,20}\s){1,4}?(?:and|or)\s(?:[$€£]?\d|half\b)"
    r"|\s?(?:hours?|hrs?|h|minutes?|min|days?|weeks?|months?|years?|feet|foot|ft|pounds?|lbs?|dollars?|meters?|yards?)"
    r"\b,?\s(?:and\s)?\d",
    re.IGNORECASE,
)
FORMULA = re.compile(r"\$[^$\n]{1,200}=[^$\n]{1,200}\$(?![\w$])|\\\(.{1,200}?\\\)")
DISPLAY = re.compile(r"(?:\$\$|\\\[)[ \t]*\n\s*")
TITLE = re.compile(
    r"\d{1,2}[.)]\s+(?:(?:Final )?Answer|Conclusion|Summary|Result|Solution|Verification|Check)\W*", re.IGNORECASE
)
ORDINAL_HEADING = re.compile(r"\s*(\d{1,2})[.)]\s+[^\W\d]")
MATH_WORDS = {"sqrt", "frac", "pi", "sin", "cos", "tan", "log", "ln", "exp", "cup", "cap", "infty", "infinity", "begin"}
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}|[^\W\d_A-Za-z\u0370-\u03ff]{2,}")  # Greek letters are mathematics
SPACE = r"(?:\\[ ,;:!]|~|\\q?quad\b|\s)*"
OPTION = re.compile(  # of a competition's answer: \textbf{(E) } 27, (E) 27, E) 27
    rf"\s*(?P<dollar>\$?)(?P<open>\\(?:text|textbf|textrm|mathrm|mathbf|mbox|bf|rm)\s*\{{)?\s*(?:\(?(?:[A-E]|\\text\{{[A-E]\}})\)|(?<=\{{)[A-E](?=:))[.:]?{SPACE}(?P<close>\}})?{SPACE}"
    r"(?(close)(?=[^\s,+=^_])(?!\\(?:cup|cap|times|cdot|to|text|mathrm)|\(?[A-E]\))"
    r"|(?=\$?[-−]?[$\d.]|\$?[-−]?\\(?:[dt]?frac|sqrt|pi|\$)|\$?\(-?\d))"
)
BEGINS_WITH_A_WORD = re.compile(r"[\s*_$]*[A-Za-z]{3,}")
BOLD = re.compile(r"(?<!\*)\*\*([^*\n]{1,200})\*\*(?!\*)")


def bold_value(sentence: str) -> tuple[str, str] | None:
    """The number of an announced sentence's only bold part: "Tom has **8 apples** left out of 11" is 8."""
    parts = BOLD.findall(sentence) if "**" in sentence else []
    reading = number_at(parts[0]) if len(parts) == 1 else None
    return (reading[0], parts[0]) if reading is not None and parse_number(reading[0]) is not None else None


def number_reader(*, loose: bool) -> Reader:
    """A reader of numbers. `loose`: the benchmark is one of word problems, so a sentence's only number is its answer."""
    return partial(_read, loose=loose)


def _read(text: str, place: Candidate, *, loose: bool) -> Answer | None:
    if place.enclosed:
        return _enclosed(text, place, loose)
    start, end = value_line(text, place)
    line = text[start:end]
    if not line or end - start > MAX_CANDIDATE or (place.heading and _is_heading(text, place, line, end)):
        return None
    if place.source == ANNOUNCEMENT and is_remark(line):
        return None
    below = place.source == ANNOUNCEMENT and "\n" in text[place.start : start]
    if below and text[end:].strip() and parse_number(line.strip("*_ ")) is None:
        return None  # a heading, and under it more than the answer
    announced = place.source == ANNOUNCEMENT and BEGINS_WITH_A_WORD.match(line)
    reading = (bold_value(line) if announced else None) or number_at(line)
    if reading is None and not has_prose(clean(line)):
        reading = line.strip(" .:*"), line  # mathematics
    if reading is None and loose and not place.heading:
        reading = only_number(SENTENCE_END.split(clean(line), maxsplit=1)[0])
    return _answer(text, place.source, (start, end), reading)


def _answer(text: str, source: str, span: tuple[int, int], reading: tuple[str, str] | None) -> Answer | None:
    """`reading`: (the answer, the words that it was read from, to be found in the span if they stand there as they are)."""
    if reading is None or not reading[0]:
        return None
    start = text.find(reading[1].strip(), *span)
    return Answer(reading[0], source, (start, start + len(reading[1].strip())) if start >= 0 else span)


def _enclosed(text: str, place: Candidate, loose: bool) -> Answer | None:
    """What stands in a box or a tag; all of it is the answer, even if it is not a number."""
    part = place.content(text)
    span = (place.start + len(part) - len(part.lstrip()), place.end - len(part) + len(part.rstrip()))
    if place.source != BOX and (inner := first_readable(part, (), partial(_read, loose=loose))) is not None:
        return within(inner, place)
    part = part.strip()
    if not part or len(part) > MAX_CANDIDATE:
        return None
    lines = [line for line in part.split("\n") if line.strip()]
    factorial = place.source == BOX and part.endswith("!")
    reading = None if factorial else number_at(part) or (number_at(lines[-1]) if len(lines) > 1 else None)
    if reading is None and not factorial and has_prose(clean(part)) and "\\" not in clean(part):
        reading = only_number(clean(part))
    return _answer(text, place.source, span, reading or (part, part))


def value_line(text: str, place: Candidate) -> tuple[int, int]:
    """The first line with content at a candidate, without the dress and the filling words before the value."""
    end = place.end
    lead = LEAD.match(text, place.start, end)
    start = lead.end() if lead else place.start
    display = DISPLAY.match(text, start, end)
    start = display.end() if display and place.source == ANNOUNCEMENT else start
    stop = text.find("\n", start, end)
    end = end if stop < 0 else stop
    closing = text.find("</", start, end)
    return start, end if closing < 0 else closing


def _is_heading(text: str, place: Candidate, line: str, end: int) -> bool:
    """Whether a "#### ..." heads a section: "Step 2: ...", "3. Conclusion" with text below, prose."""
    if NO_LABEL.match(line):
        return True
    numbered, below = ORDINAL_HEADING.match(line), text[end:].strip()
    if numbered:
        before = int(numbered[1]) - 1
        return (
            bool(below) or TITLE.fullmatch(line) is not None
            if before < 1
            else re.search(rf"#\s*{before}[.)]\s", text[: place.start]) is not None
        )
    return bool(below) and parse_number(line) is None and re.search(r"\d", below) is not None and _prose_first(line)


def _prose_first(line: str) -> bool:
    return BEGINS_WITH_A_WORD.match(line) is not None and LABEL.match(line) is None


# ---- numbers --------------------------------------------------------------------------------------------------------


def without_option(answer: str) -> str:
    r"""The value of a competition's answer without the letter of its option: 27 of \textbf{(E) } 27."""
    match = OPTION.match(answer) if ")" in answer else None
    if match is None:
        return answer
    rest = answer[match.end() :]
    return match["dollar"] + (rest.replace("}", "", 1) if match["open"] and not match["close"] else rest)


def number_at(line: str) -> tuple[str, str] | None:
    """(the number at the beginning of a line, what it was read from); None for prose.

    What begins with digits and is not a plain number comes back as it stands.
    """
    line = blank_groups(without_option(line))
    if (number := parse_number(line)) is not None:
        return number_text(number), line
    if (formula := FORMULA.match(line)) is not None and (number := parse_number(formula.group())) is not None:
        return number_text(number), formula.group()
    cleaned = clean(line)
    sentence = SENTENCE_END.split(cleaned, maxsplit=1)[0].strip(" .:*")
    if (number := parse_number(sentence)) is not None:
        return number_text(number), sentence
    for prefix in (CALCULATION, LABEL):
        if not NO_LABEL.match(cleaned) and (match := prefix.match(cleaned)) is not None:
            return number_at(cleaned[match.end() :].lstrip(" *_"))
    return _direct(cleaned, sentence)


def _direct(cleaned: str, sentence: str) -> tuple[str, str] | None:
    match = DIRECT.match(cleaned)
    if match is None:
        return None
    after = cleaned[match.end() :]
    if NOT_THAT_NUMBER.match(after):
        result = RESULT.search(sentence)
        return number_at(result["is"] or result["total"]) if result else (sentence, sentence)
    scale = SCALE.match(after)
    number = parse_number(match.group() + (scale.group() if scale else ""))
    return (number_text(number), match.group()) if number is not None else (sentence, sentence)


def only_number(sentence: str) -> tuple[str, str] | None:
    """The number of a sentence that holds exactly one, and the words it was read from."""
    numbers = {m.group().strip() for m in ANY_NUMBER.finditer(sentence)}
    if len(numbers) != 1 or NO_LABEL.match(sentence):
        return None
    raw = numbers.pop()
    number = parse_number(raw)
    return (number_text(number), raw) if number else None


def has_prose(text: str) -> bool:
    """Whether words of a language stand in the text, LaTeX commands and function names aside."""
    return any(w.lower() not in MATH_WORDS for w in WORD.findall(re.sub(r"\\[a-zA-Z]+", " ", text)))
