"""The report as a document: which sections there are, and what stands in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mft_cli.report import wording
from mft_cli.report.compare.groups import Difference
from mft_cli.report.compare.notices import NOTE
from mft_cli.report.compare.pairs import Pair
from mft_cli.report.read.sample_tables import sample_tables
from mft_cli.report.render import tables
from mft_cli.report.render.blocks import blocks
from mft_cli.report.render.document import (
    Bullets,
    Cell,
    Column,
    Document,
    Figures,
    Flips,
    Folded,
    Heading,
    Paragraph,
    Part,
    Picture,
    Section,
    Table,
    Track,
    Verbatim,
    Words,
    bullets,
    plain_table,
    written_now,
)  # fmt: skip
from mft_cli.report.render.plots import Plot
from mft_cli.report.summary import Summary, wall_seconds
from mft_cli.report.wording import MINUS, NONE, count

FEW_PAIRS = 10  # with more, those that do not involve the first run are folded away
MANY_RUNS = 4  # with more, and fewer than FEW_SETTINGS settings, a run is a row of the settings
FEW_SETTINGS = 9

SCORES = (
    Column("run", "lead"), Column("accuracy [95 %]", "num"), Column("problems", "num"), Column("unparsed", "num"),
    Column("truncated", "num"), Column("timed out", "num"), Column("gold log-likelihood per token [95 %]", "num"),
)  # fmt: skip
PAIRS = (
    Column("second − first", "lead"), Column("difference in points [95 %]", "num"), Column("verdict"),
    Column("flips gained / lost, n", "num"), Column("p (Holm)", "num"), Column("smallest detectable, points", "num"),
    Column("gold log-likelihood difference [95 %]", "num"),
)  # fmt: skip
SEEDS = (
    Column("settings", "lead"), Column("benchmark"), Column("mean accuracy", "num"), Column("spread, points", "num"),
    Column("each seed, %"), Column("gold log-likelihood", "num"), Column("spread", "num"),
)  # fmt: skip
RUNS = (
    Column("run", "lead"), Column("method"), Column("seed", "num"), Column("state"), Column("steps", "num"),
    Column("wall time, last start", "num"), Column("in steps", "num"), Column("note"),
)  # fmt: skip


def report(summary: Summary, plots: Sequence[Plot]) -> Document:
    """Everything that the report says."""
    labels = {evaluation.label: i for i, run in enumerate(summary.runs) for evaluation in run.evaluations}
    on = f" on {', '.join(summary.benchmarks)}" if summary.benchmarks else ""
    runs = len(summary.runs)
    return Document(
        title=summary.runs[0].label if runs == 1 else f"{runs} runs compared",
        subtitle=f"{count(len(summary.evaluations), 'evaluation')}{on} · written {written_now()}",
        sections=sections(summary, plots),
        footer=f"Made by mft report from {count(runs, 'run folder')}; report.md and report.json hold the same numbers.",
        colours=labels | {run.label: i for i, run in enumerate(summary.runs)},
    )


def sections(summary: Summary, plots: Sequence[Plot]) -> list[Section]:
    """Those that have something to say."""
    figures = [Figures([picture(plot) for plot in plots])] if plots else []
    short = tables.in_short(summary)
    made = [
        Section("notices", "Notices", notices(summary) if summary.notices else []),
        Section("short", "In short", [bullets(short, "short")] if short else []),
        Section("scores", "Scores", scores(summary)),
        Section("seeds", "Seeds", seeds(summary) if summary.groups else []),
        Section("pairs", "Paired differences", pairs(summary) if summary.pairs else []),
        *(Section(b.id, b.title, [Paragraph(b.text), plain_table(b.head, b.rows)]) for b in blocks(summary)),
        Section("runs", "Runs and settings", [runs(summary), *(settings(summary) if len(summary.runs) > 1 else [])]),
        Section("curves", "Curves", figures),
        *sampled_texts(summary),
        Section("flips", "Flips", [Flips(summary.flips)] if summary.flips else []),
        Section("method", "How to read", [Bullets([(Words(t, "strong"), Words(x)) for t, x in tables.METHOD])]),
    ]
    return [section for section in made if section.parts]


def run_cell(label: str, *more: Words) -> Cell:
    return (Words(label, "run"), *more)


def number(text: str, interval: str = NONE) -> Cell:
    """A number, and its interval where it has one."""
    return (Words(text), *([Words(interval, "tight")] if interval and interval != NONE else []))


def texts(*cells: str) -> list[Cell]:
    return [(Words(text),) for text in cells]


# ---- sections -------------------------------------------------------------------------------------------------------


def notices(summary: Summary) -> list[Part]:
    """The loudest first."""
    ordered = sorted(summary.notices, key=lambda notice: notice.level == NOTE)
    items: list[Cell] = []
    for notice in ordered:
        sign = [] if notice.level == NOTE else [Words(notice.level.upper(), "kind")]
        items.append((*sign, Words(notice.where, "strong"), Words(f"— {notice.text}")))
    return [Bullets(items, "notices", [notice.level for notice in ordered])]


def scores(summary: Summary) -> list[Part]:
    """One table a benchmark, and under which conditions its scores were made."""
    parts: list[Part] = []
    for benchmark in summary.benchmarks:
        rows = tables.score_rows(summary, benchmark)
        scale = score_scale(rows)
        columns = (SCORES[0], Column("accuracy", "axis", [f"{round(100 * end)} %" for end in scale.ends]), *SCORES[1:])
        parts += [Heading(benchmark), Table(columns, [score_cells(row, scale) for row in rows])]
        parts += [Folded("How these scores were made", how_made(rows))] if any(row.finished for row in rows) else []
    return parts


def score_cells(row: tables.ScoreRow, scale: Scale) -> list[Cell]:
    marks = [Words("CONTAMINATED", "alarm", row.contaminated)] if row.contaminated else []
    marks += [Words(f"run {row.run_state}", "tag")] if row.run_state else []
    marks += [] if row.finished else [Words("evaluation not finished", "tag")]
    drawn = (
        [] if row.value is None else [scale.track(row.label, f"{row.accuracy} {row.interval}", row.value, row.bounds)]
    )
    counts = texts(row.n, row.unparsed, row.truncated, row.timed_out)
    return [
        run_cell(row.label, *marks), drawn, number(row.accuracy, row.interval), *counts, number(row.gold, row.gold_interval)
    ]  # fmt: skip


def how_made(rows: Sequence[tables.ScoreRow]) -> list[Part]:
    """A line for each run, then each prompt once."""
    finished = [row for row in rows if row.finished]
    parts: list[Part] = [Bullets([run_cell(row.label, Words(row.how)) for row in finished], "quiet")]
    for text in dict.fromkeys(row.prompt_text for row in finished if row.prompt_text):
        parts += [
            Paragraph(f"Prompt of {', '.join(row.label for row in finished if row.prompt_text == text)}:", quiet=True)
        ]
        parts += [Verbatim(text)]
    return parts


def seeds(summary: Summary) -> list[Part]:
    """Means over seeds, and the groups against each other."""
    twice = Words("— a seed occurs twice: these are no independent samples")
    groups = [
        (
            Words(f"{group.label}:"),
            *(Words(run.label, "run") for run in group.runs),
            *([twice] if group.repeated else []),
        )
        for group in summary.groups
    ]
    parts: list[Part] = [
        Paragraph(
            "Runs that differ in nothing but the seed. The spread is the standard deviation over seeds: what training again "
            "does to the score."
        ),
        Table(SEEDS, [texts(*row) for row in tables.seed_rows(summary)]),
        Bullets(groups, "quiet"),
    ]
    if summary.group_pairs:
        parts.append(
            Paragraph(
                "Each problem's score is averaged over the seeds, then paired. The interval and p cover the draw of problems "
                "and of seeds; runs with a common seed are pairs. Holm's correction is over the comparisons of this section."
            )
        )
    return parts + pair_tables(summary.group_pairs, ", seeds averaged", lambda some, scale: [pair_table(some, scale)])


def pairs(summary: Summary) -> list[Part]:
    """Every pair on every benchmark."""
    return [Paragraph(tables.how_many(summary)), *pair_tables(summary.pairs, "", foldable_pairs)]


def pair_tables(some: list[Pair], remark: str, shown: Callable[[list[Pair], Scale], list[Part]]) -> list[Part]:
    parts: list[Part] = []
    for benchmark in dict.fromkeys(pair.benchmark for pair in some):
        here = [pair for pair in some if pair.benchmark == benchmark]
        parts += [Heading(benchmark + remark), *shown(here, difference_scale(here))]
    return parts


def foldable_pairs(here: list[Pair], scale: Scale) -> list[Part]:
    """Of many pairs only those with the first run at once."""
    if len(here) <= FEW_PAIRS:
        return [pair_table(here, scale)]
    first = here[0].first
    others = [pair for pair in here if pair.first != first]
    against = pair_table([pair for pair in here if pair.first == first], scale, f"Against {first}")
    return [against, Folded(f"The other {count(len(others), 'pair')}", [pair_table(others, scale)])]


def pair_table(some: list[Pair], scale: Scale, caption: str = "") -> Table:
    ends = (wording.points(scale.low), "0", wording.points(scale.high))
    columns = (PAIRS[0], Column("difference", "axis", ends), *PAIRS[1:])
    return Table(columns, [pair_cells(tables.pair_row(pair), scale) for pair in some], caption)


def pair_cells(row: tables.PairRow, scale: Scale) -> list[Cell]:
    name = (
        Words(row.second, "run"), Words("−"), Words(row.first, "run"),
        *(Words(f"{label} is CONTAMINATED", "alarm") for label in row.pair.contaminated),
        *(Words(f"! {text}", "sub") for text in row.cautions),
    )  # fmt: skip
    if row.refused:
        return [name, [], (Words("not compared", "tag"), Words(row.refused))]
    drawn = scale.track(row.second, f"{row.difference} points {row.interval}", row.pair.difference, row.pair.interval)
    same = row.pair.same_text is not None and row.pair.same_text[0] == row.pair.same_text[1]
    kind = row.verdict if row.decided else "open"
    return [
        name, [drawn], number(row.difference, row.interval),
        (Words(row.verdict, kind), *([Words("same text", "alarm")] if same else [])),
        number(f"+{row.gained} / {MINUS}{row.lost}", f"of {row.n}"),
        number(row.p, f"({row.p_holm})" if row.p_holm != NONE else NONE), number(row.detectable),
        (*number(row.gold_difference, row.gold_interval if row.pair.gold else NONE), Words(row.gold_verdict, "sub")),
    ]  # fmt: skip


def runs(summary: Summary) -> Table:
    """What was run, and how far it came."""
    rows: list[list[Cell]] = []
    for run in summary.runs:
        method = wording.setting(run.config["method.name"]) if "method.name" in run.config else "evaluation only"
        seed = wording.setting(run.config["seed"]) if "seed" in run.config else NONE
        state = tables.STATE_WORDS.get(run.state, run.state)
        mark = "alarm" if state == "FAILED" else "tag"
        steps = NONE if run.step is None else f"{run.step} of {run.total_steps}" if run.total_steps else str(run.step)
        times = (wording.duration(wall_seconds(run)), wording.duration(run.seconds_in_steps))
        note = wording.one_line(str(run.config.get("note") or ""))
        marked = (Words(state, mark if run.unfinished else ""),)
        rows.append([run_cell(run.label), *texts(method, seed), marked, *texts(steps, *times, note)])
    return Table(RUNS, rows)


def settings(summary: Summary) -> list[Part]:
    """What differs between the runs."""
    labels = [run.label for run in summary.runs]
    few = len(labels) > MANY_RUNS and len(summary.settings) < FEW_SETTINGS
    table = settings_by_run if few else settings_table
    parts: list[Part] = [Heading("Settings that differ")]
    parts += [table(labels, summary.settings)] if summary.settings else [Paragraph("None.")]
    words = ("is", "it") if summary.same_settings == 1 else ("are", "them")
    same = f"{count(summary.same_settings, 'other setting')} {words[0]} the same in all runs that have {words[1]}."
    parts.append(Paragraph(same, quiet=True))
    if summary.surroundings:
        title = f"Code, data, packages and hardware that differ ({len(summary.surroundings)})"
        parts.append(Folded(title, [settings_table(labels, summary.surroundings)]))
    return parts


def settings_table(labels: list[str], rows: list[Difference]) -> Table:
    columns = [Column("key", "lead"), *map(Column, labels)]
    return Table(columns, [[(Words(row.key, "code"),), *texts(*row.values)] for row in rows], style="cards settings")


def settings_by_run(labels: list[str], rows: list[Difference]) -> Table:
    columns = [Column("run", "lead"), *(Column(row.key) for row in rows)]
    cells = [[run_cell(label), *texts(*(row.values[i] for row in rows))] for i, label in enumerate(labels)]
    return Table(columns, cells, style="cards settings")


def picture(plot: Plot) -> Picture:
    c = plot.curve
    return Picture(c.title, plot.light, plot.dark, c.name, c.remark, plot.caption, f"{c.title} against {c.x}")


def sampled_texts(summary: Summary) -> list[Section]:
    """Tables of what the runs' methods sampled, such as predicted against true text."""
    made = [(run.label, table) for run in summary.runs for table in sample_tables(run)]
    return [
        Section(f"samples-{i}", f"{t.title}: {label}", [Paragraph(t.remark), plain_table(t.head, t.rows, style="")])
        for i, (label, t) in enumerate(made)
    ]


