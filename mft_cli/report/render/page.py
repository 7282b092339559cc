"""One self-contained HTML page: no network, no external file, and untrusted text that stays text.

Completions are written by a model that was trained on anything. Three walls: jinja escapes every value, `visible`
replaces characters that act (ANSI, NUL, direction overrides), a content security policy lets only our own script run.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mft_cli.report import wording
from mft_cli.report.compare.flips import PER_PAIR
from mft_cli.report.compare.notices import ALARM, NOTE, WARNING
from mft_cli.report.compare.pairs import Pair
from mft_cli.report.read.sample_tables import sample_tables
from mft_cli.report.render import tables
from mft_cli.report.render.blocks import blocks
from mft_cli.report.render.plots import Plot, colour
from mft_cli.report.summary import Summary

TEMPLATES = Path(__file__).parent
FEW_PAIRS = 10  # with more, those that do not involve the first run are folded away


@dataclass(frozen=True)
class Scale:
    """Where a value lies on a drawn axis, in percent of its width."""

    low: float
    high: float

    def at(self, value: float) -> str:
        """Position for CSS."""
        return f"{100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low))):.2f}%"

    def width(self, interval: tuple[float, float]) -> str:
        """Length of an interval for CSS."""
        low, high = (min(self.high, max(self.low, value)) for value in interval)
        return f"{100 * (high - low) / (self.high - self.low):.2f}%"


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


def render(summary: Summary, plots: list[Plot], made: datetime | None = None) -> str:
    """The page."""
    script = (TEMPLATES / "script.js.jinja").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment()
    page.globals.update(tables=tables, wording=wording, score_scale=score_scale, difference_scale=difference_scale)
    page.globals.update(sample_tables=sample_tables)
    return page.get_template("page.html.jinja").render(
        s=summary,
        blocks=blocks(summary),
        plots=[(plot, _data_uri(plot.light), _data_uri(plot.dark)) for plot in plots],
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        colours=[(colour(i), colour(i, dark=True)) for i in range(len(summary.runs))],
        colour_of={run.label: index for index, run in enumerate(summary.runs)}
        | {evaluation.label: index for index, run in enumerate(summary.runs) for evaluation in run.evaluations},
        levels=(ALARM, WARNING, NOTE),
        made=(made or datetime.now().astimezone()).strftime("%Y-%m-%d %H:%M %Z"),
        few=FEW_PAIRS,
        per_pair=PER_PAIR,
    )


@dataclass(frozen=True)
class Table:
    """One table of a page; every cell is finished text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """One plot as PNG, for a light and for a dark page."""

    title: str
    light: bytes
    dark: bytes
    name: str = ""


def tables_page(
    title: str, sentences: list[str], tables: Sequence[Table], pictures: Iterable[Picture], reading: Sequence[str]
) -> str:
    """A page of tables (title, caption, head, rows), then pictures (title, light and dark PNG); without a script."""
    shown = [{"title": p.title, "light": _data_uri(p.light), "dark": _data_uri(p.dark)} for p in pictures]
    return environment().get_template("sweep.html.jinja").render(
        title=title, sentences=sentences, tables=tables, plots=shown, reading=reading, colours=[],
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )  # fmt: skip


def environment() -> Environment:
    """Jinja as every page of ours has it: values escaped, missing names an error, acting characters made visible."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # not select_autoescape: that goes by the file's ending and would skip .jinja
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )


def _seen(value: object) -> object:
    """Runs on every value that is put into the page: what would act becomes visible."""
    return wording.visible(value) if type(value) is str else value


def _data_uri(image: bytes) -> str:
    """A PNG as the address of an image inside the page."""
    return "data:image/png;base64," + base64.b64encode(image).decode()
