"""What `mft compare` is given: run folders, evaluation folders of them, or bare folders with scores."""

from __future__ import annotations

from pathlib import Path

from mft_cli.errors import UserError
from mft_cli.report.read.runs import MARKS, Run, read_evaluation, read_run, run_folders, short_labels

FILES = ("scores.jsonl", "metrics.json")


def read_compared(folders: list[Path]) -> list[Run]:
    """The runs of the folders, in the order given, each with the evaluations that lie in what was named.

    Raises UserError for a folder that holds no run and no evaluation.
    """
    owners: dict[Path, list[Path]] = {}  # run (or bare) folder -> what was named of it
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give run folders or evaluation folders")
        inside = run_folders(folder)
        if not inside:
            inside = [_owner(folder)]
        for owner in inside:
            owners.setdefault(owner.resolve(), []).append(folder.resolve())
    labels = short_labels(list(owners))
    return [_read(owner, label, named) for (owner, named), label in zip(owners.items(), labels, strict=True)]


def _owner(folder: Path) -> Path:
    """The run that an evaluation folder belongs to, else the folder itself if it has scores."""
    path = folder.resolve()
    for parent in (path.parent, path.parent.parent):
        if any((parent / mark).is_file() for mark in MARKS):
            return parent
    if _evaluations(path):
        return path
    raise UserError(
        f"{folder} holds no run and no evaluation: expected config.yaml or run.json, or scores.jsonl of mft eval or score"
    )


def _evaluations(folder: Path) -> list[Path]:
    """Folders with scores: this one, else those right below."""
    if any((folder / name).is_file() for name in FILES):
        return [folder]
    return sorted(p for p in folder.iterdir() if p.is_dir() and any((p / name).is_file() for name in FILES))


def _read(owner: Path, label: str, named: list[Path]) -> Run:
    run = read_run(owner, label)
    if not any((owner / mark).is_file() for mark in MARKS):
        run.evaluations = [read_evaluation(label, label, "", folder) for folder in _evaluations(owner)]
        for evaluation in run.evaluations:
            said = (evaluation.metrics or {}).get("benchmark")
            if evaluation.folder == owner and isinstance(said, str) and said:  # `mft score` writes into any folder
                evaluation.benchmark = said
    elif owner not in named and not any(owner.is_relative_to(folder) for folder in named):
        run.evaluations = [
            evaluation
            for evaluation in run.evaluations
            if any(evaluation.folder.resolve().is_relative_to(n) for n in named)
        ]
    return run