# ---- axes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Where a value lies on a drawn axis, in percent of its width."""

    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def at(self, value: float) -> str:
        """Position for CSS."""
        return f"{100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low))):.2f}%"

    def width(self, interval: tuple[float, float]) -> str:
        """Length of an interval for CSS."""
        low, high = (min(self.high, max(self.low, value)) for value in interval)
        return f"{100 * (high - low) / (self.high - self.low):.2f}%"

    def track(self, run: str, label: str, value: float | None, interval: tuple[float, float] | None) -> Track:
        """`label`: the same in words. Zero is drawn where it lies inside the axis."""
        start, width = (self.at(interval[0]), self.width(interval)) if interval else (None, None)
        zero = self.at(0.0) if self.low < 0 < self.high else None
        return Track(run, label, None if value is None else self.at(value), start, width, zero)


def score_scale(rows: list[tables.ScoreRow]) -> Scale:
    """Round tenths around all intervals of a benchmark."""
    ends = [end for row in rows for end in (row.bounds or ()) if row.bounds]
    ends += [row.value for row in rows if row.value is not None]
    if not ends:
        return Scale(0.0, 1.0)
    low, high = math.floor(10 * min(ends) + 1e-9) / 10, math.ceil(10 * max(ends) - 1e-9) / 10
    return Scale(low, high if high > low else low + 0.1)


def difference_scale(pairs: list[Pair]) -> Scale:
    """Symmetric around zero."""
    ends = [abs(end) for pair in pairs for end in (pair.interval or ())]
    reach = max(ends, default=0.1) or 0.1
    step = 0.05 if reach < 0.3 else 0.1
    reach = math.ceil(reach / step - 1e-9) * step
    return Scale(-reach, reach)
