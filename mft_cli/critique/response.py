"""What a teacher wrote, read strictly: every tag once, in order, nothing between them, a boxed answer.

Linear in the text's length, whatever nonsense the text is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mft_cli.answers.critique_format import NAMES, has_format

TAG = re.compile(rf"</?(?:{'|'.join(NAMES)})>")
ORDER = [
    "<think>", "<critique>", "</critique>", "<reasoning>", "</reasoning>", "</think>", "<ans>", "</ans>",
]  # fmt: skip


@dataclass(frozen=True)
class Response:
    """A critique with the format. `text` is its one spelling, without white space around the parts."""

    critique: str
    reasoning: str
    answer: str

    @property
    def text(self) -> str:
        return (
            f"<think><critique>{self.critique}</critique><reasoning>{self.reasoning}</reasoning></think>"
            f"<ans>{self.answer}</ans>"
        )


def read_response(text: str, finish_reason: str, strict: bool = False, control: Any = None) -> Response | str:
    """The response in a teacher's text, or why there is none: a word or two, for counting.

    What stands before the last "<think><critique>" (a reasoning model's own thoughts) and after "</ans>" is left
    out. `control`: a regular expression of tokens that a training row may not hold.
    """
    if not text.strip():
        return "empty"
    tags = list(TAG.finditer(text))
    starts = [i for i, t in enumerate(tags[:-1]) if t[0] == "<think>" and tags[i + 1][0] == "<critique>"]
    tags = tags[starts[-1] :] if starts else []
    if [t[0] for t in tags] != ORDER:
        return _what_is_wrong([t[0] for t in tags], finish_reason)
    parts = [text[a.end() : b.start()].strip() for a, b in pairwise(tags)]
    between, (critique, reasoning, answer) = [parts[i] for i in (0, 2, 4, 5)], (parts[i] for i in (1, 3, 6))
    if any(between):
        return "text between tags"
    if not critique or not reasoning:
        return "empty part"
    found = Response(critique, reasoning, answer)
    if not has_format(found.text, strict):
        return "no integer in a box" if strict and has_format(found.text) else "no boxed answer"
    if control is not None and control.search(found.text):
        return "control token"
    return found


def _what_is_wrong(tags: list[str], finish_reason: str) -> str:
    if len(set(tags)) < len(tags):
        return "repeated tags"
    return "cut off" if finish_reason == "length" else "tags missing"
