"""Handing runs to SLURM: `mft train launch=slurm` from outside a job, and the array of a sweep.

submitit writes the batch script and keeps its files in one folder. It starts the driver as the batch step itself (no
srun around it, `exec` all the way), so that `--signal=B:USR1@...` reaches the driver, which saves and requeues. submitit's
own checkpointing stays unused: after the exec none of its handlers is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mft_cli.config.schema.base import Values
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.config.schema.runs import EvalRunConfig, RunConfig, TrainConfig
from mft_cli.config.validate import to_plain
from mft_cli.errors import UserError
from mft_cli.files import write_json
from mft_cli.slurm.requeue import in_short, is_unreachable

SIGNAL_S = 120  # where launch.slurm.signal_s does not say it


@dataclass(frozen=True)
class Driver:
    """What submitit pickles: a command line of mft that takes the place of submitit's own process."""

    arguments: tuple[str, ...]

    def __call__(self) -> None:
        sys.stdout.flush()
        os.execv(sys.executable, self.command())

    def command(self) -> list[str]:
        return [sys.executable, "-m", "mft_cli", *self.arguments]


def submit_run(config: TrainConfig, folder: Path) -> list[str]:
    """Submit one run, its frozen configuration and SLURM's files in `folder`. Returns the job's id.

    With launch.slurm.eval_job also the id of the evaluation, a job that starts when the training has ended well.
    """
    launch, name = config.launch, f"mft-{config.method.name}"
    chained = launch.slurm.eval_job and bool(config.eval.benchmarks)
    training = frozen_driver(without_evaluation(config) if chained else config, folder / "train.json")
    jobs = submit([training], folder, job_parameters(launch, name), launch.dry_run)
    if not chained:
        return jobs
    small = dataclasses.replace(launch, nodes=1, gpus=launch.gpus and 1, processes=None)
    evaluation = frozen_driver(dataclasses.replace(config, launch=small), folder / "evaluation.json")
    parameters = job_parameters(small, f"{name}-eval")
    parameters["dependency"] = f"afterok:{jobs[0]}"
    parameters["additional_parameters"]["kill-on-invalid-dep"] = "yes"
    return jobs + submit([evaluation], folder, parameters, launch.dry_run)


def submit_evaluation(config: EvalRunConfig, folder: Path) -> list[str]:
    """Submit one evaluation, its frozen configuration and SLURM's files in `folder`: one task that takes all the GPUs."""
    driver = frozen_driver(config, folder / "eval.json", "eval")
    parameters = {**job_parameters(config.launch, "mft-eval"), "ntasks_per_node": 1}
    return submit([driver], folder, parameters, config.launch.dry_run)


def without_evaluation(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, benchmarks={}))


def frozen_driver(config: RunConfig, file: Path, verb: str = "train") -> Driver:
    """The command of a run whose configuration is frozen in `file`, unless this is a dry run."""
    if not config.launch.dry_run:
        write_json(file, to_plain(config))
    return Driver((verb, f"--frozen={file}"))


def job_parameters(launch: LaunchConfig, name: str) -> Values:
    """submitit's parameters of a job: `launch.slurm.*`, one task a rank, the batch step signalled before the limit."""
    s = launch.slurm
    more: Values = {
        "signal": f"B:USR1@{s.signal_s or SIGNAL_S}",
        "requeue" if s.requeue else "no-requeue": True,
        **({"mem": s.memory} if s.memory else {}),
        **{option: value or True for option, value in s.extra.items()},
    }
    return {
        "job_name": name, "partition": s.partition, "account": s.account, "qos": s.qos, "time": s.time,
        "nodes": launch.nodes or 1, "ntasks_per_node": launch.gpus or launch.processes or 1,
        "cpus_per_task": s.cpus_per_task, "gpus_per_node": launch.gpus if s.gpus_per_node is None else s.gpus_per_node,
        "constraint": s.constraint, "setup": list(s.setup) or None, "array_parallelism": s.max_parallel, "wckey": None,
        "stderr_to_stdout": True, "use_srun": False, "additional_parameters": more,
    }  # fmt: skip


def submit(drivers: Sequence[Driver], folder: Path, parameters: Values, dry_run: bool) -> list[str]:
    """One job, or one array of them. A dry run prints the batch script and the commands, and makes up the id."""
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError:
        raise UserError("launch=slurm needs the package submitit: pip install 'submitit>=1.5.3,<1.6'") from None
    count = len(drivers)
    if dry_run:
        print(script(drivers, folder, parameters))
        return ["JOBID"] if count == 1 else [f"JOBID_{i}" for i in range(count)]
    if shutil.which("sbatch") is None:
        raise UserError(
            "launch=slurm: there is no sbatch on this machine; start it on a login node of the cluster, "
            "or look at what it would submit with launch.dry_run=true"
        )
    folder.mkdir(parents=True, exist_ok=True)
    executor = SlurmExecutor(folder, max_num_timeout=0, python=f"exec {shlex.quote(sys.executable)}")
    executor.update_parameters(**parameters)
    try:
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it raises
            jobs = [executor.submit(driver) for driver in drivers]
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(refusal(str(error))) from None
    return [str(job.job_id) for job in jobs]


def refusal(said: str) -> str:
    """A sentence on what sbatch printed."""
    if is_unreachable(said):
        return (
            f"launch=slurm: nothing was submitted, SLURM does not answer ({in_short(said)}); try again when sinfo does"
        )
    return f"sbatch refused the job: {in_short(said)}; see launch.slurm.*"


def script(drivers: Sequence[Driver], folder: Path, parameters: Values) -> str:
    """The batch script that submitit would write, with the commands that its tasks would become."""
    from submitit.slurm.slurm import _make_sbatch_string

    single = len(drivers) == 1
    command = shlex.join(drivers[0].command()) if single else 'the command of task "$SLURM_ARRAY_TASK_ID" below'
    given = parameters if single else {**parameters, "map_count": len(drivers)}
    text = _make_sbatch_string(command=f"exec {command}", folder=folder, **given)
    tasks = [] if single else [f"# task {i}: {shlex.join(d.command())}" for i, d in enumerate(drivers)]
    return "\n".join([text.rstrip(), *tasks, ""])
