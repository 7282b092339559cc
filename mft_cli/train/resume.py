"""The same command again: which folder is its own, whether it is done, and whether the folder holds the same run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.schema.training import CheckpointConfig
from mft_cli.config.validate import read_yaml, to_plain
from mft_cli.console import Log
from mft_cli.data.load import Loaded
from mft_cli.data.sources import local_digest
from mft_cli.distributed.ranks import Ranks
from mft_cli.errors import UserError
from mft_cli.files import digest_of, flatten, read_json
from mft_cli.run_dir import RunDir
from mft_cli.train import checkpoint as checkpoints
from mft_cli.train.engine import TorchEngine
from mft_cli.train.engine_deepspeed import DeepSpeedEngine
from mft_cli.train.evaluation import exports_to_evaluate
from mft_cli.train.loop import Position

# Sections that change no number of the training: not part of the settings' digest, and free to change in a resume.
FREE = ("run_dir", "note", "log", "checkpoint", "launch", "deepspeed", "eval", "sweep")
TIMING_KEYS = {"train.epochs", "train.max_steps"}  # may change with checkpoint.retime=true


def settings_digest(config: TrainConfig) -> str:
    """Digest of the settings that decide the trained weights."""
    return digest_of({k: v for k, v in to_plain(config).items() if k not in FREE})


def run_folder(config: TrainConfig) -> Path:
    """run_dir, else a name that the settings decide: the same command finds its own run again and goes on."""
    if config.run_dir:
        return Path(config.run_dir)
    name = f"{config.method.name}-{config.data.name or 'data'}-s{config.seed}-{settings_digest(config)[:8]}"
    return Path("outputs") / name


def is_done(run: RunDir, config: TrainConfig) -> bool:
    if run.get_state().get("state") != "done" or not config.checkpoint.resume:
        return False
    check_same_settings(run, config)
    before = read_json(run.provenance).get("data", {}) if run.provenance.exists() else {}
    for name, source in config.data.sources.items():
        local = local_digest(source)
        if local is not None and name in before and local[1] != before[name]["digest"]:
            raise UserError(
                f"{run.root} was trained on another version of {local[0]}; choose another run_dir, or checkpoint.resume=false"
            )
    check_same_start(run, config)
    longer = config.checkpoint.retime and TIMING_KEYS & changed_keys(run, config).keys()
    exports = [folder for folder, _ in exports_to_evaluate(run, config)]
    return not longer and all((folder / "config.json").exists() for folder in exports)


def check_same_settings(run: RunDir, config: TrainConfig) -> None:
    """Raises UserError if the folder's run was started with settings that give other numbers."""
    done = run.get_state().get("state") == "done"
    if not run.config.exists() or not (done or checkpoints.steps_in(run.checkpoints)):
        return
    allowed = TIMING_KEYS if config.checkpoint.retime else set()
    changed = {k: v for k, v in changed_keys(run, config).items() if k not in allowed}
    if changed:
        shown = "; ".join(f"{k} was {old}, is {new}" for k, (old, new) in list(changed.items())[:5])
        raise UserError(
            f"{run.root} holds a run with other settings ({shown}); choose another run_dir, or checkpoint.resume=false "
            f"to throw its checkpoints away"
        )


def check_same_data(run: RunDir, config: TrainConfig, loaded: Loaded) -> None:
    """Raises UserError if the folder's checkpoints were trained from other weights or on other rows: a path may stay
    and its file change."""
    if not checkpoints.steps_in(run.checkpoints) or not run.provenance.exists():
        return
    check_same_start(run, config)
    if read_json(run.provenance).get("data") != loaded.digests:
        raise UserError(
            f"{run.root} holds a run on other data (a data file was changed since); choose another run_dir, or "
            f"checkpoint.resume=false to train it again from the first step"
        )


def check_same_start(run: RunDir, config: TrainConfig) -> None:
    """Raises UserError if model.path now holds other weights: checkpoints do not hold what is frozen."""
    before = read_json(run.provenance).get("start") if run.provenance.exists() else None
    if before is not None and before != weights_sample(config.model.path):
        raise UserError(
            f"{run.root} was trained from other weights than model.path={config.model.path} now holds; choose another "
            f"run_dir, or checkpoint.resume=false to train it again from the first step"
        )


def weights_sample(path: str) -> str | None:
    """Digest of the weight files at a local path: names, sizes, and 16 pieces of 64 KiB of each. None for a hub's id.

    Reading all of a large model would take minutes; two exports of the same shape differ almost everywhere.
    """
    local = Path(path).expanduser()
    files = sorted(local.glob("*.safetensors")) if local.is_dir() else [local] if local.is_file() else []
    return digest_of([(f.name, f.stat().st_size, pieces(f)) for f in files]) if files else None


def pieces(file: Path) -> str:
    size, step = file.stat().st_size, 2**16
    digest = hashlib.sha256()
    with open(file, "rb") as data:
        for i in range(16):
            data.seek(max(0, (size - step) * i // 15))
            digest.update(data.read(step))
    return digest.hexdigest()


def changed_keys(run: RunDir, config: TrainConfig) -> dict[str, tuple[object, object]]:
    """Key -> (value in the folder, value now), of the settings that decide the trained weights."""
    old, new = flatten(to_plain(read_yaml(TrainConfig, run.config))), flatten(to_plain(config))
    decisive = [k for k in sorted(old | new) if k.split(".")[0] not in FREE]
    return {k: (old.get(k), new.get(k)) for k in decisive if old.get(k) != new.get(k)}


def resume(
    run: RunDir,
    config: CheckpointConfig,
    engine: TorchEngine | DeepSpeedEngine,
    fresh: Position,
    machine: Mapping[str, object],
    log: Log,
) -> Position:
    """The stored position, weights and optimizer loaded; or the fresh one. Raises UserError if the length changed."""
    if not config.resume:
        return fresh
    folder = newest_checkpoint(run, engine.ranks, log)
    if folder is None:
        return fresh
    stored = checkpoints.Stored(folder)
    position = Position(**stored.trainer["position"])  # type: ignore[arg-type]
    if position.total_steps != fresh.total_steps:
        if not config.retime:
            raise UserError(
                f"{folder} belongs to a run of {position.total_steps} steps, now there would be {fresh.total_steps}; "
                f"masks and learning rate depend on it. checkpoint.retime=true goes on all the same"
            )
        position.total_steps = fresh.total_steps
    for name in ("threads", "instruction_set", "machine", "ranks", "zero_stage"):
        before, now = stored.trainer["hardware"].get(name), machine.get(name)
        if before != now:
            log(f"warning: {name} was {before} and is {now}: the resumed run will not be bit-identical")
    if position.best_step is not None and not checkpoints.step_folder(run.checkpoints, position.best_step).is_dir():
        position.best_loss = position.best_step = None  # keep_best was off then: the best one is gone
    engine.load(stored.read, stored.read if stored.stepped else None, stored.trainer["engine"])
    log(f"going on from {folder}")
    return position


def newest_checkpoint(run: RunDir, ranks: Ranks, log: Log) -> Path | None:
    """One rank reads the digests of all files. Raises UserError, on every rank, if no checkpoint is whole."""
    folder, refusal = None, None
    if ranks.rank == 0:
        try:
            folder = checkpoints.newest_verified(run.checkpoints, log)
        except UserError as error:
            refusal = str(error)
    folder, refusal = ranks.from_first((folder, refusal))
    if refusal:
        raise UserError(refusal)
    return folder
