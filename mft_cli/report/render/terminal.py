"""The compact score table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mft_cli.console import text_table
from mft_cli.report.compare.pairs import Pair
from mft_cli.report.read.runs import Run, read_runs
from mft_cli.report.render import tables
from mft_cli.report.render.measures import Block, measures
from mft_cli.report.summary import Summary, summarise
from mft_cli.report.wording import NONE, one_line

HEAD = ("run", "benchmark", "n", "accuracy [95 %]", "gold log-likelihood", "difference to the first [95 %]", "decided?")


def terminal_table(runs: Sequence[Run | Path | str]) -> str:
    """Scores of the runs (or run folders), each compared with the first one on its benchmark."""
    read = [item if isinstance(item, Run) else read_runs([Path(item)]) for item in runs]
    flat = [run for item in read for run in (item if isinstance(item, list) else [item])]
    return summary_table(summarise(flat))


def summary_table(summary: Summary) -> str:
    """The same of runs that were compared before."""
    rows = [row for benchmark in summary.benchmarks for row in benchmark_rows(summary, benchmark)]
    if not rows:
        return "No run has been evaluated yet."
    loud = [f"! {one_line(notice.where)}: {notice.text}" for notice in summary.notices if notice.level == "alarm"]
    more = [line for block in measures(summary.evaluations) for line in ["", block.title, *_block(block)]]
    return "\n".join([*text_table([HEAD, *rows]), *more, *loud])


def _block(block: Block) -> list[str]:
    return text_table([tuple(block.head), *(tuple(one_line(cell) for cell in row) for row in block.rows)])


def benchmark_rows(summary: Summary, benchmark: str) -> list[tuple[str, ...]]:
    """One benchmark's lines."""
    scores = tables.score_rows(summary, benchmark)
    against = {
        pair.second: pair for pair in summary.pairs if pair.benchmark == benchmark and pair.first == scores[0].label
    }
    rows: list[tuple[str, ...]] = []
    for row in scores:
        accuracy = f"{row.accuracy} {row.interval}" if row.finished else "not finished"
        name = row.label + (f" ({row.run_state})" if row.run_state else "")
        rows.append((one_line(name), one_line(benchmark), row.n, accuracy, row.gold, *_against(against.get(row.label))))
    return rows


def _against(pair: Pair | None) -> tuple[str, str]:
    if pair is None:
        return NONE, NONE
    row = tables.pair_row(pair)
    return (NONE, f"not compared: {row.refused}") if row.refused else (f"{row.difference} {row.interval}", row.verdict)
