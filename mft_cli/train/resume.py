"""The same command again: which folder is its own, whether it is done, and whether the folder holds the same run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.schema.training import CheckpointConfig
from mft_cli.console import Log
from mft_cli.data.load import Loaded
from mft_cli.data.sources import local_digest
from mft_cli.distributed.ranks import Ranks
from mft_cli.errors import UserError
from mft_cli.files import file_digest, read_object
from mft_cli.models.checksums import damage
from mft_cli.run_dir import RunDir
from mft_cli.train import checkpoint as checkpoints
from mft_cli.train.engine import TorchEngine
from mft_cli.train.engine_deepspeed import DeepSpeedEngine
from mft_cli.train.evaluation import exports_to_evaluate
from mft_cli.train.restart import is_resuming
from mft_cli.train.settings import TIMING_KEYS, changed_keys, contents_digests, weights_sample
from mft_cli.train.state import TrainerState


def is_done(run: RunDir, config: TrainConfig) -> bool:
    """Whether the folder's training is finished. Raises UserError if it is that of other settings, data or weights."""
    if run.get_state().get("state") != "done" or not is_resuming(run, config):
        return False
    check_same_settings(run, config)
    before = cast("dict[str, dict[str, str]]", run.get_provenance().get("data", {}))
    for name, source in config.data.sources.items():
        local = local_digest(source)
        if local is not None and name in before and local[1] != before[name]["digest"]:
            raise UserError(
                f"{run.root} was trained on another version of {local[0]}; choose another run_dir, or checkpoint.resume=false"
            )
    check_same_start(run, config.model)
    longer = config.checkpoint.retime and TIMING_KEYS & changed_keys(run, config).keys()
    exports = [folder for folder, _ in exports_to_evaluate(run, config.eval.checkpoints)]
    if config.checkpoint.keep_best:
        exports += run.root.glob("export-best")
    return not longer and all((folder / "config.json").exists() and damage(folder) is None for folder in exports)


def check_same_settings(run: RunDir, config: TrainConfig) -> None:
    """Raises UserError if the folder's run was started with settings that give other numbers."""
    done = run.get_state().get("state") == "done"
    if not run.config.exists() or not (done or checkpoints.steps_in(run.checkpoints)):
        return
    allowed = TIMING_KEYS if config.checkpoint.retime else set()
    changed = {k: v for k, v in changed_keys(run, config).items() if k not in allowed}
    if changed:
        shown = "; ".join(f"{k} was {old}, is {new}" for k, (old, new) in list(changed.items())[:5])
        if run.get_provenance().get("config_digest", "") not in ("", file_digest(run.config)):
            shown = f"{run.config} is not as it was written, damaged or changed: {shown}"
        raise UserError(
            f"{run.root} holds a run with other settings ({shown}); choose another run_dir, or checkpoint.resume=false "
            f"to throw its checkpoints away"
        )


def check_same_data(run: RunDir, config: TrainConfig, loaded: Loaded) -> None:
    """Raises UserError if the folder's checkpoints were trained from other weights or on other rows: a path may stay
    and its file change."""
    before = run.get_provenance()
    if not before or not checkpoints.steps_in(run.checkpoints):
        return
    check_same_start(run, config.model)
    if before.get("data") != loaded.digests:
        raise UserError(
            f"{run.root} holds a run on other data (a data file was changed since); choose another run_dir, or "
            f"checkpoint.resume=false to train it again from the first step"
        )


def check_same_start(run: RunDir, model: ModelConfig) -> None:
    """Raises UserError if model.path now holds other weights, which checkpoints do not hold where they are frozen, or if
    another file that decides tokens has changed."""
    provenance = run.get_provenance()
    contents = contents_digests(model)
    for name, digest in provenance.get("contents", {}).items():
        if contents.get(name) != digest:
            what = "chat template" if name == "model.chat_template" else "tokenizer or chat template"
            raise UserError(
                f"{run.root} was trained with another {what} than {name} now holds; put the file back, choose another "
                f"run_dir, or checkpoint.resume=false to train it again from the first step"
            )
    before = provenance.get("start")
    if before is not None and before != weights_sample(model.path):
        raise UserError(
            f"{run.root} was trained from other weights than model.path={model.path} now holds; choose another "
            f"run_dir, or checkpoint.resume=false to train it again from the first step"
        )


def resume(
    run: RunDir,
    config: CheckpointConfig,
    engine: TorchEngine | DeepSpeedEngine,
    fresh: TrainerState,
    machine: Mapping[str, object],
    log: Log,
) -> TrainerState:
    """The stored position, weights and optimizer loaded; or the fresh one. Raises UserError if the length changed."""
    folder = newest_checkpoint(run, engine.ranks, log)
    if folder is None:
        if saved := run.progress().get("step"):
            log(
                f"warning: {run.state} tells of step {saved}, but {run.checkpoints} holds no checkpoint: from the first step"
            )
        return fresh
    stored = checkpoints.Stored(folder)
    state = TrainerState(**stored.trainer["position"])  # type: ignore[arg-type]
    if state.total_steps != fresh.total_steps:
        if not config.retime:
            raise UserError(
                f"{folder} belongs to a run of {state.total_steps} steps, now there would be {fresh.total_steps}; "
                f"masks and learning rate depend on it. checkpoint.retime=true goes on all the same"
            )
        state.total_steps = fresh.total_steps
    for name in ("threads", "instruction_set", "machine", "ranks", "zero_stage"):
        before, now = stored.trainer["hardware"].get(name), machine.get(name)
        if before != now:
            log(f"warning: {name} was {before} and is {now}: the resumed run will not be bit-identical")
    if (
        config.keep_best
        and state.best_step is not None
        and not checkpoints.step_folder(run.checkpoints, state.best_step).is_dir()
    ):
        state.best_loss = state.best_score = state.best_step = None  # keep_best was off then: the best one is gone
    engine.load(stored.read, stored.read if stored.stepped else None, stored.trainer["engine"])
    log(f"going on from {folder}")
    return state


def tell_changed_logs(run: RunDir, step: int, log: Log) -> None:
    """Of a run that goes on after `step`: what it had logged then and was damaged since, cut back to that step."""
    if step:
        stored = read_object(checkpoints.step_folder(run.checkpoints, step) / "trainer.json")
        for line in run.changed_logs(stored.get("logged", {})):
            log(f"warning: {line}")


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
