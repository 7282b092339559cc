"""The page of all claims, Markdown, and the list for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mft_cli.console import text_table
from mft_cli.report.render.markdown import cell, table
from mft_cli.report.wording import NONE, count, duration, points, points_interval
from mft_cli.sweep.claims.verdict import NOT_RUN, RULE, State

HEAD = ("claim", "verdict", "here", "published")


def listing(states: Sequence[State]) -> str:
    """One line a claim."""
    rows = [("claim", "document", "runs", "can detect", "verdict")]
    rows += [(s.name, s.claim.source.document, f"{s.done}/{s.total}", smallest(s), s.verdict) for s in states]
    return "\n".join(text_table(rows))


def smallest(state: State) -> str:
    """Of the contrasts, the largest of the smallest detectable values."""
    values = [state.claim.detectable(terms) for terms in state.claim.contrasts.values()]
    known = [value for value in values if value is not None]
    return f"{100 * max(known):.1f} points" if known else NONE


def page(states: Sequence[State], out: Path) -> str:
    """All claims: a table of verdicts, then each with its design and numbers."""
    rows = [(f"{s.claim.claim}", s.verdict, short(s), s.claim.source.published) for s in states]
    lines = [
        "# Results", "",
        f"Written by `mft claims report` from the runs in `{out}`; the designs are in `conf/experiment/claims`. {RULE}", "",
        "Differences are in points (hundredths) of the share of problems that are solved, unless a claim names another metric.", "",
        f"{tally(states)}.", "",
        *table(HEAD, rows),
    ]  # fmt: skip
    for state in states:
        lines += section(state)
    return "\n".join(lines).rstrip() + "\n"


def tally(states: Sequence[State]) -> str:
    """12 claims. holds: 3; does not hold: 4; not run: 5."""
    counts = Counter(state.verdict for state in states)
    return f"{count(len(states), 'claim')}. " + "; ".join(f"{verdict}: {n}" for verdict, n in sorted(counts.items()))


def short(state: State) -> str:
    parts = [f"{points(o.effect.difference)} {points_interval(o.effect.interval)}" for o in state.outcomes if o.effect]
    return "; ".join(parts) or NONE


def section(state: State) -> list[str]:
    claim = state.claim
    lines = [
        f"## {state.name}",
        "",
        f"**{cell(claim.claim)}** Document {claim.source.document}, {cell(claim.source.section)}.",
        "",
    ]
    lines += [f"Verdict: **{state.verdict}**. Published: {cell(claim.source.published)}.", ""]
    if claim.remark:
        lines += [f"Remark: {cell(claim.remark)}", ""]
    if state.changed:
        lines += [
            f"CHANGED: earlier runs had another design ({', '.join(e['digest'] for e in state.history)}; now {claim.digest}).",
            "",
        ]
    if state.verdict != NOT_RUN:
        lines += [
            f"{count(state.done, 'run')} of {state.total}, {count(len(claim.seeds), 'seed')} an arm, {claim.problems} problems; "
            f"{duration(state.cost_s)} of run time ({state.machine or 'machine unknown'}). Design {claim.digest}, {commit(state)}.", "",
        ]  # fmt: skip
    if state.cells:
        rows = [
            (o.name, points(o.effect.difference), points_interval(o.effect.interval), detectable(o.effect.detectable), o.verdict)
            for o in state.outcomes if o.effect
        ]  # fmt: skip
        lines += table(("contrast", "difference", "95 % interval", "could detect", "verdict"), rows)
        lines += table(("arm", *claim.benchmarks), [
            (arm, *(f"{100 * state.cells[f'{arm}/{b}']:.1f}" for b in claim.benchmarks)) for arm in claim.arms
        ])  # fmt: skip
    lines += design(state)
    return lines


def detectable(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}"


def commit(state: State) -> str:
    if not state.history:
        return "its runs were made for other claims"
    known = state.history[-1].get("commit")
    return f"committed in {known} before its first run" if known else "not committed when it first ran"


def design(state: State) -> list[str]:
    """What is run, for a reader who wants to repeat it."""
    claim = state.claim
    lines = [
        f"Design: {', '.join(f'`{arm}`' for arm in claim.arms)}, seeds {', '.join(map(str, claim.seeds))}; it can detect {smallest(state)} "
        f"by its assumptions; a difference below {100 * claim.smallest:.1f} points does not matter.", "",
        f"    mft claims run {state.name}", "",
        f"    mft train {' '.join(claim.common)} ...", "",
        *table(("arm", "overrides"), [(arm, " ".join(words) or NONE) for arm, words in claim.arms.items()]),
    ]  # fmt: skip
    if claim.at_paper_size:
        lines += [f"At the paper's size ({NOT_RUN}):", "", *(f"    {words}" for words in claim.at_paper_size), ""]
    return lines
