"""`mft train`: the file to read first. From a validated configuration to an exported model, step by named step."""

from __future__ import annotations

import contextlib
import gc
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.validate import build, to_plain, to_yaml
from mft_cli.console import Log
from mft_cli.data.deal import balance_of, idle_notice
from mft_cli.distributed.launch import start_ranks, world_size
from mft_cli.distributed.ranks import Ranks, gave_up, is_lost_connection, join, leave
from mft_cli.errors import EXIT_STOPPED, EXIT_USER, RankFailed, Stopped, UserError, first_line, memory_problem
from mft_cli.files import disk_problem, read_json, remove_leftovers, write_atomically, write_json, write_sealed
from mft_cli.models.device import set_up_device
from mft_cli.provenance import changed_versions, environment
from mft_cli.run_dir import RunDir, State
from mft_cli.signals import StopSignal
from mft_cli.slurm.srun import place_from_slurm
from mft_cli.train import restart
from mft_cli.train.beside import BesideEvaluation
from mft_cli.train.evaluation import evaluate_exports
from mft_cli.train.exports import write_exports
from mft_cli.train.fetch import fetch_for_ranks
from mft_cli.train.fit import Fits
from mft_cli.train.follower_threads import telling_of_threads
from mft_cli.train.resume import check_same_settings, is_done
from mft_cli.train.settings import run_folder
from mft_cli.train.setup import assemble, describe

LESS_MEMORY = (
    "what is saved stays, and deepspeed=zero3 or zero3_offload go on with it in less; a smaller train.micro_batch_size or "
    "train.row_length, and train.gradient_checkpointing=true, need another run_dir (mft plan counts before)"
)
FALLBACK_MESSAGES: dict[type[BaseException], str] = {
    KeyboardInterrupt: "interrupted by a second Ctrl-C: what came after the last save is lost"
}


def train(config: TrainConfig, should_fit: Fits | None = None) -> Path:
    """Train, export and evaluate. Returns the run's folder. Raises UserError, Stopped, RankFailed.

    `should_fit`: the rows of a forward pass that a GPU should have memory for, where it is to choose them.
    """
    run = RunDir(run_folder(config))
    if config.launch.node_rank and config.launch.name == "local":  # other nodes only run their ranks
        if not is_done(run, config):
            start_and_wait(run, config, run.root / f"frozen-node{config.launch.node_rank}.json", Log(None))
        return run.root
    with run.lock():
        log = Log(run.log)
        run.hold()
        for folder in (run.checkpoints, *run.root.glob("export*")):
            remove_leftovers(folder)
        if is_done(run, config):
            log(f"{run.root} is done; checkpoint.resume=false would train it again")
            for line in run.changed_logs(run.get_state().get("logged", {})):
                log(f"warning: {line}")
            if changed := changed_versions(run.get_provenance(), environment()):
                log(f"it was trained with other versions: {'; '.join(changed)}")
        elif world_size(config.launch) == 1:
            train_in(run, config, join(set_up_device(config.launch)), log, should_fit=should_fit)
        else:
            train_on_ranks(run, config, log)
        evaluate_exports(run, config, log)
        restart.clear_marker(run)
    return run.root


def train_on_ranks(run: RunDir, config: TrainConfig, log: Log) -> None:
    """Freeze the configuration and start the ranks, which read it: they never see Hydra, nor a command line's quotes."""
    try:
        start_and_wait(run, config, run.root / "frozen.json", log)
    except RankFailed:
        if run.get_state().get("state") == "running":  # it could write nothing more
            run.set_state("failed", message="a rank exited without an error message", **run.progress())
        raise


def start_and_wait(run: RunDir, config: TrainConfig, frozen: Path, log: Log) -> None:
    """The ranks of this node (with SLURM: of all nodes), to their end. Raises Stopped, UserError, RankFailed."""
    fetch_for_ranks(config, log)
    write_json(frozen, to_plain(config))
    command = [sys.executable, "-m", "mft_cli", "rank", f"--frozen={frozen}", f"--run={run.root}"]
    cause: list[str] = []
    code = start_ranks(command, config.launch, run.root / "logs", log, cause=cause)
    if code == EXIT_STOPPED:
        state = run.get_state()
        raise Stopped(state.get("message", "stopped by a signal"), state.get("by"))
    if code:
        if code == EXIT_USER:  # the rank has said it on this terminal
            raise UserError(f"{run.root}: stopped for the reason above (logs of the ranks: {run.root / 'logs'})")
        # failures after it have overwritten state.json: put the first cause back
        if cause and not config.launch.node_rank:
            run.set_state("failed", message=cause[0], **run.progress())
        message = run.get_state().get("message", "a rank failed without an error message")
        raise RankFailed(f"{run.root}: {message} (logs of the ranks: {run.root / 'logs'})")


