r"""Finding the final answer in a completion, where answers are LaTeX or words; and exact text.

The order is that of `extraction`. What stands in a box is the answer as it is; what stands behind a marker or a phrase
ends with its sentence, and the mathematics at its beginning counts ("The answer is $\frac12$ since ..." gives \frac12).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from mft_cli.answers import extraction
from mft_cli.answers.latex import TEXT, tokens
from mft_cli.answers.numbers import clean, number_text, parse_number
from mft_cli.answers.units import unit_of

FORMULA = r"\$\$(?:\\.|[^$\\]){1,900}+\$\$|\$(?:\\.|[^$\\]){1,900}+\$|\\\(.{1,900}?\\\)|\\\[.{1,900}?(?<!\\)\\\]"
FORMULAS = re.compile(
    rf"(?:{FORMULA})(?:\s{{0,3}}(?:,|;|,?\s?and|,?\s?or|\\text\{{[^{{}}]*\}})?\s{{0,3}}(?:{FORMULA}))*+(?![\w$\\])",
    re.DOTALL,
)
DISPLAY = re.compile(
    r"\s*(?:\\\[.{1,1500}?(?<!\\)\\\]|\$\$[^$]{1,1500}\$\$|\\begin\{(\w+)\}.{1,1500}?\\end\{\1\})", re.DOTALL
)
LOOSE_BOX = re.compile(r"\\boxed\s{1,3}(\\?[\w.]{1,40})")
SHORT = 4  # words of an answer in words
LEAD = re.compile(
    r"(?:[:=\s]+|(?:that|therefore|thus|simply|just|exactly|only|equal to|given by)\b[\s:,]*){1,4}", re.IGNORECASE
)
QUOTES = "\"'“”‘’`*_ \t\n"


def extract_math(text: str, *, markers: Sequence[str] = ("####",), last_number: bool = True) -> str | None:
    """The final answer in a completion as LaTeX or words, or None. Linear in the text's length; never raises."""
    return extraction.behind_thoughts(text, lambda part: _extract(part, markers, last_number))


def _extract(text: str, markers: Sequence[str], last_number: bool) -> str | None:
    text = extraction.cut_new_turn(text, markers, numbers=False)
    for candidate in _candidates(text, markers):
        candidate = candidate.strip()
        if candidate and len(candidate) <= extraction.MAX_CANDIDATE:
            return _tidy(candidate)
    return extraction.number_at_the_end(text) if last_number else None


def _candidates(text: str, markers: Sequence[str]) -> Iterator[str]:
    for candidate in extraction.marked(text, markers, whole=True):
        yield sentence(extraction.CLOSING_TAG.split(candidate, maxsplit=1)[0])
    yield from extraction.boxed(text)
    yield from LOOSE_BOX.findall(text)[-1:]
    for match in list(extraction.PHRASE.finditer(text))[-3:][::-1]:
        behind = text[match.end() : match.end() + 2 * extraction.MAX_CANDIDATE]
        display = DISPLAY.match(behind)
        yield sentence(display.group() if display else behind)


def _tidy(answer: str) -> str:
    """A plain number in its canonical form (which drops a percent sign, as the number type does), else the text."""
    number = parse_number(answer)
    if number is None or re.search(r"[A-DF-Za-df-z]", answer.replace("frac", "").replace("boxed", "")):
        return answer
    return number_text(number)


def sentence(text: str) -> str:
    """The answer at the beginning of a text: its first formulas, or its first sentence; a long one's only number."""
    lead = LEAD.match(text)
    text = text[lead.end() if lead else 0 :].strip()
    first, formulas = _first_sentence(text), FORMULAS.match(text)
    number = parse_number(first)
    if formulas and not _has_prose(formulas.group().replace("$", " ")):
        if number == parse_number(formulas.group()) and not unit_of(first[formulas.end() :].strip()):
            return formulas.group()  # what stands behind is neither "million" nor a unit of measurement
        return formulas.group() if number is None else first
    if number is not None:
        return first
    if _has_prose(first) and len(first.split()) > SHORT:
        return extraction.only_number(first) or first
    return first


def _has_prose(text: str) -> bool:
    return extraction.has_prose(re.sub(r"\\(?:begin|end|operatorname)\{\w+\*?\}", "", TEXT.sub("", clean(text))))


def _first_sentence(text: str) -> str:
    """Up to a full stop outside of brackets that ends a sentence."""
    text = text if DISPLAY.match(text) else _line(text)
    for token, start, end, depth in tokens(text):
        ends = token == "." and depth <= 0 and re.match(r"(?:[*_$]{0,2})(?:\s+[A-Z]|\s*$)", text[end:])
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


def extract_text(text: str, *, markers: Sequence[str] = ("####",), one_line: bool = True) -> str | None:
    """The final answer in words: behind a marker, in a box, behind "the answer is", or (`one_line`) all of one line."""
    found = extract_math(text, markers=markers, last_number=False)
    if found is not None or not one_line:
        return found
    lines = [
        line for line in text[-extraction.MAX_TEXT :].rpartition("</think>")[2].strip().splitlines() if line.strip()
    ]
    return lines[0].strip() if len(lines) == 1 and len(lines[0]) <= extraction.MAX_CANDIDATE else None


def plain_text(text: str) -> str:
    """Text without what does not count: letter case, blanks, quotes, Markdown, LaTeX dress, a final full stop."""
    text = unicodedata.normalize("NFKC", clean(text)).casefold()
    return re.sub(r"\s+", " ", text).strip(QUOTES).rstrip(".!").strip(QUOTES)


def equal_text(*, gold: str, answer: str) -> bool:
    """Exact equality of two texts after `plain_text`."""
    return len(answer) <= extraction.MAX_CANDIDATE and bool(gold) and plain_text(gold) == plain_text(answer)
