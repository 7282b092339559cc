r"""Reading an answer that is LaTeX or words, where `extraction` says that one may stand; and exact text.

What stands in a box is the answer as it is. What follows a marker or an announcement ends with its sentence, and the
mathematics at its beginning counts ("The answer is $\frac12$ since ..." gives \frac12); no digit is torn out of it.
"""

from __future__ import annotations

import re
import unicodedata

from mft_cli.answers.announcements import MAX_CANDIDATE
from mft_cli.answers.extraction import BOX, WHOLE, Answer, Candidate, announcements, candidates, within
from mft_cli.answers.hedges import gives_up, is_remark
from mft_cli.answers.latex import TEXT, tokens
from mft_cli.answers.numbers import clean, number_text, parse_number
from mft_cli.answers.reading import LEAD, NO_LABEL, bold_value, has_prose, number_at, without_option
from mft_cli.answers.units import unit_of

FORMULA = r"\$\$(?:\\.|[^$\\]){1,900}+\$\$|\$(?:\\.|[^$\\]){1,900}+\$|\\\(.{1,900}?\\\)|\\\[.{1,900}?(?<!\\)\\\]"
FORMULAS = re.compile(
    rf"(?:{FORMULA})(?:\s{{0,3}}(?:,|;|,?\s?and|,?\s?or|\\text\{{[^{{}}]*\}})?\s{{0,3}}(?:{FORMULA}))*+(?![\w$\\])",
    re.DOTALL,
)
DISPLAY = re.compile(
    r"[\s*_]*(?:\\\[.{1,1500}?(?<!\\)\\\]|\$\$[^$]{1,1500}\$\$|\\begin\{(\w+)\}.{1,1500}?\\end\{\1\})", re.DOTALL
)
SHORT = 4  # words of an answer in words
UPRIGHT = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|operatorname)\s*\{[^{}]*\}")
VALUE_AT_END = re.compile(rf"(?:\b(?:is|are|equals|be)|=|:)\s+((?:\*\*)?(?:{FORMULA})(?:\*\*)?)[\s.*]*$", re.DOTALL)
QED = re.compile(r"[\s.]*(?:\$?\s*\\(?:blacksquare|square|Box|qed)\s*\$?|[∎■□◼]|Q\.?E\.?D\.?)[\s.]*$")
SAME = re.compile(r"(.{1,100}?),?\s(?:or|that is,?|i\.e\.,?)\s(.{1,100})", re.DOTALL)
VERDICT = re.compile(  # "Yes, Tom tells the truth", but not "yes, no, yes"
    r"[*\"“]*((?:yes|no|true|false|valid|invalid)\b)[*\"”]*\s*[,;:—–-]\s(?!.*\b(?:yes|no|true|false)\b)",
    re.IGNORECASE | re.DOTALL,
)
REMARK = re.compile(
    r",\s+(?:i\.e\.|that is\b|so\b|not\b|with\s[a-z]{2}|an?\s[a-z]{3})|,?\s+(?:since|because|where|whereas|which|namely|so that"
    r"|as (?:required|desired|claimed|expected|needed|we|it|the|this))\b"
    r"|\s\((?:or|that is|i\.e|approx|about|roughly|since|because|as|which|rounded|see|≈|~|=|\\approx|\$?[\d.]+\s?\\?%)"
)
SPOKEN = (  # an announced formula in words
    (re.compile(r"(?:the )?(?:positive )?square root of \$?(\d+|[a-z]|\\?pi)\$?", re.IGNORECASE), r"\\sqrt{\1}"),
    (re.compile(r"(?:the )?cube root of \$?(\d+|[a-z])\$?", re.IGNORECASE), r"\\sqrt[3]{\1}"),
    (re.compile(r"(\d+|[a-z]) squared", re.IGNORECASE), r"\1^2"),
    (re.compile(r"(\d+|[a-z]) cubed", re.IGNORECASE), r"\1^3"),
    (re.compile(r"\b(\d+) (?:times )?pi\b", re.IGNORECASE), r"\1\\pi"),
)
QUOTES = "\"'“”‘’`*_ \t\n"


