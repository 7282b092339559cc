"""`mft train -m` and `mft eval -m`: a sweep's folder, its jobs through Hydra, and one sentence on how it ended."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import time
from pathlib import Path

from omegaconf import DictConfig

from mft_cli.config.checks import DRY_RUN as DRY_RUN_REFUSED
from mft_cli.config.compose import own_overrides, run_with_hydra
from mft_cli.config.schema.base import Values
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.secrets import hide_secret, refuse_values
from mft_cli.config.validate import build
from mft_cli.errors import EXIT_OURS, UserError
from mft_cli.files import digest_of, write_sealed
from mft_cli.report.wording import count
from mft_cli.sweep.array import in_array
from mft_cli.sweep.jobs import is_finished
from mft_cli.sweep.launchers import register, sweep_name
from mft_cli.sweep.ledger import IN_CLUSTER, Job, Ledger, told_apart, varied
from mft_cli.sweep.local import in_parallel, in_sequence
from mft_cli.sweep.objective import VALIDATION, can_be_reached, lower_is_better
from mft_cli.sweep.verbs import Task

DRY_RUN = re.compile(r"\+{0,2}launch\.dry_run=true$", re.IGNORECASE)
FLAGS = ("-m", "--multirun")
# How, not what: the same sweep by another launcher, or with more trials, is the same sweep and finds its folder again.
HOW = ("hydra/launcher", "hydra.launcher.", "launch.dry_run", "hydra.sweeper.n_trials")


def sweep_folder(arguments: list[str], verb: str = "train") -> Path:
    """A name that the overrides decide: the same command finds its own sweep again."""
    kind = "" if verb == "train" else f"{verb}-"
    what = [a for a in arguments if a not in FLAGS and not a.lstrip("+").startswith(HOW)]
    name = sweep_name([a for a in own_overrides(what) if "=" in a and not a.startswith("-")])
    return Path("outputs/sweeps") / f"{kind}{name or 'sweep'}-{digest_of(what)[:8]}"


def is_dry_run(arguments: list[str]) -> bool:
    """launch.dry_run=true of a sweep for SLURM."""
    return "hydra/launcher=mft_slurm" in arguments and any(DRY_RUN.match(a) for a in arguments)


def sweep(verb: str, arguments: list[str], task: Task) -> None:
    """Run a sweep of `task`, or go on with it. Raises UserError if jobs failed, Stopped; exits with 1 if one was our defect."""
    given = any(a.partition("=")[0].lstrip("+") == "hydra.sweep.dir" for a in arguments)
    folder = [] if given else [f"hydra.sweep.dir='{sweep_folder(arguments, verb)}'"]
    with contextlib.ExitStack() as stack:
        current = Current(verb, arguments, stack)
        typed = sys.argv

        def sequential(ledger: Ledger, numbers: list[int], options: Values) -> None:
            sys.argv = typed  # Hydra's own words stand there; a run records what was typed
            in_sequence(ledger, numbers, task)

        dry_run = is_dry_run(arguments)
        if dry_run:  # the jobs are entered as for a real one, but nothing runs
            arguments = [a for a in arguments if not DRY_RUN.match(a)]
        array = functools.partial(in_array, dry_run=dry_run)
        register(current, {"basic": sequential, "mft_local": parallel, "mft_slurm": array})
        try:
            run_with_hydra(verb, [*arguments, *folder], lambda values: None)
        except ValueError:  # Optuna's, when no trial of all has a value: the jobs say why
            if current.ledger is None or all(job.state == "done" for job in current.ledger.all()):
                raise
        if current.ledger is not None and not dry_run:
            finish(current.ledger)


class Current:
    """The sweep that this process runs: its folder is made and locked when the first job is known to be composable."""

    def __init__(self, verb: str, arguments: list[str], stack: contextlib.ExitStack):
        self.verb, self.command = verb, ["mft", verb, *map(hide_secret, arguments)]
        self.stack = stack
        self.ledger: Ledger | None = None

    def begin(self, folder: str, launcher: str, options: Values) -> Ledger:
        """The ledger, at every batch of jobs. Raises UserError if another process runs this sweep."""
        if self.ledger is None:
            ledger = Ledger(folder)
            self.stack.enter_context(ledger.lock())
            print(f"sweep {folder}", flush=True)
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            facts = {"command": self.command, "verb": self.verb, "time": now, "launcher": {"name": launcher, **options}}
            write_sealed(ledger.facts, facts)
            self.ledger = ledger
        return self.ledger

    def finished(self, ledger: Ledger, job: Job) -> bool:
        return is_finished(ledger, job)

    def check(self, values: Values, hydra: DictConfig) -> None:
        refuse_values(values)
        if values.get("launch", {}).get("dry_run") is True:  # of a launcher that would start the jobs
            raise UserError(DRY_RUN_REFUSED)
        check_objective(values, hydra, self.verb)


def parallel(ledger: Ledger, numbers: list[int], options: Values) -> None:
    """The runner of hydra/launcher=mft_local. Raises UserError for a number of jobs below 1."""
    jobs = options.get("jobs")
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise UserError(f"hydra.launcher.jobs={jobs}: expected a number of jobs at a time, 1 or more")
    gpus = [ledger.values(n).get("launch", {}).get("gpus") or 1 for n in numbers]
    in_parallel(ledger, numbers, jobs, max(gpus, default=1))


def check_objective(values: Values, hydra: DictConfig, verb: str) -> None:
    """A sweeper that searches needs a number from every run, and to know which way is better. Raises UserError."""
    if str(hydra.sweeper["_target_"]).endswith(".BasicSweeper"):
        return
    if verb != "train":
        raise UserError(f"a sweeper that searches needs mft train: mft {verb} -m takes lists, such as model.path=a,b")
    launcher = hydra.launcher
    if str(launcher["_target_"]).endswith(".mft_slurm") and not launcher.get("wait"):
        raise UserError("a sweeper that searches needs every run's number: set hydra.launcher.wait=true")
    try:
        config: TrainConfig = build(TrainConfig, values)
    except UserError:
        return  # the job itself says what is wrong, and costs the others nothing
    metric = config.sweep.objective
    if not can_be_reached(config):
        needed = "data.validation.rows=N" if metric == VALIDATION else f"eval={metric.partition('/')[0]}"
        raise UserError(f"sweep.objective={metric}: the sweeper needs it of every run, set {needed}")
    direction = hydra.sweeper.get("direction")
    right_way = "minimize" if lower_is_better(metric) else "maximize"
    if direction is not None and getattr(direction, "name", str(direction)) != right_way:
        raise UserError(f"sweep.objective={metric} is better when {'lower' if right_way == 'minimize' else 'higher'}: "
                        f"set hydra.sweeper.direction={right_way}")  # fmt: skip


def finish(ledger: Ledger) -> None:
    """One sentence on the outcome. Raises UserError if jobs failed; exits with 1 if one failed by a defect of ours."""
    jobs = ledger.truths()
    going_on = [job for job in jobs if job.state in IN_CLUSTER]
    bad = [job for job in jobs if job.state != "done" and job not in going_on]
    done = f"{len(jobs) - len(bad) - len(going_on)} of {count(len(jobs), 'job')} done"
    if going_on:
        done += f", {len(going_on)} queued or running"
    if not bad:
        print(f"{done}; mft sweep {'status' if going_on else 'report'} {ledger.root}", flush=True)
        return
    keys = varied(jobs)
    lines = [f"  job {job.number} ({told_apart(job, keys)}) {job.state}: {first_line(job)}" for job in bad]
    text = "\n".join([f"{done}, {len(bad)} not; again: mft sweep retry {ledger.root}", *lines])
    if any(job.exit_code == EXIT_OURS for job in bad):
        print(f"mft: {text}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_OURS)
    raise UserError(text)


def first_line(job: Job) -> str:
    return job.message.splitlines()[0] if job.message else ""
