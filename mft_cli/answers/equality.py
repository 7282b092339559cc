"""Whether an answer equals the gold answer: at once where forms and exact numbers decide, else by `symbolic`.

Equality of numbers is exact (see exact_numbers). A percent sign counts only where the gold has it: gold "40%" accepts
"40%" and "40", and never 0.4; gold "40" does not accept "40%". A stated unit must not contradict a stated one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from mft_cli.answers.forms import VARIABLE_LETTER, Form, product_of_letters, read
from mft_cli.answers.numbers import Number, number_text, parse_number
from mft_cli.answers.units import disagree, unit_of
from mft_cli.answers.values import surely_differ, surely_same, value

MAX_CANDIDATE = 1000  # characters; a longer "answer" is none
PLAIN_KINDS = ("base", "text", "expr", "equation")
Leaf = Callable[[Form, Form], bool | None]


def equal_fast(
    *, gold: str, answer: str, unit: str | None = None, tolerance: float | str | None = None, multiple: bool = False
) -> bool | None:
    """Equality that can be decided at once; None where only algebra can tell (see equal_slowly). Never slow.

    `unit`: the unit of the gold where the row states it apart; `tolerance`: absolute difference that still counts as
    equal (null: exact); `multiple`: the gold lists several answers.
    """
    gold, answer = gold.strip(), answer.strip()
    if not gold or not answer or len(answer) > MAX_CANDIDATE or "\0" in answer:
        return False
    if gold == answer:
        return True
    gold_form, answer_form = _forms(gold, answer, unit, multiple)
    margin = exact(tolerance)
    return compare(gold_form, answer_form, lambda first, second: _at_once(first, second, margin), margin)


def equal_slowly(
    *, gold: str, answer: str, unit: str | None = None, tolerance: float | str | None = None, multiple: bool = False
) -> bool:
    """Equality with computer algebra. May run for ever or exhaust memory: call it in a killable worker."""
    from mft_cli.answers import symbolic

    margin = exact(tolerance)
    gold_form, answer_form = _forms(gold.strip(), answer.strip(), unit, multiple)
    verdict = compare(gold_form, answer_form, lambda first, second: symbolic.same(first, second, margin), margin)
    if verdict is None:
        verdict = symbolic.same(gold_form, answer_form, margin)
    return bool(verdict)


def equal(
    *, gold: str, answer: str, unit: str | None = None, tolerance: float | str | None = None, multiple: bool = False
) -> bool:
    """Whether an answer equals the gold answer. Not symmetric. For answers that you trust: it has no time limit."""
    more = {"unit": unit, "tolerance": tolerance, "multiple": multiple}
    fast = equal_fast(gold=gold, answer=answer, **more)  # type: ignore[arg-type]
    return equal_slowly(gold=gold, answer=answer, **more) if fast is None else fast  # type: ignore[arg-type]


def exact(tolerance: float | str | None) -> Fraction:
    """A tolerance as the row writes it ("1e-1", 0.1) as a fraction; 0 for null."""
    return abs(Fraction(str(tolerance))) if tolerance not in (None, "") else Fraction(0)


@lru_cache(maxsize=4096)
def canonical(answer: str) -> str:
    """One text for answers that are plainly equal: numbers, order in sets, spelling of LaTeX. Cheap; no algebra.

    Equal answers mostly have the same canonical text (1/2, 0.5 and \\frac12; {1,2} and 2, 1), different ones never
    but for units and the names before "=". x+1 and 1+x stay two texts: only `equal` knows that they are one.
    """
    if len(answer) > MAX_CANDIDATE:
        return answer
    return _text(read(answer))


# ---- comparison -----------------------------------------------------------------------------------------------------


def _forms(gold: str, answer: str, unit: str | None, multiple: bool) -> tuple[Form, Form]:
    gold_form, answer_form = read(gold, listing=multiple), read(answer, listing=multiple)
    if unit and not gold_form.unit:
        stated = unit_of(re.sub(r"[${}^\\\d]|circ", "", unit) + (" degree" if "circ" in unit else ""), _power(unit))
        gold_form = Form(gold_form.kind, gold_form.text, gold_form.items, gold_form.number, gold_form.name, stated)
    if (
        gold_form.kind == "number"
        and answer_form.kind == "expr"
        and "," not in answer
        and not product_of_letters(answer)
    ):
        number = parse_number(answer)  # the gold is a number, so "5 m" is five metres and not 5 times m
        answer_form = Form("number", number=number) if number is not None else answer_form
    return gold_form, answer_form


def _power(unit: str) -> int:
    match = re.search(r"\^\s*\{?([23])\}?", unit)
    return int(match[1]) if match else 1


def compare(gold: Form, answer: Form, leaf: Leaf, margin: Fraction = Fraction(0)) -> bool | None:
    """Equality of two forms; what `leaf` says of two expressions decides about them (None: not known)."""
    if disagree(gold.unit, answer.unit) or _other_name(gold.name, answer.name):
        return False
    if answer.kind == "equation" and gold.kind != "equation" and not gold.name:
        return compare(gold, answer.items[-1], leaf, margin)
    if gold.kind == answer.kind == "number":
        return _same_number(gold.number, answer.number, margin)
    if gold.kind == answer.kind in PLAIN_KINDS and not margin and _text(gold) == _text(answer):
        return True
    kinds = (gold.kind, answer.kind)
    if "text" in kinds:
        return _as_word(gold) == _as_word(answer)
    if kinds == ("list", "list"):
        return _unordered(gold.items, answer.items, leaf, margin)
    if kinds in (("tuple", "tuple"), ("matrix", "matrix")):
        return gold.text == answer.text and _ordered(gold.items, answer.items, leaf, margin)
    if kinds == ("relation", "relation"):
        return gold.text == answer.text and _ordered(gold.items, answer.items, leaf, margin)
    if {"union", "minus"} & set(kinds) and set(kinds) <= {"union", "minus", "tuple", "list", "expr"}:
        return _same_sets(gold, answer, leaf, margin)
    if "equation" in kinds:
        return leaf(gold, answer)
    if "expr" in kinds and set(kinds) <= {"expr", "number"}:
        has_variable = any(form.kind == "expr" and VARIABLE_LETTER.search(form.text) for form in (gold, answer))
        return False if "number" in kinds and has_variable else leaf(gold, answer)
    if set(kinds) == {"expr", "tuple"} and "mathbb{R}" in gold.text + answer.text:
        return leaf(gold, answer)
    return False


def _at_once(gold: Form, answer: Form, margin: Fraction) -> bool | None:
    """Equality of two forms by their values, without algebra: most answers, and no worker has to start for them."""
    if _apart(gold, answer, margin):
        return False
    return None if margin else surely_same(gold, answer)


def _apart(gold: Form, answer: Form, margin: Fraction) -> bool:
    """Whether two forms surely differ."""
    for first, second in ((gold, answer), (answer, gold)):
        if first.kind == "equation" and second.kind in ("expr", "number") and not second.name:
            return True
        if second.kind == "expr" and VARIABLE_LETTER.search(second.text) and value(first) is not None:
            return True
    return surely_differ(gold, answer, margin)


def _other_name(gold: str, answer: str) -> bool:
    r"""Whether both are named and differently: y = 2x is not x = 2x; M = 5 and M_{min} = 5 are the same, \text{} too."""
    first, second = (re.sub(r"\\(?:text|angle|overline)|[_{}]|\(.*", " ", name).split() for name in (gold, answer))
    return bool(first and second) and first[0] != second[0] and all(len(n[0]) <= 2 for n in (first, second))


def _same_number(gold: Number | None, answer: Number | None, margin: Fraction) -> bool:
    assert gold is not None
    assert answer is not None
    return abs(gold.value - answer.value) <= margin and (gold.percent or margin > 0 or not answer.percent)


def _as_word(form: Form) -> str:
    return form.text if form.kind == "text" else re.sub(r"\s", "", form.text).casefold() if form.kind == "expr" else ""


def _ordered(gold: Sequence[Form], answer: Sequence[Form], leaf: Leaf, margin: Fraction) -> bool | None:
    if len(gold) != len(answer):
        return False
    verdicts = set()
    for gold_item, answer_item in zip(gold, answer, strict=True):
        verdicts.add(compare(gold_item, answer_item, leaf, margin))
        if False in verdicts:
            return False
    return None if None in verdicts else True


def _unordered(gold: Sequence[Form], answer: Sequence[Form], leaf: Leaf, margin: Fraction) -> bool | None:
    """Whether each gold item has an answer of its own, and none is left over."""
    if len(gold) != len(answer):
        return False
    remaining, unknown = list(answer), False
    for gold_item in gold:
        verdicts = []
        for index, answer_item in enumerate(remaining):
            verdicts.append(compare(gold_item, answer_item, leaf, margin))
            if verdicts[-1]:
                del remaining[index]
                break
        else:
            if None not in verdicts:
                return False
            unknown = True
    return None if unknown else True


def _same_sets(gold: Form, answer: Form, leaf: Leaf, margin: Fraction) -> bool | None:
    if gold.kind == answer.kind == "union" and _unordered(gold.items, answer.items, leaf, margin):
        return True
    return leaf(gold, answer)


def _text(form: Form) -> str:
    if form.number is not None:
        return number_text(form.number)
    items = [_text(item) for item in form.items]
    if form.kind == "tuple":
        return form.text[0] + ",".join(items) + form.text[-1]
    if form.kind == "relation":
        signs = [*form.text.split(), ""]
        return "".join(item + sign for item, sign in zip(items, signs, strict=True))
    if form.kind == "matrix":
        return f"{form.text}[{','.join(items)}]"
    if form.kind in ("list", "union", "minus", "equation"):
        joint = {"list": ",", "union": r"\cup", "minus": r"\setminus", "equation": "="}[form.kind]
        return joint.join(items if form.kind in ("minus", "equation") else sorted(items)).join(
            ("{", "}") if form.kind == "list" else ("", "")
        )
    return form.text
