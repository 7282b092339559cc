"""Training curves as PNG. The only module that imports matplotlib, and only when something is drawn."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mft_cli.config.schema.methods import method_classes
from mft_cli.report.read.fields import Record
from mft_cli.report.read.runs import Run
from mft_cli.report.wording import is_number, one_line

# Okabe and Ito's colours, which people with any colour vision tell apart, without yellow (pale on white) and black; the
# dark variants are lighter. Beyond seven runs the line's dashes tell them apart.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b5579a", "#c98600", "#3d9bd1", "#6b6b6b")
DARK = ("#56b4e9", "#f08c4a", "#2fc49a", "#e29ac8", "#e8b04a", "#9ecbf0", "#b5b5b5")
Dashes = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dashes, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
SMOOTH_FROM = 80  # with more points than this, the points are drawn faintly and a running mean boldly
NAME_LENGTH = 44


@dataclass(frozen=True)
class Curve:
    """One figure: which field of metrics.jsonl it shows."""

    name: str
    title: str
    unit: str
    kind: str
    field: str
    remark: str = ""
    x: str = "optimizer step"


@dataclass(frozen=True)
class Point:
    """A setting of a sweep: the swept value, each seed's score, their mean and its interval (None for one seed)."""

    x: str
    values: list[float]
    mean: float
    interval: tuple[float, float] | None
    best: bool = False


CURVES = (
    Curve(
        "training-loss",
        "Training loss",
        "loss (nats/token)",
        "training",
        "loss",
        "A method that corrupts its input trains on a harder task: compare methods by validation loss and scores.",
    ),
    Curve("validation-loss", "Validation loss", "loss (nats/token)", "validation", "loss"),
    Curve("masked-share", "Masked share", "share of target tokens", "training", "masked_share"),
    *(Curve(m.name, m.title, m.unit, "training", m.field) for method in method_classes() for m in method.monitors),
    Curve("learning-rate", "Learning rate", "learning rate", "training", "learning_rate"),
    Curve("gradient-norm", "Gradient norm", "norm before clipping", "training", "grad_norm"),
    Curve("tokens-per-second", "Throughput", "tokens/s", "training", "tokens_per_s"),
)


# The run's colour, its label, x and y.
Line = tuple[int, str, list[int] | list[float], list[float]]


@dataclass(frozen=True)
class Plot:
    """A drawn figure, for a light and for a dark page."""

    curve: Curve
    light: bytes
    dark: bytes
    caption: str


def colour(index: int, dark: bool = False) -> str:
    """The colour of the run at this place, the same in every figure and in the page."""
    palette = DARK if dark else LIGHT
    return palette[index % len(palette)]


def draw(runs: list[Run]) -> list[Plot]:
    """Every figure for which there is something to show."""
    plots = []
    for curve in (*CURVES, *score_curves(runs)):
        lines = [(index, run.label, *points(getattr(run, curve.kind), curve.field)) for index, run in enumerate(runs)]
        series: list[Line] = [line for line in lines if line[2]]
        if curve.field == "masked_share" and not any(value > 0 for line in series for value in line[3]):
            continue
        if series:
            plots.append(
                Plot(curve, _figure(curve, series, False), _figure(curve, series, True), caption(curve, series))
            )
    return plots + risk_curves(runs)


def score_curves(runs: list[Run]) -> list[Curve]:
    """One figure for each benchmark that was evaluated while a run trained."""
    names = dict.fromkeys(name for run in runs for row in run.scored for name in row if f"{name}/n" in row)
    return [
        Curve(f"scored-{re.sub('[^A-Za-z0-9_-]', '_', n)}", f"{n} while training", "accuracy", "scored", n)
        for n in names
    ]


