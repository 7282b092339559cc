"""Inside a SLURM job: what SLURM says of it, and back into the queue after a stop that the user did not ask for.

Who stopped a run, as SLURM 22.05 shows it to the batch step:

    the time limit comes near   USR1 (--signal=B:USR1@120); the job is RUNNING: requeue it
    preemption, in its grace    TERM to srun's tasks only; RUNNING, PreemptTime is set: requeue it, or it would end here
    preemption, after its grace TERM; COMPLETING, one more restart than we know of: SLURM requeues it itself
    scancel                     TERM; COMPLETING, no restart: the user's word, leave it
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from types import FrameType

from mft_cli.config.schema.launching import SlurmConfig
from mft_cli.errors import Stopped
from mft_cli.signals import ignore_stop_signals, install

ASK_S = 60.0
UNREACHABLE = ("unable to contact slurm controller", "could not establish a configuration source", "zero bytes were")
TO_COME = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")


def inside_job() -> bool:
    """True in an allocation (sbatch, salloc, srun)."""
    return "SLURM_JOB_ID" in os.environ


class StoppedEarly(BaseException):
    """Stopped before the first step. No Exception: libraries try imports and swallow whatever goes wrong in them."""


def mind_early_signals() -> None:
    """Until training or evaluation has handlers of its own, USR1 raises StoppedEarly(its name) in a SLURM job."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise StoppedEarly(signal.Signals(number).name)

    if inside_job():
        install(stop, [signal.SIGUSR1])


def requeue_if_due(slurm: SlurmConfig, stopped: Stopped) -> bool:
    """Put this job back into the queue if its time was up or it was preempted. True if it was; prints what it did."""
    if not inside_job():
        return False
    name = os.environ["SLURM_JOB_ID"]
    ignore_stop_signals()  # a second one may come, and requeueing ends this very process
    try:
        verdict = decide(slurm, stopped.by, job_facts(name))
        if verdict is None:
            print(f"mft: SLURM job {name} goes back into the queue", flush=True)
            ask("requeue", name)
            return True
    except (OSError, subprocess.SubprocessError) as error:
        said = in_short(getattr(error, "stderr", None) or str(error))
        verdict = f"could not be requeued ({said}); submit the same command again"
    print(f"mft: SLURM job {name} {verdict}", flush=True)
    return False


def decide(slurm: SlurmConfig, by: str | None, facts: dict[str, str]) -> str | None:
    """None: requeue. Else why not, in words. `facts` is what `scontrol show job` says."""
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if facts.get("BatchFlag") == "0":
        return "is interactive: not requeued"
    if facts.get("JobState") != "RUNNING":
        again = int(facts.get("Restarts", "0")) > restarts
        return "is requeued by SLURM" if again else "was cancelled: not requeued"
    if by != "SIGUSR1" and facts.get("PreemptTime", "None") in ("None", "Unknown"):
        return f"was stopped by {by}, neither preempted nor out of time: not requeued"
    if not slurm.requeue:
        return "is not requeued: launch.slurm.requeue=false"
    if restarts >= slurm.max_requeues:
        return f"was restarted {restarts} times (launch.slurm.max_requeues): not requeued"
    return None


def job_facts(name: str) -> dict[str, str]:
    """`scontrol show job` as a dict. Raises OSError, CalledProcessError, TimeoutExpired."""
    shown = ask("--oneliner", "show", "job", name)
    return dict(word.split("=", 1) for word in shown.split() if "=" in word)


def queue() -> dict[str, str] | None:
    """Id (12, or 12_3 in an array) -> state of this user's jobs that have not ended. None where SLURM does not answer."""
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i %T", f"--user={os.getuid()}"],
            capture_output=True, text=True, timeout=ASK_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split() for line in done.stdout.splitlines() if line.strip())


def in_short(said: str) -> str:
    """What a command of SLURM printed when it failed: the names of commands left out, and all but the first line where
    SLURM is not to be reached, which then is the cause of the rest."""
    lines = [re.sub(r"^(\S+: (error|fatal)|slurm_\w+ error): ", "", line.strip()) for line in said.splitlines()]
    lines = [re.sub(r"^Batch job submission failed: ", "", line) for line in lines if line]
    cause = [line for line in lines if is_unreachable(line)]
    return cause[-1] if cause else "; ".join(dict.fromkeys(lines))


def is_unreachable(said: str) -> bool:
    """Whether SLURM's command found no controller, as opposed to being refused by it."""
    return any(word in said.lower() for word in UNREACHABLE)


def ask(*words: str) -> str:
    done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=ASK_S, check=True)
    return done.stdout
