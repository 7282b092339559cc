"""Plain numbers in answers, read exactly: "1,000", "$18.00", "\\frac12", "2 1/2", "x = 5", "18 dollars".

Everything becomes a `fractions.Fraction`, so that equality needs no tolerance. What is not plainly one number is None:
"1,2" is a list, "1:30" a time, "5x" an expression, "5 hours 30 minutes" two numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 300  # longer texts are no plain answer; Python refuses integers of more than 4,300 digits anyway

_DIGITS = r"(?:\d{1,3}(?:,\d{3})++(?![\d,])|\d++)"
UNSIGNED = rf"(?:{_DIGITS}(?:\.\d++)?(?:[eE][-+]?\d{{1,3}}(?![\w.]))?|\.\d++)"
SIMPLE = re.compile(r"-?\d{1,100}")
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s?(?:(?P<whole>{_DIGITS})\s(?P<top>\d+)/(?P<bottom>\d+)"  # 2 1/2
    rf"|(?P<over>{UNSIGNED})\s?/\s?(?P<under>{UNSIGNED})"  # 3/4
    rf"|(?P<plain>{UNSIGNED})\.?)"
)
CURRENCY = re.compile(r"(?:(?:US|CA|AU|A|C|NZ|HK)?\$|[€£¥₹₽₩]|(?:USD|EUR|GBP|INR|Rs)\b\.?)\s?")
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "k": 10**3}
ONE_LETTER_UNITS = {"g", "m", "h", "s", "l", "L"}
# words that make the text before them something else than that number
NOT_UNITS = {
    "pi", "i", "e", "x", "y", "z", "n", "and", "or", "plus", "minus", "times", "over", "by", "to", "of", "point",
    "squared", "cubed", "factorial", "half", "halves", "third", "thirds", "quarter", "quarters", "fourth", "fourths",
    "fifth", "fifths", "sixth", "sixths", "seventh", "sevenths", "eighth", "eighths", "ninth", "ninths", "tenth",
    "tenths", "hundredths", "remainder", "r", "mod", "sqrt", "root", "if", "not", "but", "out", "choose", "than",
    "nor", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
}  # fmt: skip
UNIT = re.compile(r"(?P<glued>[A-Za-z°]+)?(?P<words>(?:[\s/-]+[A-Za-z°'’.²³]+)*+)[.\s]*")
MATH_UNIT = re.compile(r"\s*(?:\^\s*\{?\\circ\}?|\\circ|°)\s*$")
VULGAR = str.maketrans({"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "⁄": "/"})
PLAIN_CHARS = str.maketrans({
    "−": "-", "–": "-", "﹣": "-", "－": "-", "＋": "+", "，": ",", "．": ".", "％": "%", "＄": "$", "\u00a0": " ",
    "\u2009": " ", "\u202f": " ", "\t": " ", "\n": " ", "\r": " ",
})  # fmt: skip
GROUPED = re.compile(r"(?<=\d)[\u00a0\u2007\u2008\u2009\u200a\u202f](?=\d{3}(?!\d))")
BLANK_GROUPED = re.compile(r"[-−]?[$€£]?[1-9]\d{0,2}(?: \d{3})+(?![\d/])")
EMOJI = re.compile("\\s*[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\ufe0f\u200d]+")
FRAC = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
TEXT = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|rm|bf|boxed|fbox|operatorname)\s*\{([^{}]*)\}")
WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("`", "`"),
    ("__", "__"),
    ("*", "*"),
)


@dataclass(frozen=True)
class Number:
    """An exact value. `percent`: a percent sign stood after it (the value is the number before the sign)."""

    value: Fraction
    percent: bool = False


def parse_number(text: str) -> Number | None:
    """The one number that `text` plainly is, or None. Never raises; never slow (texts over MAX_CHARS are None)."""
    text = text.strip()
    if SIMPLE.fullmatch(text):
        return Number(Fraction(int(text)))
    if not text or len(text) > MAX_CHARS:
        return None
    return _read(_right_side(clean(blank_groups(text))))


def clean(text: str) -> str:
    """The text without LaTeX and Markdown dress: wrappers, \\text{}, spacing commands, odd dashes, \\frac as a/b."""
    if not text.isascii():
        text = without_emoji(separate_groups(text)).translate(PLAIN_CHARS)
    text = text.strip()
    if "\\" not in text and "~" not in text and "{,}" not in text:  # most are no LaTeX
        text = MATH_UNIT.sub("", _unwrap(_unwrap(_unwrap(text)))).translate(VULGAR)
        return re.sub(r" {2,}", " ", text).strip()
    text = re.sub(r"\{,\}|\\!", lambda m: "," if m.group() == "{,}" else "", text)
    text = re.sub(r"(?<=\d)\\,(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"\\[,;: ]|~|\\q?quad\b|\\left\b|\\right\b", " ", text)
    text = text.replace(r"\$", "$").replace(r"\%", "%")
    for _ in range(3):  # a box in bold in dollars
        text = TEXT.sub(r"\1", _unwrap(text))
        text = FRAC.sub(_fraction_text, text)
    text = MATH_UNIT.sub("", text).translate(VULGAR)
    return re.sub(r" {2,}", " ", text).strip()


def separate_groups(text: str) -> str:
    """Digits grouped by no-break and thin blanks (12 345) with commas instead; the length stays."""
    return text if text.isascii() else GROUPED.sub(",", text)


def blank_groups(text: str) -> str:
    """A text that begins with digits in groups of three between plain blanks (10 080) with commas instead."""
    match = BLANK_GROUPED.match(text) if " " in text else None
    return match.group().replace(" ", ",") + text[match.end() :] if match else text


def without_emoji(text: str) -> str:
    return EMOJI.sub("", text)


def _unwrap(text: str) -> str:
    text = text.strip()
    for opening, closing in WRAPPERS:
        if text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)].strip()
            text = inner if inner and opening not in inner else text
    return text


def _fraction_text(match: re.Match[str]) -> str:
    top, bottom = match[1] or match[2] or "", match[3] or match[4] or ""
    plain = re.fullmatch(rf"\s*{UNSIGNED}\s*", top) and re.fullmatch(rf"\s*{UNSIGNED}\s*", bottom)
    before = match.string[match.start() - 1] if match.start() else ""
    if not plain or (before and before not in " -+$=("):
        return match.group() if not plain or not before.isdigit() else f" {top.strip()}/{bottom.strip()}"
    return f"{top.strip()}/{bottom.strip()}"


def _right_side(text: str) -> str:
    """What stands after the last single equals sign: the answer of "x = 5" and of "2 + 3 = 5"."""
    before, equals, after = text.rpartition("=")
    if equals and not before.strip():
        return after.strip()
    if not equals or before[-1] in "<>!=≤≥" or re.search(r"[<>≤≥]|\\[lgn]e[q]?\b", before):
        return text
    return after.strip()


def _read(text: str) -> Number | None:
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1].strip()
    text = re.sub(rf"^([-+]?)\s?{CURRENCY.pattern}", r"\1", text, count=1)
    match = NUMBER.match(text)
    if match is None:
        return None
    value = _value(match)
    rest = text[match.end() :].strip() if text[match.end() :].isspace() else text[match.end() :]
    if value is None:
        return None
    if percent := re.match(r"\s?(?:%|per ?cent\b)", rest):
        rest = rest[percent.end() :]
    else:
        rest = re.sub(rf"^\s?{CURRENCY.pattern}", "", rest, count=1)
    scale = _scale_of_unit(rest)
    if scale is None or (percent and scale != 1):
        return None
    return Number(value * scale, bool(percent))


def _value(match: re.Match[str]) -> Fraction | None:
    part = {k: v.replace(",", "") for k, v in match.groupdict(default="").items()}
    if part["whole"]:
        bottom = int(part["bottom"])
        value = Fraction(int(part["whole"])) + Fraction(int(part["top"]), bottom) if bottom else None
    elif part["over"]:
        under = Fraction(part["under"])
        value = Fraction(part["over"]) / under if under else None
    else:
        value = Fraction(part["plain"])
    return -value if value is not None and part["sign"] == "-" else value


def _scale_of_unit(rest: str) -> int | None:
    """1 for nothing or a unit after the number, 1000 for "thousand ...", None if the text is not a unit."""
    if not rest or rest in (".", ";"):
        return 1
    match = UNIT.fullmatch(rest)
    if match is None:
        return None
    glued, words = match["glued"] or "", [w.strip(".'’") for w in re.split(r"[\s/-]+", match["words"]) if w]
    if glued in ("k", "K") and not words:
        return SCALES["k"]
    if len(glued) == 1 and glued not in ONE_LETTER_UNITS and glued != "°":
        return None
    everything = ([glued] if glued else []) + words
    if any(w.lower() in NOT_UNITS for w in everything):
        return None
    first = words[0] if words and not glued else glued
    if len(first) == 1 and first not in ONE_LETTER_UNITS and first not in ("°", "C", "F"):
        return None
    if first != "k" and first.lower() in SCALES:
        return SCALES[first.lower()] if not any(w.lower() in SCALES for w in everything[1:]) else None
    return None if any(w.lower() in SCALES for w in everything) else 1


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
