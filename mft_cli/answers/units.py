"""Units of measurement in answers: which word is which unit, so that 5 cents is not 5 dollars."""

from __future__ import annotations

import re

NAMES = {
    "cent": "cent cents ¢", "dollar": "dollar dollars usd", "euro": "euro euros eur", "pound": "pound pounds lb lbs",
    "mm": "mm millimeter millimeters millimetre millimetres", "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres", "km": "km kilometer kilometers kilometre kilometres",
    "inch": "in inch inches", "foot": "ft foot feet", "yard": "yd yard yards", "mile": "mi mile miles",
    "second": "s sec secs second seconds", "minute": "min mins minute minutes", "hour": "h hr hrs hour hours",
    "day": "day days", "week": "week weeks", "month": "month months", "year": "yr yrs year years",
    "g": "g gram grams", "kg": "kg kilogram kilograms", "mg": "mg milligram milligrams", "ounce": "oz ounce ounces",
    "ton": "ton tons", "liter": "l L liter liters litre litres", "ml": "ml mL milliliter milliliters",
    "pint": "pt pint pints", "quart": "qt quart quarts",
    "gallon": "gal gallon gallons", "degree": "degree degrees deg", "radian": "rad radian radians",
    "unit": "unit units", "mph": "mph", "percent": "percent", "am": "am", "pm": "pm",
}  # fmt: skip
UNITS = {word: unit for unit, words in NAMES.items() for word in words.split()}
POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
PARTICLES = {"per", "a", "an", "of", "the"}
TAIL = re.compile(
    r"(?P<text>\\text\{(?P<words>[^{}]*)\})\s*(?P<power>\^\s*\{?(?P<exponent>[23])\}?)?\s*$"
    r"|(?<=[\d\s})])\s*(?P<bare>(?:square |cubic |sq\.? )?[A-Za-z]+(?:(?:\s+per\s+|/)[A-Za-z]+)?)"
    r"\s*(?:\^\s*\{?(?P<raised>[23])\}?)?\s*$"
)


def unit_of(words: str, exponent: int = 1) -> str:
    """The unit that a text names, in one spelling ("km/hour", "inch^2"); "" for what is not a unit of measurement.

    "square inches" and "inches" to the power 2 are the same; "unit" is not a unit that could disagree with another.
    """
    words = re.sub(r"\b([ap])\.?\s?m\b\.?", r"\1m", words, flags=re.IGNORECASE)
    parts = re.sub(r"\s*/\s*", " per ", words.replace(".", " ")).replace("-", " ").split()
    sides: list[list[str]] = [[]]
    for part in parts:
        if part == "per":
            sides.append([])
        elif part in POWERS or part.lower() in POWERS:
            exponent = POWERS[part.lower()]
        elif part not in PARTICLES:
            sides[-1].append(UNITS.get(part) or UNITS.get(part.lower()) or "")
    if len(sides) == 1 and sides[0] == ["mph"]:
        return "mile/hour"
    if any(len(side) != 1 or not side[0] for side in sides):
        return ""
    named = "/".join(side[0] for side in sides)
    return named if exponent == 1 else f"{named}^{exponent}"


def split_unit(text: str) -> tuple[str, str]:
    """(the text before the unit, the unit) for a text that ends in one; (text, "") otherwise.

    Any \\text{...} after something counts as a unit ("12 \\text{ apples}"), a bare word only if it is known.
    """
    match = TAIL.search(text[-120:])
    front = text[: len(text) - len(text[-120:]) + match.start()].strip() if match else ""
    if match is None or not front:
        return text, ""
    if match["text"] is not None:
        return front, unit_of(match["words"], int(match["exponent"] or 1))
    unit = unit_of(match["bare"], int(match["raised"] or 1))
    if not unit or len(match["bare"]) == 1:
        return text, ""
    return front, unit


def disagree(first: str, second: str) -> bool:
    """Whether two stated units are different ones; one that is not stated or not known agrees with all."""
    vague = {"", "unit", "unit^2", "unit^3", "percent"}
    return first not in vague and second not in vague and first != second
