"""How far generated texts keep the format of a critique: what masked_critique's format term is about, measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from mft_cli.answers.critique_format import BOXED, TAGS, has_format
from mft_cli.stats.intervals import wilson

ORDER = ("<think>", "<critique>", "</critique>", "<reasoning>", "</reasoning>", "</think>", "<ans>", "</ans>")


class Adherence(TypedDict):
    """Of one text: every tag is there; they are there once and in order; the last part has a box; the whole format."""

    all_tags: bool
    in_order: bool
    boxed_answer: bool
    format: bool
    strict: bool


def format_adherence(text: str) -> Adherence:
    """What of the format a completion has. `strict`: the boxed answer is an integer and nothing else, as published."""
    places = sorted((text.index(tag), tag) for tag in TAGS if tag in text)
    answer = text.rpartition("<ans>")[2] if "<ans>" in text else ""
    return {
        "all_tags": len(places) == len(TAGS),
        "in_order": tuple(tag for _, tag in places) == ORDER and all(text.count(tag) == 1 for tag in TAGS),
        "boxed_answer": BOXED.search(answer.partition("</ans>")[0]) is not None,
        "format": has_format(text),
        "strict": has_format(text, strict=True),
    }


def adherence_metrics(texts: Sequence[str]) -> dict[str, object]:
    """Shares (0 to 1) of `n` texts for each part of the format, and the 95 % interval (Wilson) of the whole format."""
    each = [format_adherence(text) for text in texts]
    shares = {name: sum(bool(adherence[name]) for adherence in each) / len(each) for name in Adherence.__annotations__}  # type: ignore[literal-required]
    return {
        "n": len(each),
        **shares,
        "interval": list(wilson(sum(adherence["format"] for adherence in each), len(each))),
    }