def read_math(text: str, place: Candidate) -> Answer | None:
    """LaTeX, a number or a few words at a candidate."""
    if place.enclosed:
        return _enclosed(text, place)
    lead = LEAD.match(text, place.start, place.end)
    start = lead.end() if lead else place.start
    below = "\n" in text[place.start : start]
    raw = sentence(
        text[start : place.end].split("</", 1)[0] if "</" in text[start : place.end] else text[start : place.end]
    )
    end = text.find(raw, start) + len(raw) if raw else start
    if not raw or len(raw) > MAX_CANDIDATE or NO_LABEL.match(raw) or is_remark(raw):
        return None
    if _is_prose(raw):
        return _of_prose(text, place, raw, start, below)
    if below and place.heading and text[end:].strip():
        return None
    return _answer(raw, raw, text, place.source, start)


def _of_prose(text: str, place: Candidate, raw: str, start: int, below: bool) -> Answer | None:
    """An announced sentence: the formula that it ends with, the number that it begins with; else all of it."""
    if (value := VALUE_AT_END.search(raw)) is not None:
        return _answer(value[1], value[1], text, place.source, start)
    if (bold := bold_value(raw)) is not None:
        return _answer(*bold, text, place.source, start)
    number = number_at(raw) if re.match(r"[-−]?[$€£]?[\d.]", raw) else None
    if number is not None:  # a number, or an expression as it stands
        return _answer(*(number if parse_number(number[0]) else (raw, raw)), text, place.source, start)
    return (
        None if below or place.heading or len(raw.split()) > 4 * SHORT else _answer(raw, raw, text, place.source, start)
    )


def _answer(answer: str, raw: str, text: str, source: str, start: int, end: int | None = None) -> Answer | None:
    """`end`: where the candidate ends, for an answer that does not stand in the text as it was read."""
    at = text.find(raw.strip(), start)
    span = (at, at + len(raw.strip())) if at >= 0 else (start, end or start + len(raw.strip()))
    tidied = _tidy(answer.strip())
    return Answer(tidied, source, span) if tidied else None


def _enclosed(text: str, place: Candidate) -> Answer | None:
    """What stands in a box is the answer as it is; in a tag, what is boxed or announced there, else all of it."""
    part = place.content(text)
    if place.source != BOX or "nswer" in part:
        inner = announcements(part, 0, len(part)) if place.source == BOX else candidates(part, ())
        answers = (answer for c in inner if (answer := read_math(part, c)) is not None)
        if (first := next(answers, None)) is not None:
            return within(first, place)
    raw = part.strip() if place.source == BOX else sentence(part)
    return _answer(raw, raw, text, place.source, place.start, place.end) if 0 < len(raw) <= MAX_CANDIDATE else None


def _tidy(answer: str) -> str:
    """A plain number in its canonical form (which drops a percent sign, as the number type does), else the text."""
    spoken = answer = without_option(answer)
    for pattern, command in SPOKEN:
        spoken = pattern.sub(command, spoken) if pattern.fullmatch(spoken.strip(" .*")) else spoken
    answer = spoken.strip(" .*") if spoken != answer else answer
    number = parse_number(answer)
    if number is None or re.search(r"[A-DF-Za-df-z]", answer.replace("frac", "").replace("boxed", "")):
        return _leading_number(answer)
    return number_text(number)


def _leading_number(answer: str) -> str:
    r"""12 \text{ in 3 days}: the number before a remark that holds another number; else the text as it is."""
    match = re.fullmatch(
        r"(.*?)\s*\\text(?:bf|rm)?\s*\{\s*(?:in|for|per|every|out of|on|at|after|within)\b[^{}]*\d[^{}]*\}\s*", answer
    )
    number = parse_number(match[1]) if match else None
    return number_text(number) if number is not None else answer


