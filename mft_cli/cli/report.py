"""`mft report`: its help, its options and what it calls."""

from __future__ import annotations

from mft_cli.cli.options import own_keys
from mft_cli.errors import UserError


def main(arguments: list[str]) -> None:
    from pathlib import Path

    own, rest = own_keys(arguments, "out")
    if not rest:
        raise UserError("mft report needs run folders: mft report outputs/a outputs/b")
    for folder in rest:
        if not Path(folder).is_dir():
            raise UserError(
                f"{folder}: {'is a file, expected a run folder' if Path(folder).exists() else 'no such folder'}"
            )
    from mft_cli.report import write
    from mft_cli.report.read.runs import read_runs
    from mft_cli.report.render.terminal import summary_table
    from mft_cli.report.summary import summarise

    folders = [Path(f) for f in rest]
    summary = summarise(read_runs(folders))
    out = Path(own["out"]) if "out" in own else (folders[0] / "report" if len(folders) == 1 else Path("outputs/report"))
    paths = write(summary, out)
    print(summary_table(summary))
    print(f"\nreport: {paths.html}\n        {paths.markdown}")


HELP = """mft report: compare runs

  mft report outputs/a outputs/b            two runs, side by side
  mft report outputs out=outputs/report     all runs below a folder

Writes report.html (one self-contained page), report.md, report.json and the curves as PNG.
"""
