"""checkpoint.resume=false: what a folder holds is thrown away once, and only when the new run has saved.

A marker stays in the folder until the command has ended: the same command, after a stop or in a requeued job, goes on with
the run that it began. What is replaced is renamed when data, model and settings have loaded, and removed after the first
save; evaluations of the replaced weights are kept in a folder that nothing reads.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.files import read_json, remove, write_json
from mft_cli.run_dir import RunDir
from mft_cli.train import checkpoint as checkpoints
from mft_cli.train.settings import settings_digest


def marker_of(run: RunDir) -> Path:
    return run.root / "started_again.json"


def set_aside_folder(run: RunDir) -> Path:
    return run.root / ".set-aside"


def is_resuming(run: RunDir, config: TrainConfig) -> bool:
    """Whether the folder's run is taken up. False: it is to be replaced, by checkpoint.resume=false."""
    return config.checkpoint.resume or has_begun_again(run, config)


def has_begun_again(run: RunDir, config: TrainConfig) -> bool:
    """Whether checkpoint.resume=false has replaced the folder's run already, with these settings."""
    try:
        return bool(read_json(marker_of(run))["settings_digest"] == settings_digest(config))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def set_aside(run: RunDir, config: TrainConfig) -> None:
    """Renames what the folder holds, so that the new run starts from nothing. A kill in the middle is repeated."""
    aside = set_aside_folder(run)
    if checkpoints.steps_in(run.checkpoints):
        remove(aside)  # of a restart whose first save was killed just after it
    aside.mkdir(parents=True, exist_ok=True)
    kept = (run.checkpoints, run.metrics, run.samples, run.provenance, run.wandb, run.live)
    for path in (*kept, *run.root.glob("export*")):
        if (aside / path.name).exists():
            remove(path)
        elif path.exists():
            os.replace(path, aside / path.name)
    move_evaluations_away(run, [path for path in run.root.glob("eval*") if path.is_dir()])
    write_json(marker_of(run), {"settings_digest": settings_digest(config)})


def move_evaluations_away(run: RunDir, folders: list[Path]) -> None:
    """Scores belong to weights: those of replaced ones go where no report looks."""
    moment = time.strftime("%Y%m%d-%H%M%S")  # may come again, by a clock that is set back
    names = itertools.chain([moment], (f"{moment}-{number}" for number in itertools.count(2)))
    stamp = next(path for name in names if not (path := run.root / "replaced" / name).exists())
    for folder in folders:
        kept = stamp / folder.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder, kept)


def remove_set_aside(run: RunDir) -> None:
    """After a save: the new run is on the disk."""
    remove(set_aside_folder(run))


def clear_marker(run: RunDir) -> None:
    """After the whole command: the next checkpoint.resume=false is another one."""
    marker_of(run).unlink(missing_ok=True)
