r"""LaTeX answers as plain text that can be taken apart: one spelling for each command, no dollars, no spacing.

Nothing here knows what an answer means; `forms` does. Everything is linear or bounded by MAX_CHARS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mft_cli.answers.numbers import PLAIN_CHARS, separate_groups, without_emoji

UNICODE = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ",
    "°": r"^\circ ", "²": "^2", "³": "^3", "⁴": "^4", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "ℝ": r"\mathbb{R}",
    "∅": r"\emptyset ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∠": r"\angle ",
    "→": r"\to ",
}  # fmt: skip
SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "geq": "ge",
    "geqslant": "ge", "geqq": "ge", "leq": "le", "leqslant": "le", "leqq": "le", "neq": "ne", "lt": "<", "gt": ">",
    "infin": "infty", "R": "mathbb{R}", "reals": "mathbb{R}", "bold": "mathbf", "varnothing": "emptyset",
    "backslash": "setminus", "textrm": "text", "textbf": "text", "textit": "text", "textsf": "text", "mbox": "text",
    "hbox": "text", "mathrm": "text", "mathbf": "text", "mathit": "text", "textnormal": "text", "mathsf": "text",
    "bmod": "mod", "ast": "cdot", "degree": "circ", "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]",
    "longrightarrow": "to", "rightarrow": "to", "bar": "overline", "colon": ":",
}  # fmt: skip
IGNORED = {
    "displaystyle", "textstyle", "limits", "nolimits", "quad", "qquad", "thinspace", "left", "right", "big", "Big",
    "bigl", "bigr", "Bigl", "Bigr", "bigg", "Bigg", "biggl", "biggr", "middle", "hfill", "thickspace", "mathstrut", "boxed", "fbox",
    "framebox",
}  # fmt: skip
UNICODE_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[a-z]))")
ROOT_IN_BRACKETS = re.compile(r"\\sqrt\s*\(([^()]*)\)")
COMMAND = re.compile(r"\\([A-Za-z]+)\s?")
TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
TEXT_QUOTIENT = re.compile(r"\\text\s*\{([A-Za-z ]+)\}\s*/\s*\\text\s*\{([A-Za-z ]+)\}")
LETTERS = re.compile(r"[\s(]*[A-Z](?:\s*(?:,|,? and )\s*[A-Z])*[\s).]*")  # "(C)", "A, C and F"
CONJUNCTION = re.compile(r"\s*,?\s*(?:and|or)\s*,?\s*")
BARE_CONJUNCTION = re.compile(r",?(?<![\\A-Za-z{])\s*\b(?:and|or)\b(?![A-Za-z])\s*,?")
TOKEN = re.compile(r"\\begin\{\w+\*?\}|\\end\{\w+\*?\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
OPENING = {"(", "[", "{", r"\{", r"\lfloor", r"\lceil", r"\langle", r"\lvert", r"\lVert", r"\lbrace"}
CLOSING = {")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\rangle", r"\rvert", r"\rVert", r"\rbrace"}


def plain(text: str) -> str:
    r"""The text in one spelling: `\dfrac` as `\frac`, `\mbox` as `\text`, `10,\!080` as 10080, `\text{ and }` as a comma."""
    if not text.isascii():
        text = without_emoji(separate_groups(text)).translate(PLAIN_CHARS)
        text = UNICODE_ROOT.sub(_root, text)
        for sign, command in UNICODE.items():
            text = text.replace(sign, command)
    else:
        text = text.translate(PLAIN_CHARS)
    text = ROOT_IN_BRACKETS.sub(r"\\sqrt{\1}", text)
    text = _join_thousands(text.strip())
    text = re.sub(r"\\\$|(?<!\\)\\%", lambda m: " " if m.group() == r"\$" else "%", text)
    text = re.sub(r"\$\s*[,;]\s*\$", ", ", text).replace("$", " ")
    text = re.sub(r"\\(?:left|right)\s*\.", " ", text)  # an invisible bracket
    text = COMMAND.sub(_command, text)
    text = re.sub(r"(?<!\\)\\(?:[,;:! \[\]()]|$)", " ", text)
    text = text.replace("~", " ").replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")
    text = re.sub(r"\*\*(?=[\w({-])", "^", text.strip(" *`_\n")).replace("==", "=")
    text = TEXT_QUOTIENT.sub(r"\\text{\1/\2}", text)
    text = BARE_CONJUNCTION.sub(" , ", TEXT.sub(_words, text))
    return re.sub(r"\s+", " ", text).strip()


def _root(match: re.Match[str]) -> str:
    return rf"\sqrt{{{match[1] or match[2] or match[3]}}}"


def _join_thousands(text: str) -> str:
    text = re.sub(r"(?<=\d)\{,\}\s?(?=\d{3})|(?<=\d),?\s*\\[!,]\s*(?=\d{3}(?!\d))", "", text)
    return re.sub(r"\\!", "", text)


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name in IGNORED:
        return " " if match.group()[-1].isspace() else ""
    name = SYNONYMS.get(name, name)
    return name if name in "<>[]:" else f"\\{name}" + (" " if match.group()[-1].isspace() and name != "text" else "")


def _words(match: re.Match[str]) -> str:
    words = match[1]
    if CONJUNCTION.fullmatch(words):
        return " , "
    if LETTERS.fullmatch(words) or re.fullmatch(r"\s*[a-z]?\s*", words):
        return words
    if re.fullmatch(r"[\s$]*-?[\d.,]+[\s%]*", words):
        return words
    return rf"\text{{{words.strip()}}}"


# ---- taking apart ---------------------------------------------------------------------------------------------------


def tokens(text: str) -> Iterator[tuple[str, int, int, int]]:
    """(token, start, end, depth of the brackets around it). An opening bracket has the depth outside of it."""
    depth = 0
    for match in TOKEN.finditer(text):
        token = match.group()
        if token in CLOSING or token.startswith(r"\end{"):
            depth -= 1
        yield token, match.start(), match.end(), depth
        if token in OPENING or token.startswith(r"\begin{"):
            depth += 1


def split(text: str, separators: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The parts between separators that stand outside of all brackets, and the separators found."""
    parts, signs, start = [], [], 0
    for token, begin, end, depth in tokens(text):
        if depth == 0 and token in separators:
            parts.append(text[start:begin].strip())
            signs.append(token)
            start = end
    return [*parts, text[start:].strip()], signs


