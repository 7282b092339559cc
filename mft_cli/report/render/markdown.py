"""The report as Markdown, next to the PNG files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from mft_cli.report import wording
from mft_cli.report.compare.notices import NOTE
from mft_cli.report.compare.pairs import Pair
from mft_cli.report.read.sample_tables import sample_tables
from mft_cli.report.render import tables
from mft_cli.report.render.blocks import blocks
from mft_cli.report.render.plots import Plot
from mft_cli.report.summary import Summary

SPECIAL = re.compile(r"([\\`*_\[\]<>|~#])")  # also stops raw HTML: names and warnings are untrusted
LISTED = 30  # problem ids listed for a direction

SCORE_HEAD = (
    "run", "accuracy [95 %]", "problems", "unparsed", "truncated", "timed out", "gold log-likelihood [95 %]", "remarks",
)  # fmt: skip
SEED_HEAD = (
    "settings", "benchmark", "mean accuracy", "spread (sd), points", "each seed, %", "gold log-likelihood", "spread (sd)",
)  # fmt: skip
PAIR_HEAD = (
    "second − first", "difference, points [95 %]", "verdict", "gained / lost of n", "p", "Holm p",
    "smallest detectable, points", "gold log-likelihood difference [95 %]", "gold verdict",
)  # fmt: skip


def cell(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(r"\\\1", wording.one_line(str(text)))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A pipe table and an empty line."""
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(' --- ' for _ in head)}|"]
    return [*lines, *(f"| {' | '.join(cell(value) for value in row)} |" for row in rows), ""]


def render(summary: Summary, plots: Sequence[tuple[Plot, str]], made: datetime | None = None) -> str:
    """report.md; `plots` come with the names of their files."""
    written = (made or datetime.now().astimezone()).strftime("%Y-%m-%d %H:%M %Z")
    lines = [f"# {wording.count(len(summary.runs), 'run')} compared", "", f"Written {written}.", ""]
    lines += notices(summary) + in_short(summary) + scores(summary) + seeds(summary)
    lines += pairs(summary) + more(summary) + runs(summary) + curves(plots) + sampled_texts(summary) + flips(summary)
    lines += ["## How to read", "", *(f"- **{term}**: {text}" for term, text in tables.METHOD)]
    return "\n".join(lines) + "\n"


def notices(summary: Summary) -> list[str]:
    """At the top, the loudest first."""
    if not summary.notices:
        return []
    lines = []
    for notice in summary.notices:
        sign = "" if notice.level == NOTE else f"**{notice.level.upper()}** "
        lines.append(f"> - {sign}**{cell(notice.where)}**: {cell(notice.text)}")
    return [*lines, ""]


def in_short(summary: Summary) -> list[str]:
    """The findings in sentences."""
    sentences = tables.in_short(summary)
    return ["## In short", "", *(f"- {cell(text)}" for text in sentences), ""] if sentences else []


def scores(summary: Summary) -> list[str]:
    """One table a benchmark."""
    lines = ["## Scores", ""] if summary.evaluations else []
    for benchmark in summary.benchmarks:
        rows = []
        for row in tables.score_rows(summary, benchmark):
            remarks = [f"CONTAMINATED: {row.contaminated}"] if row.contaminated else []
            remarks += [f"run {row.run_state}"] if row.run_state else []
            remarks += [] if row.finished else ["evaluation not finished"]
            accuracy, gold = f"{row.accuracy} {row.interval}", f"{row.gold} {row.gold_interval}"
            counts = (row.n, row.unparsed, row.truncated, row.timed_out)
            rows.append((row.label, accuracy, *counts, gold, "; ".join(remarks)))
        lines += [f"### {cell(benchmark)}", "", *table(SCORE_HEAD, rows)]
    return lines


def seeds(summary: Summary) -> list[str]:
    """Means over seeds, and the groups against each other."""
    if not summary.groups:
        return []
    rows = [
        (row.label, row.benchmark, row.mean, row.deviation, row.each, row.gold, row.gold_deviation)
        for row in tables.seed_rows(summary)
    ]
    lines = ["## Seeds", "", *table(SEED_HEAD, rows)]
    for group in summary.groups:
        warning = "; a seed occurs twice: these are no independent samples" if group.repeated else ""
        lines.append(f"- {cell(group.label)}: {', '.join(cell(run.label) for run in group.runs)}{warning}")
    lines.append("")
    if summary.group_pairs:
        lines += [
            "Seeds averaged problem by problem; intervals and p values cover the draw of problems and of seeds.",
            "",
        ]
    return lines + pair_tables(summary.group_pairs, "seeds averaged")


