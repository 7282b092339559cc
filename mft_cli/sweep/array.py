"""A sweep as an array of SLURM jobs (hydra/launcher=mft_slurm): task by task `mft sweep run FOLDER NUMBER`.

Submitting does not wait: the jobs keep their own records in the ledger, and SLURM's queue says which are still to come.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from mft_cli.config.schema.base import Values
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.config.schema.runs import RunConfig, TrainConfig
from mft_cli.errors import UserError
from mft_cli.report.wording import count
from mft_cli.slurm.submit import Driver, job_parameters, submit
from mft_cli.sweep.ledger import IN_CLUSTER, Ledger
from mft_cli.sweep.verbs import VERBS

POLL_S = 5.0


def in_array(ledger: Ledger, numbers: Sequence[int], options: Values, dry_run: bool = False) -> None:
    """Submit the jobs that are neither queued nor running. With the option `wait`, until the last has ended.

    A dry run prints what it would submit; the jobs are in the ledger then. Raises UserError.
    """
    truths = {job.number: job for job in ledger.known_truths()}
    todo = [n for n in numbers if truths[n].state not in IN_CLUSTER]
    if len(todo) < len(numbers):
        print(f"{count(len(numbers) - len(todo), 'job')} queued or running already", flush=True)
    if todo:
        send(ledger, todo, dry_run)
    if options.get("wait") and not dry_run:
        wait(ledger, numbers)


def send(ledger: Ledger, numbers: Sequence[int], dry_run: bool) -> None:
    """One array of these jobs."""
    parameters = job_parameters(shared_launch(ledger, numbers), f"mft-sweep-{ledger.root.name}")
    if VERBS[ledger.verb].one_task:
        parameters["ntasks_per_node"] = 1
    drivers = [Driver(("sweep", "run", str(ledger.root), str(n), "launch=slurm")) for n in numbers]
    folder = ledger.root / "slurm"
    if dry_run:
        submit(drivers, folder, parameters, dry_run=True)
        print(f"nothing submitted; {count(len(numbers), 'job')} composed in {ledger.root / 'jobs'}")
        return
    for number in numbers:  # before the submission: afterwards the records are the jobs' own
        ledger.reset(number)
        ledger.update(number, state="queued")
    try:
        names = submit(drivers, folder, parameters, dry_run=False)
    except BaseException:
        for number in numbers:
            ledger.reset(number)
        raise
    for number, name in zip(numbers, names, strict=True):
        ledger.set_cluster_id(number, name)
    print(
        f"submitted {count(len(numbers), 'job')} as SLURM job {names[0].split('_')[0]}; output in {folder}", flush=True
    )


def shared_launch(ledger: Ledger, numbers: Sequence[int]) -> LaunchConfig:
    """launch.* of the array. Raises UserError if the jobs differ in it, or for the mistake that all of them have."""
    from mft_cli.plan.saving import with_time_to_save

    configs: list[RunConfig] = []
    mistakes: list[UserError] = []
    for number in numbers:
        try:
            configs.append(VERBS[ledger.verb].read(ledger.values(number)))
        except UserError as error:  # the job itself says what is wrong, and costs the others nothing
            mistakes.append(error)
    if not configs:
        raise mistakes[0]
    launch = configs[0].launch
    if any(config.launch != launch for config in configs):
        raise UserError("launch.* differs between the jobs of this sweep; the tasks of one SLURM array share it")
    if launch.slurm.eval_job:
        raise UserError("launch.slurm.eval_job=true is for single runs; the jobs of a sweep evaluate themselves")
    first = configs[0]
    return with_time_to_save(first).launch if isinstance(first, TrainConfig) else launch


def wait(ledger: Ledger, numbers: Sequence[int]) -> None:
    """Until none of the jobs is queued or running; one line whenever that changes."""
    shown = ""
    while True:
        states = [job.state for job in ledger.truths() if job.number in numbers]
        line = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
        if line != shown:
            print(line, flush=True)
            shown = line
        if not any(state in IN_CLUSTER for state in states):
            return
        time.sleep(POLL_S)
