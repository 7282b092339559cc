"""flips.txt: every flip of every pair with both texts whole, for a pager or a search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mft_cli.report.compare.flips import Flip, PairFlips, Side
from mft_cli.report.wording import MINUS, one_line, percent, visible


def render(pairs: Iterable[PairFlips]) -> str:
    """The file's text; characters of a model's text that would act on a terminal are numbers in it."""
    return "\n".join(line for part in pairs for line in _lines(part)) + "\n"


def _lines(part: PairFlips) -> Iterator[str]:
    pair = part.pair
    names = one_line(f"{pair.benchmark}: {pair.second} {MINUS} {pair.first}")
    yield f"==== {names}: {len(pair.gained)} gained, {len(pair.lost)} lost ===="
    for flip in part.shown:
        yield from _flip(pair.first, pair.second, flip)


def _flip(first: str, second: str, flip: Flip) -> Iterator[str]:
    way = "gained" if flip.gained else "lost"
    yield f"\n---- {way} {one_line(flip.problem)}, sample {flip.sample}, gold {one_line(flip.gold)}\n"
    yield visible(flip.prompt)
    for label, side in ((first, flip.first), (second, flip.second)):
        yield f"\n-- {one_line(label)}: {outcome(side)}\n"
        text = side.completion
        yield (
            visible(f"{text.before}{text.answer}{text.after}") if text else "(generations.jsonl has no such completion)"
        )
    yield ""


def outcome(side: Side) -> str:
    """Such as "wrong, answer 22 (from box), ok, ended by stop"."""
    right = {0.0: "wrong", 1.0: "correct"}.get(side.share, f"{percent(side.share)} of the completions correct")
    source = f" (from {one_line(side.answer_from)})" if side.answer_from else ""
    parts = [right, f"answer {one_line(side.answer) or 'none'}{source}", one_line(side.status)]
    return ", ".join(
        part for part in [*parts, f"ended by {one_line(side.finish_reason)}" if side.finish_reason else ""] if part
    )
