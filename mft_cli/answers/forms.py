r"""What an answer is made of: a number, a tuple or interval, a set or list, a union, a matrix, words, an expression.

`read` takes a LaTeX answer apart without any computer algebra, so that order, brackets, shapes and exact numbers are
decided here, and only the expressions inside are left to `symbolic`. Conventions:

- Several answers ("1, 2", "1 and 2", \{1,2\}, 1 \pm \sqrt{2}) are one unordered list; brackets ( ) and [ ] with a comma
  make an ordered tuple that is also an interval.
- "x = 5", "f(x) = 2x", "x \in [1,2]" hold a name and a value; -2 \le x \le 7 is the interval [-2,7].
- 52_8 is a numeral in base 8, which is neither 52 nor 42.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from mft_cli.answers.latex import TEXT, compact, plain, split, unwrap
from mft_cli.answers.numbers import ONE_LETTER_UNITS, Number, parse_number
from mft_cli.answers.units import split_unit, unit_of

MAX_DEPTH = 12
MAX_ITEMS = 200
MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix|smallmatrix|array)\}(?:\s*\{[lcr|\s]*\})?(.*)\\end\{\1\}", re.DOTALL)
BASE = re.compile(r"(-?)\(?\s*([0-9A-Z]+(?:\.[0-9A-Z]+)?)\s*\)?\s*_\s*(?:\{\s*\(?(\d{1,2})\)?\s*\}|(\d{1,2}))")
MEMBER = re.compile(r"(?:[A-Za-z](?:_\{?\w+\}?)?|\([A-Za-z](?:\s*,\s*[A-Za-z])*\)|\([a-z](?:_\d)?(?:, ?[a-z](?:_\d)?)*\))"
                    r"\s*\\in\b\s*(?!\\mathbb)|[a-z]\s?(?=[(\[][^()\[\]]*,[^()\[\]]*\]$)")  # fmt: skip
CLAUSE = re.compile(
    r"[,.;]?\s*\(?\s*(?:\\text\{\s*)?(?:(?:,\s*)?\bwhere\b|\bfor (?:all|any|every|each|some)\b|\\forall\b|\bwith\b"
    r"|\bfor\b\s*\}?\s*(?=[a-z]\s*(?:\\(?:ge|le|ne|in)\b|[<>=]))).*$"
    r"|[,;]?\s*\(?\s*\b[a-z]\s*\\in\s*\\mathbb\s*\{?[ZNRQ]\}?\s*\)?$",
    re.DOTALL,
)
RELATIONS = ("<", ">", r"\le", r"\ge", r"\ne")
FLIPPED = {"<": ">", r"\le": r"\ge", ">": "<", r"\ge": r"\le"}
NAME = re.compile(
    r"(?:\\?[A-Za-z]+|\\(?:angle|overline|triangle|vec|hat)\s*\{?[A-Z][A-Z\s\d_{}]*\}?)'?"
    r"(?:\s*_\s*(?:\w|\{[^{}]*\}))?(?:\^\{-1\})?\s*(?:\([^()=]{0,40}\))?"
)
VARIABLE = re.compile(r"[A-Za-z](?:_\{?\w\}?)?|\\(?:theta|alpha|beta|lambda|mu|phi|gamma)")
WORDS = re.compile(r"[A-Za-z]{3,}[A-Za-z .,:;'’\d()-]*|\d{1,2}:\d\d(?:\s*[AaPp]\.?\s?[Mm]\.?)?")
MATH_WORD = re.compile(r"(?:sqrt|frac|pi|sin|cos|tan|log|ln|exp|infty|infinity|abs|floor|ceil|binom)\b", re.IGNORECASE)
REPEATING = re.compile(r"(-?)(\d{0,30})\.(\d{0,30})\\overline\s*\{\s*(\d{1,30})\s*\}")
LONE_LETTER = re.compile(r"(?<![A-Za-z\\])([A-Za-z])(?![A-Za-z])")
DEGREES = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)\s*")
TRIGONOMETRIC = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)")
PRODUCT = re.compile(r"(?<=[\d}\s)])(?:\s+([A-Za-z]{2})|(?<!\s)([A-Za-z]{2,3}))[\s$.]*$")
VARIABLE_LETTER = re.compile(r"(?<![\\A-Za-z{])[a-df-hj-zA-Z](?![A-Za-z])")  # e and i are numbers
INFINITY = r"\infty"


@dataclass(frozen=True)
class Form:
    r"""kind: number, base, text, expr, tuple, list, union, minus, matrix, relation, equation.

    `text`: the expression, words or numeral; for a tuple its two brackets, for a relation its signs, for a matrix its
    shape and kind. `name`: what stood before "=" or "\in". `unit`: a stated unit of measurement ("" for none).
    """

    kind: str
    text: str = ""
    items: tuple[Form, ...] = ()
    number: Number | None = None
    name: str = ""
    unit: str = ""


def read(text: str, *, listing: bool = False) -> Form:
    """The form of an answer. `listing`: a comma always parts two answers, so that 1,108 is 1 and 108. Never raises."""
    cleaned = plain(text)
    if not (listing and "," in text) and (number := _number(text) or _number(cleaned)) is not None:
        return number
    return _structure(cleaned, 0)


def _number(text: str) -> Form | None:
    """A plain number with or without a unit. A lone letter is a variable, not a unit: 6m is no 6."""
    if (match := REPEATING.fullmatch(text)) is not None:
        return Form("number", number=Number(_repeating(*match.groups())))
    number = parse_number(text) if "=" not in text else None  # x^2 + y^2 = 13 is no 13
    if number is None or product_of_letters(text):
        return None
    if any(m[1] in ONE_LETTER_UNITS | {"k", "K"} for m in LONE_LETTER.finditer(TEXT.sub("", text))):
        return None
    words = re.search(
        r"(?:\\(?:text|mbox|mathrm)\s*\{)?([A-Za-z][A-Za-z /.-]*)\}?\s*(?:\^\s*\{?([23])\}?)?[\s$.]*$", text
    )
    if re.search(r"\\circ|°", text):
        return Form("number", number=number, unit="degree")
    return Form("number", number=number, unit=unit_of(words[1], int(words[2] or 1)) if words else "")


def product_of_letters(text: str) -> bool:
    """Whether a text ends in variables and not in a unit: 2xy, 3 bh; but 2km, 2 mg, 12 men."""
    match = PRODUCT.search(TEXT.sub("", text))
    return match is not None and not unit_of(match[1] or match[2])


def _repeating(sign: str, whole: str, once: str, again: str) -> Fraction:
    r"""The value of a repeating decimal, 0.1\overline{6}: 1/10 and 6/90."""
    value = Fraction(int(whole + once or "0")) + Fraction(int(again), 10 ** len(again) - 1)
    return (-value if sign else value) / 10 ** len(once)


def _structure(text: str, depth: int, name: str = "") -> Form:
    text = CLAUSE.sub("", text).strip(" ,;").removesuffix(".").strip()
    if depth > MAX_DEPTH or len(text) > 2000:
        return Form("expr", text, name=name)
    for reader in (
        _member,
        _number_here,
        _matrix,
        _sets,
        _listed,
        _bracketed,
        _ratio,
        _plus_minus,
        _related,
        _approximated,
        _equated,
    ):
        if (form := reader(text, depth)) is not None:
            return replace(form, name=form.name or name)
    return replace(_leaf(text), name=name)


def _member(text: str, depth: int) -> Form | None:
    match = MEMBER.match(text)
    return _structure(text[match.end() :], depth + 1, compact(text[: match.end()].split("\\in")[0])) if match else None


def _number_here(text: str, depth: int) -> Form | None:
    return _number(text) if depth else None  # at the top `read` has tried


def _matrix(text: str, depth: int) -> Form | None:
    match = MATRIX.fullmatch(text)
    if match is None and (enclosed := unwrap(text)) is not None and enclosed[0] + enclosed[2] in ("()", "[]"):
        match = MATRIX.fullmatch(enclosed[1])  # an array in brackets of its own
        match = match if match and match[1] in ("matrix", "smallmatrix", "array") else None
    if match is None or r"\begin" in match[2]:
        return None
    rows = [row.strip() for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?", match[2]) if row.strip()]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    if len({len(row) for row in cells}) != 1 or len(cells) * len(cells[0]) > MAX_ITEMS:
        return None
    kind = match[1] if match[1] in ("vmatrix", "Vmatrix") else "matrix"
    items = tuple(_structure(cell, depth + 1) for row in cells for cell in row)
    return Form("matrix", f"{kind} {len(cells)}x{len(cells[0])}", items)


def _sets(text: str, depth: int) -> Form | None:
    """Unions and differences of sets."""
    if r"\cup" not in text and r"\setminus" not in text:
        return None
    for kind, sign in (("minus", r"\setminus"), ("union", r"\cup")):
        parts, signs = split(text, (sign,))
        if signs and all(parts) and len(parts) <= MAX_ITEMS:
            return Form(kind, items=tuple(_structure(part, depth + 1) for part in parts))
    return None


def _listed(text: str, depth: int) -> Form | None:
    if "," not in text and ";" not in text:
        return None
    if depth == 0 and re.search(r",\s", text):  # "1,000, 2,000": the blank parts, the other comma groups digits
        text = re.sub(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,]*\d)(?!,\d)", lambda m: m.group().replace(",", ""), text)
    parts, _ = split(text, (",", ";"))
    parts = [part for part in parts if part]
    if not 2 <= len(parts) <= MAX_ITEMS:
        return None
    return _list(parts, depth)


def _list(parts: list[str], depth: int) -> Form:
    """An unordered list; the members of a list inside (from a plus-minus) are its own."""
    flat: list[Form] = []
    for item in (_structure(part, depth + 1) for part in parts):
        flat.extend(item.items if item.kind == "list" else [item])
    if len(flat) > 1 and all(item.kind == "tuple" and item.name == flat[0].name != "" for item in flat):
        return Form("union", items=tuple(flat), name=flat[0].name)  # x < 1 or x > 3
    return flat[0] if len(flat) == 1 else Form("list", items=tuple(flat))


def _bracketed(text: str, depth: int) -> Form | None:
    enclosed = unwrap(text)
    if enclosed is None:
        return Form("list") if text in (r"\emptyset", r"\{\}") else None
    opening, content, closing = enclosed
    if opening == r"\{" and not content:
        return Form("list")
    if not content:
        return None
    if (opening, closing) in ((r"\{", r"\}"), ("{", "}")):
        condition = re.split(r"\\mid\b|\||(?<![\d:]):(?!\d)", content, maxsplit=1)
        if len(condition) == 2 and opening != "{" and "|" not in condition[1]:
            return _structure(condition[1], depth + 1)
        return _list([p for p in split(content, (",", ";"))[0] if p], depth)
    parts = [part for part in split(content, (",", ";"))[0] if part]
    if len(parts) > MAX_ITEMS or opening not in ("(", "[", r"\langle") or closing not in (")", "]", r"\rangle"):
        return None
    if len(parts) == 1:
        return _structure(content, depth + 1) if opening + closing == "()" else None
    return Form("tuple", opening + closing, tuple(_structure(part, depth + 1) for part in parts))


def _ratio(text: str, depth: int) -> Form | None:
    """Three parts or more, of numbers up to a factor: 2:4:6 is 1:2:3. A ratio of two is a quotient."""
    parts, signs = split(text, (":",))
    if len(signs) < 2 or not all(parts) or len(parts) > MAX_ITEMS:
        return None
    items = [_structure(part, depth + 1) for part in parts]
    numbers = [item.number.value for item in items if item.number is not None]
    if len(numbers) == len(items) and numbers[0]:
        items = [Form("number", number=Number(value / numbers[0])) for value in numbers]
    return Form("tuple", "::", tuple(items))


def _plus_minus(text: str, depth: int) -> Form | None:
    if r"\pm" not in text and r"\mp" not in text:
        return None
    signs = re.compile(r"\\(pm|mp)\b\s*")
    both = [
        signs.sub(lambda m: "+" if m[1] == "pm" else "-", text),
        signs.sub(lambda m: "-" if m[1] == "pm" else "+", text),
    ]
    return _list([variant.strip().removeprefix("+").strip() for variant in both], depth)


def _related(text: str, depth: int) -> Form | None:
    sides, signs = split(text, RELATIONS)
    if not signs or not all(sides) or len(signs) > 5:
        return None
    if len(sides) == 2:
        sides, signs = _without_minus(sides, signs)
    items = tuple(_structure(side, depth + 1) for side in sides)
    if (interval := _as_interval(sides, signs, items)) is not None:
        return interval
    if all(sign in (">", r"\ge") for sign in signs):
        items, signs = items[::-1], [FLIPPED[sign] for sign in reversed(signs)]
    return Form("relation", " ".join(signs), items)


def _without_minus(sides: list[str], signs: list[str]) -> tuple[list[str], list[str]]:
    """-x > -1 as x < 1."""
    negative = [side.startswith("-") and VARIABLE.fullmatch(side[1:].strip()) is not None for side in sides]
    if negative.count(True) != 1:
        return sides, signs
    turned = [side[1:].strip() if re.fullmatch(r"-\s*[\w.]+", side) else f"-({side})" for side in sides]
    return turned, [FLIPPED.get(sign, sign) for sign in signs]


def _as_interval(sides: list[str], signs: list[str], items: tuple[Form, ...]) -> Form | None:
    r"""-2 \le x \le 7 as [-2,7], x > 5 as (5,\infty), x \ne 5 as the two sides of 5; None if it is no such thing."""
    variables = [bool(VARIABLE.fullmatch(side)) for side in sides]
    if variables.count(True) != 1 or len(sides) > 3 or (len(sides) == 3 and not variables[1]):
        return None
    name, down, up = sides[variables.index(True)], Form("expr", "-" + INFINITY), Form("expr", INFINITY)
    if len(sides) == 2:
        value = items[variables.index(False)]
        if signs[0] == r"\ne":
            halves = (Form("tuple", "()", (down, value)), Form("tuple", "()", (value, up)))
            return Form("union", items=halves, name=name)
        sign = signs[0] if variables[0] else FLIPPED[signs[0]]
        if sign in (">", r"\ge"):
            return Form("tuple", "()" if sign == ">" else "[)", (value, up), name=name)
        return Form("tuple", "()" if sign == "<" else "(]", (down, value), name=name)
    if len({sign in ("<", r"\le") for sign in signs}) != 1 or r"\ne" in signs:
        return None
    if signs[0] in (">", r"\ge"):
        items, signs = items[::-1], signs[::-1]
    brackets = ("(" if signs[0] in "<>" else "[") + (")" if signs[1] in "<>" else "]")
    return Form("tuple", brackets, (items[0], items[2]), name=name)


def _approximated(text: str, depth: int) -> Form | None:
    r"""x \approx 11 is the value of x; of \sqrt{2} \approx 1.41 the exact side counts."""
    sides, signs = split(text, (r"\approx",))
    if len(signs) != 1 or not sides[1]:
        return None
    value = sides[1] if not sides[0] or _is_name(sides[0]) else sides[0]
    return replace(_structure(value, depth + 1), name=compact(sides[0]) if value == sides[1] else "")


def _equated(text: str, depth: int) -> Form | None:
    sides, _ = split(text, ("=",))
    if len(sides) < 2 or not sides[-1]:
        return None
    first, last = sides[0], _structure(sides[-1], depth + 1)
    has_variable = last.kind == "expr" and not re.search(r"[A-Za-z]", first) and VARIABLE_LETTER.search(last.text)
    if not first or len(sides) > 2 or _is_name(first) or not (has_variable or re.search(r"[A-Za-z]", first)):
        return replace(last, name=compact(first))
    return Form("equation", items=(_structure(first, depth + 1), last))


def _is_name(text: str) -> bool:
    """Whether "text = value" names the value: x, f(x), A_{max}, AB, \\angle ABC, "Total cost"; not xy or 2x."""
    text = text.strip()
    if re.match(r"\\text\{|[A-Za-z]{3,}(?:\s[A-Za-z]+)*$|\([a-zA-Z](?:_\d)?(?:\s*,\s*[a-zA-Z](?:_\d)?)+\)$", text):
        return True
    match = NAME.fullmatch(text)
    return match is not None and not re.match(r"[a-z]{2}\b|\\(?:frac|sqrt|sin|cos|tan|log|ln|text)\b", text)


def _leaf(text: str) -> Form:
    if (base := BASE.fullmatch(text)) is not None:
        digits = base[2].lstrip("0") or "0"
        return Form("base", f"{base[1]}{digits}_{base[3] or base[4]}")
    if (words := _words(text)) is not None:
        return Form("text", words)
    front, unit = split_unit(text)
    if unit or front != text:
        inner = _structure(front, MAX_DEPTH)
        return replace(inner, unit=inner.unit or unit)
    if TRIGONOMETRIC.search(text) is None and (bare := DEGREES.sub(" ", text).strip()) != text and bare:
        return replace(_structure(bare, MAX_DEPTH), unit="degree")
    return Form("expr", compact(text.removeprefix("+").strip()))


def _words(text: str) -> str | None:
    r"""Words in one spelling: \text{Even.} and "even" are the same; None for mathematics."""
    whole = TEXT.sub(lambda m: f" {m[1]} ", text).strip()
    only_text = text.startswith(r"\text{") and not re.search(r"[\\^=]", whole)
    line = re.fullmatch(r"\\(?:overline|overleftrightarrow|overrightarrow)\s*\{?\s*([A-Z]\s?[A-Z])\s*\}?", text)
    if line:
        return line[1].replace(" ", "").casefold()
    if not only_text and (not WORDS.fullmatch(whole) or MATH_WORD.match(whole)):
        return None
    if not re.search(r"[A-Za-z]{2,}|\d:\d", whole):
        return None
    return re.sub(r"[\s.,'’\"!?]+", " ", whole).strip().casefold().replace("a m", "am").replace("p m", "pm")
