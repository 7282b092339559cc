"""Which run the others are compared with: the one that is named, else the plainest."""

from __future__ import annotations

from pathlib import Path

from mft_cli.errors import UserError
from mft_cli.report.compare.groups import Group, seed_groups
from mft_cli.report.read.runs import Run

PRETRAINED, SFT, SFT_ADAPTERS, OTHER = range(4)


def plainness(run: Run) -> int:
    """The less was done to a model, the earlier it comes: not trained here, sft, sft of adapters, all else."""
    method = run.config.get("method.name")
    if method is None:
        exported = (Path(str(run.config.get("model.path") or "")) / "mft.json").is_file()
        return OTHER if exported else PRETRAINED
    if method != "sft":
        return OTHER
    return SFT if run.config.get("peft.name", "none") in (None, "none") else SFT_ADAPTERS


def in_order(runs: list[Run], baseline: str | None = None) -> list[Run]:
    """The reference first: of every pair, the run that comes earlier is subtracted.

    `baseline` is a run's label or folder, or the name of a setting with several seeds. Raises UserError for another one.
    """
    plainest_first = sorted(runs, key=plainness)
    if baseline is None:
        return plainest_first
    named = [run for run in runs if baseline == run.label or Path(baseline).resolve() == run.folder.resolve()]
    groups = seed_groups(runs)
    named = named or [run for group in groups if baseline in _names(group) for run in group.runs]
    if not named:
        known = [*(run.label for run in runs), *(_names(group)[0] for group in groups)]
        raise UserError(f"baseline={baseline}: expected a run or a setting of this report, one of {', '.join(known)}")
    return named + [run for run in plainest_first if run not in named]


def _names(group: Group) -> tuple[str, str]:
    return group.label.rsplit(" (", 1)[0], group.label
