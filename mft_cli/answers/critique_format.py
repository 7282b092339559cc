"""The form of a critique's response: its tags in order, then a boxed answer. Data with it is made by mft critique. No torch.

<think><critique>..</critique><reasoning>..</reasoning></think><ans>\\boxed{..}</ans>
"""

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
    match = FORMAT.match(text)
    if match is None:
        return False
    return bool(INTEGER.fullmatch(match[1]) if strict else BOXED.search(match[1]))
