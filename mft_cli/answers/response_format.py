"""The format of a critique: eight tags, each once and in order, and a boxed answer in the last part. No torch."""

from __future__ import annotations

import re

NAMES = ("think", "critique", "reasoning", "ans")
TAGS = tuple(tag for name in NAMES for tag in (f"<{name}>", f"</{name}>"))
FORMAT = re.compile(
    r"\s*<think>\s*<critique>.+?</critique>\s*<reasoning>.+?</reasoning>\s*</think>\s*<ans>(.*?)</ans>", re.DOTALL
)
BOXED = re.compile(r"\\boxed\s*\{.*\}", re.DOTALL)
INTEGER = re.compile(r"\s*\\boxed\{-?\d+\}\s*")


def has_format(text: str, strict: bool = False) -> bool:
    """Whether a response has all tags in order and a boxed answer; `strict` accepts integers only, as published."""
    matched = FORMAT.match(text)
    if matched is None:
        return False
    return bool(INTEGER.fullmatch(matched[1]) if strict else BOXED.search(matched[1]))