def train_rank(frozen: Path, folder: Path, stop: StopSignal, should_fit: Fits | None = None) -> None:
    """One rank: reads the frozen configuration, finds the others, trains."""
    place_from_slurm()
    config: TrainConfig = build(TrainConfig, read_json(frozen))
    run = RunDir(folder)
    minutes = config.launch.timeout_minutes
    with stop.ending_with_parent():  # another rank may never come, and the driver ends the ranks
        ranks = join(set_up_device(config.launch), minutes)
    try:
        train_in(run, config, ranks, Log(run.log if ranks.rank == 0 else None), stop, should_fit)
    except RuntimeError as error:
        if gave_up(error):
            behind = f"; {ranks.watch.behind} behind" if ranks.watch and ranks.watch.behind else ""
            raise RankFailed(
                f"rank {ranks.rank} gave up waiting for another rank after {minutes:g} minutes (launch.timeout_minutes){behind}"
            ) from None
        if not is_lost_connection(error):
            raise
        raise RankFailed(f"rank {ranks.rank}: another rank has gone ({first_line(error)})") from None
    finally:
        leave()


def train_in(
    run: RunDir,
    config: TrainConfig,
    ranks: Ranks,
    log: Log,
    stop: StopSignal | None = None,
    should_fit: Fits | None = None,
) -> None:
    """Everything up to the export, with the run's state kept true whatever happens. Raises Stopped, UserError."""
    stop = stop or StopSignal()
    log(f"run folder {run.root}")
    run.hold()
    with recording_outcome(run, ranks), telling_of_threads(log):
        set_up_and_train(run, config, ranks, log, stop, should_fit)
    free_memory()
    if ranks.world == 1:  # the driver goes on to the evaluation, which handles signals itself
        stop.release()
    if stop.name:
        raise Stopped(f"stopped by {stop.name} after the last step; the run is done and exported", stop.name)


def set_up_and_train(
    run: RunDir, config: TrainConfig, ranks: Ranks, log: Log, stop: StopSignal, should_fit: Fits | None
) -> None:
    if ranks.rank == 0:
        prepare_folder(run, config, log)
        run.set_state("running", **run.progress())
    ready = assemble(run, config, stop, log, ranks, should_fit)
    trainer, state = ready.trainer, ready.trainer.state
    if config.eval.every_steps and config.eval.live == "beside":
        trainer.benchmarks = BesideEvaluation(ready)
    log(f"{state.total_steps - state.step} of {state.total_steps} steps to go, {describe(trainer)}")
    if ranks.world > 1:
        log(idle_notice(balance_of(trainer.order, trainer.layout), trainer.layout, config.train.global_batch_size))
    try:
        trainer.run_to_end()
        write_exports(ready, log)
    finally:
        trainer.engine.close()
        trainer.metrics.close()
    if ranks.rank == 0:
        run.set_state(
            "done", step=state.step, total_steps=state.total_steps, seconds=state.seconds, logged=run.logged()
        )


@contextlib.contextmanager
def recording_outcome(run: RunDir, ranks: Ranks) -> Iterator[None]:
    """Stopped or failed, and why, in state.json. What a disk refuses, and a folder that is gone, become a UserError."""
    before = run.get_state()
    try:
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError):
                run.check_there("it could not be written to")
            if problem := memory_problem(error):
                raise UserError(f"{run.root}: {problem} ({first_line(error)}); {LESS_MEMORY}") from None
            if (reason := disk_problem(error)) is None:
                raise
            raise UserError(
                f"{run.root}: {reason} ({first_line(error)}); what is saved stays; free space or repair that, then start the "
                f"same command again"
            ) from None
    except BaseException as error:
        with contextlib.suppress(OSError):  # the disk may be what failed
            record_outcome(run, error, before, ranks.rank == 0)
        raise


def record_outcome(run: RunDir, error: BaseException, previous: State, is_rank0: bool) -> None:
    if isinstance(error, (UserError, Stopped)) and not run.begun and previous.get("state") in ("done", "stopped"):
        if is_rank0:
            write_sealed(run.state, {**previous})  # a refused command leaves the run as it was
    elif isinstance(error, Stopped):
        if is_rank0:
            run.set_state("stopped", message=str(error), by=error.by, **run.progress())
    elif is_rank0 or not isinstance(error, UserError):  # every rank raises the same UserError; a crash may hit one rank
        message = str(error) or FALLBACK_MESSAGES.get(type(error), type(error).__name__)
        run.set_state("failed", message=message, **run.progress())
        Log(run.log).to_file(message if isinstance(error, UserError) else traceback.format_exc())


def free_memory() -> None:
    """Before an evaluation or the next job of a sweep: replaced modules are reference cycles that hold their weights."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def prepare_folder(run: RunDir, config: TrainConfig, log: Log) -> None:
    """Keep the resolved configuration; refuse a folder that holds another run."""
    if not restart.is_resuming(run, config):
        if run.config.exists():  # the old one stays until everything of the new run has loaded
            return
    else:
        check_same_settings(run, config)
        if not config.checkpoint.resume:
            log(
                f"the run that checkpoint.resume=false began is resumed; delete {restart.marker_of(run)} to begin once more"
            )
    write_atomically(run.config, to_yaml(config))
