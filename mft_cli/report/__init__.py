"""Compares run folders: `build` writes report.html, .md, .json and flips.txt; `terminal_table` prints the scores.

Layers: runs (read) -> compare, groups, flips, notices -> summary -> tables -> sections, a document -> page, markdown; terminal.
No torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from mft_cli.errors import UserError
from mft_cli.files import write_atomically
from mft_cli.report.compare.flips import every
from mft_cli.report.read.runs import Run, read_runs
from mft_cli.report.render import flips_text, markdown, page, plots
from mft_cli.report.render.sections import report
from mft_cli.report.render.terminal import summary_table, terminal_table
from mft_cli.report.summary import Summary, as_json, summarise

__all__ = ["ReportPaths", "Run", "build", "read_runs", "summarise", "summary_table", "terminal_table", "write"]


@dataclass(frozen=True)
class ReportPaths:
    """The files that were written."""

    html: Path
    markdown: Path
    json: Path
    flips: Path
    plots: list[Path] = field(default_factory=list)


def build(folders: list[Path], out: Path) -> ReportPaths:
    """The report on the given run folders (or parents of run folders), written into `out`."""
    return write(summarise(read_runs([Path(folder) for folder in folders])), out)


def write(summary: Summary, out: Path) -> ReportPaths:
    """The files of a report."""
    drawn = plots.draw(summary.runs)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = [out / f"{plot.curve.name}.png" for plot in drawn]
        for plot, path in zip(drawn, files, strict=True):
            path.write_bytes(plot.light)
        paths = ReportPaths(out / "report.html", out / "report.md", out / "report.json", out / "flips.txt", files)
        document = report(summary, drawn)
        write_atomically(paths.html, page.render(document))
        write_atomically(paths.markdown, markdown.render(document))
        write_atomically(paths.flips, flips_text.render(every(summary.pairs, summary.evaluation_of)))
        # ASCII: a lone surrogate from a model's text is legal in JSON as an escape, not as UTF-8.
        write_atomically(paths.json, json.dumps(as_json(summary), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"the report cannot be written to {out}: {error.strerror or error}.") from error
    return paths
