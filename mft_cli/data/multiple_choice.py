"""The options of a multiple-choice row, whatever the file's form, and which of them is right. No torch."""

from __future__ import annotations

import hashlib
from string import ascii_uppercase
from typing import Any

from mft_cli.data.files import BadRow


def read_choices(
    given: list[Any], answer: Any, seed: int | None, question: str, location: str
) -> tuple[dict[str, str], str | None]:
    """(letter -> option in the order shown, the right letter or None where no answer is given). Raises BadRow.

    `given` holds one field with all options (a list of texts; {"text": [...], "label": [...]}; {letter: text}; a list of
    {"label", "text"}), or one text for each option. `answer` is a label of the file, a place from 0, or an option's text.
    With a `seed` the options are ordered by a draw on (seed, question, option), whatever their order in the file.
    """
    labels, texts = options(given, location)
    if not 2 <= len(texts) <= len(ascii_uppercase) or any(not text.strip() for text in texts):
        raise BadRow(f"{location}: expected 2 to {len(ascii_uppercase)} options with text, found {texts!r:.200}")
    right = None if answer is None else right_option(labels, texts, answer, location)
    order = list(range(len(texts)))
    if seed is not None:
        order.sort(key=lambda i: hashlib.sha256(f"{seed}\x1f{question}\x1f{texts[i]}".encode()).digest())
    shown = {ascii_uppercase[position]: texts[i] for position, i in enumerate(order)}
    return shown, None if right is None else ascii_uppercase[order.index(right)]


def options(given: list[Any], location: str) -> tuple[list[str], list[str]]:
    """(labels, texts) in the file's order."""
    value = given[0] if len(given) == 1 else given
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        labels, texts = value.get("label"), value["text"]
    elif isinstance(value, dict):
        labels, texts = list(value), list(value.values())
    elif isinstance(value, list) and all(isinstance(option, dict) and "text" in option for option in value):
        labels, texts = [option.get("label") for option in value], [option["text"] for option in value]
    else:
        labels, texts = None, value
    if not isinstance(texts, list) or not all(isinstance(text, (str, int, float)) for text in texts):
        raise BadRow(f"{location}: the options are {type(texts).__name__}, expected a list of texts")
    if not labels or len(labels) != len(texts) or None in labels:
        labels = list(ascii_uppercase[: len(texts)])
    return [str(label).strip() for label in labels], [str(text).strip() for text in texts]


def right_option(labels: list[str], texts: list[str], answer: Any, location: str) -> int:
    """The index of the right option."""
    text_of_answer = str(answer).strip()
    if text_of_answer in labels:
        return labels.index(text_of_answer)
    if isinstance(answer, int) and 0 <= answer < len(texts):
        return answer
    if texts.count(text_of_answer) == 1:
        return texts.index(text_of_answer)
    raise BadRow(
        f"{location}: the answer {text_of_answer!r:.100} is none of the options ({', '.join(labels)}), or several of them"
    )
