"""`mft report`: its help, its options and what it calls."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import read_options
from mft_cli.config.schema.base import STRICT, key
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft report`."""

    out: Path | None = key(None, "Folder of the report; null: the run's own, or outputs/report.")
    baseline: str | None = key(
        None, "The run, its folder or the setting that others are compared with; null: the plainest."
    )


def main(arguments: list[str]) -> None:
    options, named = read_options(Options, "report", arguments)
    if not named:
        raise UserError("mft report needs run folders: mft report outputs/a outputs/b")
    for folder in named:
        if not Path(folder).is_dir():
            raise UserError(
                f"{folder}: {'is a file, expected a run folder' if Path(folder).exists() else 'no such folder'}"
            )
    from mft_cli.models.folder import weights_now
    from mft_cli.report import write
    from mft_cli.report.read.runs import read_runs
    from mft_cli.report.render.terminal import summary_table
    from mft_cli.report.summary import summarise

    folders = [Path(folder) for folder in named]
    summary = summarise(read_runs(folders), options.baseline, weights_now)
    out = options.out or (folders[0] / "report" if len(folders) == 1 else Path("outputs/report"))
    paths = write(summary, out)
    print(summary_table(summary))
    print(f"\nreport: {paths.html}\n        {paths.markdown}")


HELP = """mft report: compare runs

  mft report outputs/a outputs/b            two runs, side by side
  mft report outputs out=outputs/report     all runs below a folder
  mft report outputs baseline=sft-gsm8k     differences to this run or setting (default: the model before training,
                                            else plain sft, else the first one)

Writes report.html (one self-contained page), report.md, report.json, flips.txt (every answer that changed) and the
curves as PNG.
"""