def sentence(text: str) -> str:
    """The answer at the beginning of a text: its first formulas, else its first sentence."""
    lead = LEAD.match(text)
    text = text[lead.end() if lead and not DISPLAY.match(text) else 0 :].strip()
    first, formulas = without_remark(_first_sentence(text)), FORMULAS.match(text)
    number = parse_number(first)
    if formulas and not _has_prose(formulas.group().replace("$", " ")):
        if number == parse_number(formulas.group()) and not unit_of(first[formulas.end() :].strip()):
            return formulas.group()  # what follows is neither "million" nor a unit of measurement
        return formulas.group() if number is None else first
    return first


def without_remark(answer: str) -> str:
    r"""The answer without what is said about it: ", since x > 0", "(or 0.5)", \blacksquare."""
    answer = QED.sub("", answer)
    same = SAME.fullmatch(answer)
    if same is not None and (value := parse_number(same[1])) is not None and value == parse_number(same[2]):
        return same[1]
    if (verdict := VERDICT.match(answer)) is not None:
        return verdict[1]
    for match in REMARK.finditer(answer):
        before = answer[: match.start()].strip(" ,*_")
        whole = before.count("$") % 2 == 0 and before.count("{") == before.count("}")
        if before and whole and not (_has_prose(before) and len(before.split()) > SHORT):
            return before
    return answer


def _is_prose(text: str) -> bool:
    if parse_number(text) is not None or any(p.fullmatch(text.strip(" .*")) for p, _ in SPOKEN):
        return False
    return _has_prose(text) and len(text.split()) > SHORT


def _has_prose(text: str) -> bool:
    return has_prose(re.sub(r"\\(?:begin|end)\{\w+\*?\}", "", UPRIGHT.sub("", TEXT.sub("", _unwrapped(text)))))


def _unwrapped(text: str) -> str:
    """`clean` without the words of \\text{}, which are units and no prose."""
    return clean(UPRIGHT.sub(" ", text))


def _first_sentence(text: str) -> str:
    """Up to a full stop outside of brackets that ends a sentence."""
    text = text if DISPLAY.match(text) else _line(text).split("。", 1)[0]
    for token, start, end, depth in tokens(text):
        ends = token == "." and depth <= 0 and re.match(r"(?:[*_$]{0,2})(?:\s+(?:[A-Z$]|\\[(\[])|\s*$)", text[end:])
        if ends and (end == len(text) or not re.search(r"\b[a-zA-Z]\.[a-zA-Z]$", text[:start])):  # not inside p.m.
            return text[:start].strip(" *_")
    return text.strip(" *_").rstrip(".* ")


def _line(text: str) -> str:
    """The first line; a line break inside of brackets does not end it."""
    for token, start, _, depth in tokens(text):
        if token == "\n" and depth <= 0:
            return text[:start]
    return text


# ---- exact text -----------------------------------------------------------------------------------------------------


def lone_line(text: str) -> Answer | None:
    """A completion of one line is its answer."""
    line = text.strip()
    start = text.find(line)
    return (
        Answer(line, WHOLE, (start, start + len(line)))
        if line and "\n" not in line and len(line) <= MAX_CANDIDATE and not gives_up(line)
        else None
    )


def plain_text(text: str) -> str:
    """Text without what does not count: letter case, blanks, quotes, Markdown, LaTeX dress, a final full stop."""
    text = unicodedata.normalize("NFKC", clean(text)).casefold()
    return re.sub(r"\s+", " ", text).strip(QUOTES).rstrip(".!").strip(QUOTES)


def equal_text(*, gold: str, answer: str) -> bool:
    """Exact equality of two texts after `plain_text`."""
    return len(answer) <= MAX_CANDIDATE and bool(gold) and plain_text(gold) == plain_text(answer)