def unwrap(text: str) -> tuple[str, str, str] | None:
    """(opening bracket, content, closing bracket) if one pair of brackets, of any kind, encloses the whole text."""
    if not re.match(r"[(\[{]|\\\{|\\langle\b", text):
        return None
    first = last = ""
    begin = close = 0
    for token, start, end, depth in tokens(text):
        if start == 0:
            first, begin = token, end
        elif depth == 0 and token in CLOSING:
            last, close = token, start
            if end != len(text):
                return None
            break
    return (first, text[begin:close].strip(), last) if last else None


def compact(text: str) -> str:
    r"""One spelling of an expression: braces around single arguments, no blanks: `\frac43`, `\sqrt 5`, `x^{2}`."""
    text = re.sub(r"\\frac\s*(\d|[a-z])\s*(\d|[a-z])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d|[a-z])\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})\s*(\d|[a-z])", r"\1{\2}", text)
    text = re.sub(r"\\sqrt\s*(\d|[a-z])", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\w.)}^])(\d+)/(\d+)\s*(?:\\cdot|\\times|\*)\s*(?=[A-Za-z\\(])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    text = re.sub(r"\s*(?:\\cdot|\\times|\*)\s*(?=[A-Za-z\\(])", " ", text)
    return re.sub(r"\s+", lambda m: " " if _glues(text, m.start(), m.end()) else "", text).strip()


def _glues(text: str, start: int, end: int) -> bool:
    """Whether a blank keeps a command and the letter after it, or two numbers, apart."""
    if end >= len(text) or not start:
        return False
    if text[start - 1].isdigit() and text[end].isdigit():
        return True
    return text[end].isalpha() and re.search(r"\\[A-Za-z]+$", text[max(0, start - 20) : start]) is not None