def risk_curves(runs: list[Run]) -> list[Plot]:
    """Share of wrong answers among the completions with the lowest entropy: one figure a benchmark."""
    plots = []
    for benchmark in dict.fromkeys(evaluation.benchmark for run in runs for evaluation in run.evaluations):
        series: list[Line] = []
        for index, run in enumerate(runs):
            for evaluation in (evaluation for evaluation in run.evaluations if evaluation.benchmark == benchmark):
                curve = ((evaluation.metrics or {}).get("failure_detection") or {}).get("risk_coverage")
                if curve:
                    series.append((index, evaluation.label, [p[0] for p in curve], [p[1] for p in curve]))
        if series:
            name = f"risk-coverage-{re.sub('[^A-Za-z0-9_-]', '_', benchmark)}"
            figure = Curve(name, f"Risk and coverage, {benchmark}", "share of wrong answers", "", "risk",
                           "Only the most certain answers are given, by mean entropy: the further the line falls below "
                           "its right end, the more entropy tells.", "share of completions answered")  # fmt: skip
            ends = "; ".join(f"{one_line(label)} {risk[-1]:.3f} at coverage 1, {risk[len(risk) // 2]:.3f} at "
                             f"{coverage[len(coverage) // 2]:.2f}" for _, label, coverage, risk in series)  # fmt: skip
            plots.append(Plot(figure, _figure(figure, series, False), _figure(figure, series, True), f"Risk: {ends}."))
    return plots


def points(rows: list[Record], field: str) -> tuple[list[int], list[float]]:
    """Steps and values; a skipped step's NaN leaves a gap instead of a point at nowhere."""
    kept = [(row["step"], float(row[field])) for row in rows if is_number(row.get(field))]
    return [step for step, _ in kept], [value for _, value in kept]


def caption(curve: Curve, series: list[Line]) -> str:
    """The last value of every run, for those who cannot see the figure, and how it is drawn."""
    ends = "; ".join(f"{one_line(label)} {values[-1]:.4g} at step {steps[-1]}" for _, label, steps, values in series)
    smooth = " Faint: every step; bold: running mean." if any(smoothed(curve, line[3]) for line in series) else ""
    return f"Last values: {ends}.{smooth}"


def smoothed(curve: Curve, values: list[float]) -> bool:
    """Whether a running mean helps: noisy quantities with many points."""
    return curve.field in ("loss", "grad_norm", "tokens_per_s") and len(values) > SMOOTH_FROM