def pairs(summary: Summary) -> list[str]:
    """Every pair on every benchmark."""
    if not summary.pairs:
        return []
    return ["## Paired differences", "", tables.how_many(summary), "", *pair_tables(summary.pairs)]


def more(summary: Summary) -> list[str]:
    """Agreement, consistency, domains, overlap, failure detection."""
    lines = []
    for block in blocks(summary):
        lines += [f"## {block.title}", "", block.text, "", *table([cell(h) for h in block.head], block.rows)]
    return lines


def pair_tables(some: list[Pair], remark: str = "") -> list[str]:
    """One table a benchmark."""
    lines = []
    for benchmark in dict.fromkeys(pair.benchmark for pair in some):
        rows = [pair_cells(row) for row in tables.pair_rows(some, benchmark)]
        lines += [f"### {cell(benchmark)}{f', {remark}' if remark else ''}", "", *table(PAIR_HEAD, rows)]
    return lines


def pair_cells(row: tables.PairRow) -> tuple[str, ...]:
    """One comparison."""
    name = f"{row.second} − {row.first}"
    if row.refused:
        return (name, wording.NONE, f"not compared: {row.refused}", *[wording.NONE] * 6)
    bad = [f"{label} is CONTAMINATED" for label in row.pair.contaminated]
    words = "; ".join([row.verdict, *row.cautions, *bad])
    flips = f"+{row.gained} / {wording.MINUS}{row.lost} of {row.n}"
    gold = f"{row.gold_difference} {row.gold_interval}" if row.pair.gold else wording.NONE
    change = f"{row.difference} {row.interval}"
    return (name, change, words, flips, row.p, row.p_holm, row.detectable, gold, row.gold_verdict)


def runs(summary: Summary) -> list[str]:
    """What was run, and the settings that differ."""
    head = ("run", "method", "seed", "state", "steps", "wall time, last start", "in steps", "note")
    rows = [
        (row.label, row.method, row.seed, row.state, row.steps, row.wall, row.in_steps, row.note)
        for row in tables.run_rows(summary)
    ]
    lines = ["## Runs and settings", "", *table(head, rows)]
    if len(summary.runs) < 2:
        return lines
    names = ("key", *(cell(run.label) for run in summary.runs))
    lines += ["### Settings that differ", ""]
    lines += table(names, [(row.key, *row.values) for row in summary.settings]) if summary.settings else ["None.", ""]
    lines += [f"{wording.count(summary.same_settings, 'other setting')} the same.", ""]
    if summary.surroundings:
        lines += ["### Code, data, packages and hardware that differ", ""]
        lines += table(names, [(row.key, *row.values) for row in summary.surroundings])
    return lines


def curves(plots: Sequence[tuple[Plot, str]]) -> list[str]:
    """The figures."""
    lines = ["## Curves", ""] if plots else []
    for plot, name in plots:
        lines += [f"![{plot.curve.title}]({name})", "", cell(f"{plot.caption} {plot.curve.remark}"), ""]
    return lines


def sampled_texts(summary: Summary) -> list[str]:
    """Tables of what the runs' methods sampled, such as predicted against true text."""
    lines = []
    for run in summary.runs:
        for made in sample_tables(run):
            lines += [f"## {made.title}: {cell(run.label)}", "", *table(made.head, made.rows)]
    return lines


def flips(summary: Summary) -> list[str]:
    """Which problems changed; the texts are in the page."""
    lines = (
        ["## Flips", "", "Both completions of each are in flips.txt, up to 20 a pair in report.html.", ""]
        if summary.flips
        else []
    )
    for part in summary.flips:
        pair = part.pair
        lines.append(f"- {cell(pair.benchmark)}, {cell(pair.second)} − {cell(pair.first)}")
        lines += [f"  - {name}: {listed(ids)}" for name, ids in (("gained", pair.gained), ("lost", pair.lost))]
    return [*lines, ""] if lines else []


def listed(ids: list[str]) -> str:
    """Problem ids; what is too many is counted."""
    words = ", ".join(cell(problem) for problem in ids[:LISTED]) or "none"
    return words + (f" and {len(ids) - LISTED} more" if len(ids) > LISTED else "")
