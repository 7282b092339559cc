"""The compact score table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mft_cli.console import text_table
from mft_cli.report.read.runs import Run, read_runs
from mft_cli.report.render import tables
from mft_cli.report.render.measures import Block, measures
from mft_cli.report.summary import Summary, summarise
from mft_cli.report.wording import NONE, one_line

DIFFERENCE = ("difference to the first [95 %]", "decided?")
HEAD = ("run", "benchmark", "n", "accuracy [95 %]", *DIFFERENCE)
GOLD_HEAD = ("run", "benchmark", "log-likelihood", *DIFFERENCE)
GOLD_TITLE = "Gold solutions' log-likelihood per token, in nats (differences of few problems show here first):"


def terminal_table(runs: Sequence[Run | Path | str]) -> str:
    """Scores of the runs (or run folders), each compared with the first one on its benchmark."""
    read = [item if isinstance(item, Run) else read_runs([Path(item)]) for item in runs]
    flat = [run for item in read for run in (item if isinstance(item, list) else [item])]
    return summary_table(summarise(flat))


def summary_table(summary: Summary) -> str:
    """The same of runs that were compared before."""
    scores = [line for benchmark in summary.benchmarks for line in benchmark_lines(summary, benchmark)]
    if not scores:
        return "No run has been evaluated yet."
    measured = [line for line in scores if line.score.gold != NONE]
    gold = ["", GOLD_TITLE, *text_table([GOLD_HEAD, *map(gold_cells, measured)])] if measured else []
    loud = [f"! {one_line(notice.where)}: {notice.text}" for notice in summary.notices if notice.level == "alarm"]
    more = [line for block in measures(summary.evaluations) for line in ["", block.title, *_block(block)]]
    return "\n".join([*text_table([HEAD, *map(accuracy_cells, scores)]), *gold, *more, *loud])


def _block(block: Block) -> list[str]:
    return text_table([tuple(block.head), *(tuple(one_line(cell) for cell in row) for row in block.rows)])


@dataclass(frozen=True)
class Line:
    """One evaluation, and its comparison with the first run's where there is one."""

    score: tables.ScoreRow
    pair: tables.PairRow | None

    @property
    def named(self) -> tuple[str, str]:
        name = self.score.label + (f" ({self.score.run_state})" if self.score.run_state else "")
        return one_line(name), one_line(self.score.benchmark)


def benchmark_lines(summary: Summary, benchmark: str) -> list[Line]:
    """One benchmark's evaluations."""
    scores = tables.score_rows(summary, benchmark)
    against = {
        pair.second: pair for pair in summary.pairs if pair.benchmark == benchmark and pair.first == scores[0].label
    }
    return [Line(row, tables.pair_row(against[row.label]) if row.label in against else None) for row in scores]


def accuracy_cells(line: Line) -> tuple[str, ...]:
    score, pair = line.score, line.pair
    accuracy = f"{score.accuracy} {score.interval}" if score.finished else "not finished"
    if pair is None:
        return *line.named, score.n, accuracy, NONE, NONE
    if pair.refused:
        return *line.named, score.n, accuracy, NONE, f"not compared: {pair.refused}"
    return *line.named, score.n, accuracy, f"{pair.difference} {pair.interval}", pair.verdict


def gold_cells(line: Line) -> tuple[str, ...]:
    pair = line.pair
    if pair is None or pair.pair.gold is None:
        return *line.named, line.score.gold, NONE, pair.gold_verdict if pair else NONE
    return *line.named, line.score.gold, f"{pair.gold_difference} {pair.gold_interval}", pair.gold_verdict