def running_mean(values: list[float], width: int) -> list[float]:
    """Centred mean; at the ends over what there is, so that the line is as long as the data."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    edges = [(max(0, i - width // 2), min(len(values), i + width // 2 + 1)) for i in range(len(values))]
    return [(sums[high] - sums[low]) / (high - low) for low, high in edges]


def _figure(curve: Curve, series: list[Line], dark: bool) -> bytes:
    """One PNG. Uses the object interface: pyplot would keep every figure in memory and look for a display."""
    figure, axes, ink = _paper(curve.title, curve.x, curve.unit, 3.3 + 0.19 * len(series), dark)
    for order, line in enumerate(series):
        # Runs that lie on top of each other (the same schedule) stay visible: earlier lines are wider.
        _line(axes, curve, line, 1.5 + 2.6 * (1 - (order + 1) / len(series)), dark)
    everything = [value for line in series for value in line[3]]
    if min(everything) > 0 and max(everything) > 50 * min(everything) and curve.field in ("loss", "grad_norm"):
        axes.set_yscale("log")
    elif curve.field != "loss":
        axes.set_ylim(bottom=0)
    if curve.field != "risk":
        axes.locator_params(axis="x", integer=True)
    if len(series) <= 16:
        figure.legend(loc="outside lower left", fontsize=8.5, frameon=False, labelcolor=ink, ncols=1)
    return _png(figure)


def _paper(title: str, x: str, y: str, height: float, dark: bool) -> tuple[Any, Any, str]:
    """An empty figure, its axes, and the colour of its ink."""
    from matplotlib.figure import Figure

    ink, paper, grid = ("#e6e6e6", "#1b1e23", "#3a3f47") if dark else ("#222222", "#ffffff", "#e3e3e3")
    figure = Figure(figsize=(6.4, height), dpi=144, facecolor=paper, layout="constrained")
    axes = figure.add_subplot(facecolor=paper)
    axes.set_title(_plain(title), color=ink, fontsize=11, loc="left", fontweight="bold")
    axes.set_xlabel(_plain(x), color=ink, fontsize=9)
    axes.set_ylabel(_plain(y), color=ink, fontsize=9)
    axes.grid(True, color=grid, linewidth=0.7)
    axes.tick_params(colors=ink, labelsize=8.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(ink)
    return figure, axes, ink


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    # Without a software entry the same data gives the same bytes under any matplotlib.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _plain(text: str) -> str:
    """matplotlib reads $...$ as mathematics."""
    return one_line(text).replace("$", r"\$")


def _line(axes: Any, curve: Curve, line: Line, width: float, dark: bool) -> None:
    """One run's curve."""
    index, label, steps, values = line
    name = _name(label)
    style = {"color": colour(index, dark), "linestyle": DASHES[(index // len(LIGHT)) % len(DASHES)]}
    if smoothed(curve, values):
        axes.plot(steps, values, linewidth=0.8, alpha=0.4, color=style["color"])
        values = running_mean(values, max(5, len(values) // 30))
    marker = "o" if len(values) <= 12 else ""
    axes.plot(steps, values, linewidth=width, label=name, marker=marker, markersize=3.5, **style)


def heat_map(title: str, rows: list[str], columns: list[str], values: list[list[float | None]]) -> bytes:
    """Shares by row and column with their percentages; a cell without a value stays empty."""
    figure, axes, ink = _paper(title, "", "layer", 1.6 + 0.24 * len(rows), False)
    axes.grid(False)
    numbers = [[float("nan") if v is None else v for v in row] for row in values]
    axes.imshow(numbers, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(len(columns)), [_plain(c) for c in columns], rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), [_plain(r) for r in rows])
    most = max((v for row in values for v in row if v is not None), default=0.0)
    for y, row in enumerate(values):
        for x, v in enumerate(row):
            if v is not None:
                axes.text(
                    x,
                    y,
                    f"{100 * v:.1f}",
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="white" if v > most / 2 else ink,
                )
    return _png(figure)


# ---- analyses -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """A value with its interval."""

    value: float
    interval: tuple[float, float]


def bars(title: str, y: str, groups: list[str], series: list[tuple[str, list[Bar]]], dark: bool = False) -> bytes:
    """For every group one bar a series, with intervals."""
    figure, axes, ink = _paper(title, "", y, 3.3 + 0.19 * len(series), dark)
    axes.grid(False, axis="x")
    axes.set_axisbelow(True)
    width = 0.8 / len(series)
    for index, (label, values) in enumerate(series):
        places = [g + width * (index - (len(series) - 1) / 2) for g in range(len(groups))]
        axes.bar(places, [b.value for b in values], 0.92 * width, color=colour(index, dark), label=_name(label))
        for position, bar in zip(places, values, strict=True):
            axes.plot([position, position], list(bar.interval), color=ink, linewidth=1.2)
    axes.axhline(0, color=ink, linewidth=0.8)
    axes.set_xticks(range(len(groups)), [_plain(g) for g in groups])
    figure.legend(loc="outside lower left", fontsize=8.5, frameon=False, labelcolor=ink, ncols=1)
    return _png(figure)


def loss_lines(
    title: str, x: str, series: list[tuple[str, list[float], list[float]]], marks: list[tuple[float, str]],
    dark: bool = False,
) -> bytes:  # fmt: skip
    """Loss against a coordinate, one line a series; `marks` are named places on the x axis."""
    figure, axes, ink = _paper(title, x, "loss (nats/token)", 3.3 + 0.19 * len(series), dark)
    for index, (label, places, values) in enumerate(series):
        style = {"color": colour(index, dark), "linestyle": DASHES[(index // len(LIGHT)) % len(DASHES)]}
        axes.plot(places, values, marker="o", markersize=3.5, linewidth=1.6, label=_name(label), **style)
    for position, name in marks:
        axes.axvline(position, color=ink, linewidth=0.8, linestyle=DASHES[2])
        axes.annotate(_name(name), (position, 1), xycoords=("data", "axes fraction"), xytext=(3, -3), fontsize=7.5,
                      textcoords="offset points", rotation=90, va="top", color=ink)  # fmt: skip
    shown = [v for _, _, values in series for v in values if is_number(v)]
    if shown and min(shown) > 0 and max(shown) > 50 * min(shown):
        axes.set_yscale("log")
    if len(series) > 1:
        figure.legend(loc="outside lower left", fontsize=8.5, frameon=False, labelcolor=ink, ncols=1)
    return _png(figure)


def loss_surface(
    title: str, axes_names: tuple[str, str], across: list[float], up: list[float], loss: list[list[float]],
    marks: list[tuple[float, float, str]], dark: bool = False,
) -> bytes:  # fmt: skip
    """Contours of loss[up][across]; `marks` are named points."""
    figure, axes, ink = _paper(title, *axes_names, 4.6, dark)
    axes.grid(False)
    filled = axes.contourf(across, up, loss, levels=14, cmap="cividis")
    axes.contour(across, up, loss, levels=14, colors=ink, linewidths=0.4)
    for index, (x, y, name) in enumerate(marks):
        axes.plot([x], [y], "*^sDoXP"[index % 7], markersize=9, color=colour(index + 1, True), markeredgecolor="#111111",
                  label=_name(name), linestyle="none", clip_on=False)  # fmt: skip
    bar = figure.colorbar(filled)
    bar.ax.tick_params(colors=ink, labelsize=8)
    bar.set_label("loss (nats/token)", color=ink, fontsize=9)
    if marks:
        figure.legend(loc="outside lower left", fontsize=8.5, frameon=False, labelcolor=ink, ncols=1)
    return _png(figure)


def _name(label: str) -> str:
    """A legend's entry: short, and without the underscore that matplotlib hides."""
    name = _plain(label)
    name = name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH // 2]}…{name[-NAME_LENGTH // 2 + 1 :]}"
    return f" {name}" if name.startswith("_") else name


# ---- sweeps ---------------------------------------------------------------------------------------------------------


def sweep_line(metric: str, key: str, points: list[Point], dark: bool = False) -> bytes:
    """Score against one swept value: means with intervals, every seed a faint dot; the best in another colour."""
    figure, axes, _ = _paper(f"{metric} against {key}", key, metric, 3.6, dark)
    numbers = as_numbers([point.x for point in points])
    places = numbers or [float(i) for i in range(len(points))]
    order = sorted(range(len(points)), key=lambda i: places[i])
    if numbers and len(set(numbers)) == len(numbers):
        axes.plot([places[i] for i in order], [points[i].mean for i in order], color=colour(6, dark), linewidth=1)
    for position, point in zip(places, points, strict=True):
        paint = colour(1 if point.best else 0, dark)
        axes.plot([position] * len(point.values), point.values, "o", color=paint, alpha=0.35, markersize=4)
        axes.plot([position], [point.mean], "D" if point.best else "o", color=paint, markersize=6)
        if point.interval:
            axes.plot([position, position], list(point.interval), color=paint, linewidth=2)
    if not numbers:
        axes.set_xticks(places, [_plain(point.x)[:NAME_LENGTH] for point in points], rotation=20, ha="right")
    elif min(numbers) > 0 and max(numbers) > 50 * min(numbers):
        axes.set_xscale("log")
    return _png(figure)


def sweep_map(metric: str, keys: tuple[str, str], points: dict[tuple[str, str], Point], dark: bool = False) -> bytes:
    """Mean score of every pair of two swept values, written into its cell; the best is framed."""
    down, across = (in_order(dict.fromkeys(pair[i] for pair in points)) for i in (0, 1))
    height = min(14.0, 1.6 + 0.45 * len(down))
    figure, axes, ink = _paper(f"{metric}: mean over seeds", keys[1], keys[0], height, dark)
    table = [[points[y, x].mean if (y, x) in points else float("nan") for x in across] for y in down]
    image = axes.imshow(table, aspect="auto", cmap="cividis")
    axes.grid(False)
    axes.set_xticks(range(len(across)), [_plain(x)[:NAME_LENGTH] for x in across])
    axes.set_yticks(range(len(down)), [_plain(y)[:NAME_LENGTH] for y in down])
    means = [point.mean for point in points.values()]
    middle = (min(means) + max(means)) / 2
    for (y, x), point in points.items():
        paint = "#111111" if point.mean > middle else "#f2f2f2"
        cell = (across.index(x), down.index(y))
        axes.text(*cell, f"{point.mean:.4g}", ha="center", va="center", fontsize=8.5, color=paint,
                  fontweight="bold" if point.best else "normal")  # fmt: skip
        if point.best:
            axes.plot(*cell, "s", markersize=30, markerfacecolor="none", markeredgecolor=colour(1, dark))
    figure.colorbar(image).ax.tick_params(colors=ink, labelsize=8)
    return _png(figure)


def as_numbers(texts: list[str]) -> list[float] | None:
    """The swept values as finite numbers; None if one is something else."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return None
    return numbers if all(is_number(n) for n in numbers) else None


def in_order(texts: Iterable[str]) -> list[str]:
    """Numbers by size, words as they came."""
    labels = list(texts)
    return sorted(labels, key=float) if as_numbers(labels) else labels
