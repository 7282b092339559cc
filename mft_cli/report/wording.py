"""How numbers and untrusted text are written, the same in the page, in Markdown and in the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeGuard

MINUS = "\N{MINUS SIGN}"
NONE = "–"

# Control characters and lone surrogates: a lone surrogate (a legal "\ud800" in JSON) makes utf-8 encoding fail, ESC
# drives terminals, NUL is dropped or replaced by browsers, and direction overrides show text in another order than the
# one it was generated in. Tab and newline stay.
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Untrusted text with every character that would act instead of being seen replaced by its number."""
    # Numbers, not the pictures of U+2400: many fonts lack those.
    return ACTING.sub(lambda match: f"⟦U+{ord(match[0]):04X}⟧", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """`visible`, on one line: for terminal cells, table cells and headings."""
    return " ".join(visible(text).split())


def shortened(text: str, limit: int) -> str:
    """The start of a long text, with the number of characters left out."""
    return text if len(text) <= limit else f"{text[:limit]}\n… ({len(text) - limit} more characters)"


def is_number(value: object) -> TypeGuard[float]:
    """A finite number that is not a boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def whole(value: object) -> str:
    """A count."""
    return str(value) if is_number(value) else NONE


def percent(value: object) -> str:
    """0.415 -> 41.5 %."""
    return f"{100 * value:.1f} %" if is_number(value) else NONE


def percent_interval(interval: object) -> str:
    """[0.35, 0.48] -> [35.0, 48.0]."""
    return interval_text(interval, lambda value: f"{100 * value:.1f}")


def points(value: object) -> str:
    """A difference of two shares in percentage points, signed."""
    return signed(100 * value, 1) if is_number(value) else NONE


def points_interval(interval: object) -> str:
    """An interval of a difference, in percentage points."""
    return interval_text(interval, lambda value: signed(100 * value, 1))


def signed(value: object, digits: int) -> str:
    """With its sign, and a true minus; what rounds to zero has no sign."""
    if not is_number(value):
        return NONE
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def decimal(value: object, digits: int = 3) -> str:
    """A plain number; what rounds to zero has no sign."""
    return f"{value:z.{digits}f}".replace("-", MINUS) if is_number(value) else NONE


def decimal_interval(interval: object, digits: int = 3) -> str:
    """An interval of plain numbers."""
    return interval_text(interval, lambda value: decimal(value, digits))


def signed_interval(interval: object, digits: int = 3) -> str:
    """An interval of differences."""
    return interval_text(interval, lambda value: signed(value, digits))


def digits_for(interval: object, least: int = 3, most: int = 9) -> int:
    """Decimals that show an interval with two significant digits of its width."""
    if not isinstance(interval, (list, tuple)) or len(interval) != 2 or not all(map(is_number, interval)):
        return least
    width = abs(interval[1] - interval[0])
    return max(least, min(most, 1 - math.floor(math.log10(width)))) if width > 0 else least


def significant(value: object, least: int = 3) -> str:
    """A plain number with `least` decimals, or as many as show two significant digits of a small one."""
    if not is_number(value):
        return NONE
    digits = least if value == 0 else max(least, 1 - math.floor(math.log10(abs(value))))
    return decimal(value, digits) if digits <= 9 else f"{value:.1e}".replace("-", MINUS)


def interval_text(interval: object, write: Callable[[float], str]) -> str:
    """Both ends as `write` writes them; a dash for what is not an interval."""
    if not isinstance(interval, (list, tuple)) or len(interval) != 2 or not all(map(is_number, interval)):
        return NONE
    return f"[{write(interval[0])}, {write(interval[1])}]"


def probability(value: object) -> str:
    """A p value: never a bare 0."""
    if not is_number(value):
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: object) -> str:
    """3725 -> 1 h 02 min."""
    if not is_number(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def setting(value: object) -> str:
    """A configuration value as one would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else one_line(str(value))


def count(number: int, noun: str) -> str:
    """1 problem, 2 problems."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
