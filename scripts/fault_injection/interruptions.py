"""Kills, signals and disks that refuse, in the middle of a command; then the same command again, to its end."""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from mft_cli.train import checkpoint
from scripts.fault_injection.forks import Ended, Fault
from scripts.fault_injection.scenarios import SCENARIOS, Scenario, Workshop, differences
from scripts.fault_injection.table import Table, traceback_in

KILLS_IN_SEQUENCE = 3
DISK_ERRORS = (
    errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.EMFILE,
    errno.EBUSY,
)  # fmt: skip
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# the last: as it started
TOLD_CODES = {
    0,
    75,
    130,
    2,
    -signal.SIGTERM,
    -signal.SIGINT,
    -signal.SIGHUP,
    -signal.SIGUSR1,
}


def scenario_order(rng: random.Random, names: list[str]) -> list[Scenario]:
    chosen = [s for s in SCENARIOS if not names or s.name in names]
    rng.shuffle(chosen)
    return chosen


def any_operation(shop: Workshop, scenario: Scenario, rng: random.Random) -> tuple[str, int]:
    """(role, number) of an operation of the undisturbed run, each process as likely as the others."""
    shop.reference(scenario)
    role, count = rng.choice(sorted(shop.operations[scenario.name].items()))
    return role, rng.randint(1, max(1, count))


def kills(shop: Workshop, table: Table, n: int, seed: str, names: list[str]) -> None:
    """`n` kill -9, up to three before a run may end: half of them before a chosen file operation, half at any moment."""
    order = scenario_order(random.Random(seed), names)
    for number in table.untried(itertools.count(), seed):
        still = n - table.faults("kill -9")
        if still <= 0 and not table.retrying:
            break
        rng, scenario = random.Random(f"{seed} {number}"), order[number % len(order)]
        shop.reference(scenario)
        folder = shop.fresh(scenario, "case")
        struck: list[str] = []
        for _ in range(min(rng.randint(1, KILLS_IN_SEQUENCE), still if still > 0 else KILLS_IN_SEQUENCE)):
            before = newest(folder / "run") if scenario.name != "again" else None  # that of the run to be replaced
            ended = kill_once(shop, scenario, folder, rng)
            judge(table, f"kill -9: {scenario.name}", ended, struck, before)
            if ended.struck:
                struck.append(next(note for note in ended.notes if note.startswith("fault")).replace(f"{folder}/", ""))
            elif ended.code == 0:
                break
        table.count(f"kill -9: {scenario.name}", max(1, len(struck)))
        finish(shop, table, f"kill -9: {scenario.name}", scenario, folder, struck)


def kill_once(shop: Workshop, scenario: Scenario, folder: Path, rng: random.Random) -> Ended:
    if rng.random() < 0.5:
        role, at = any_operation(shop, scenario, rng)
        return shop.run(scenario, folder, fault=Fault(lambda _: os.kill(os.getpid(), signal.SIGKILL), at, role))
    moment = rng.random() * shop.seconds[scenario.name]
    note = folder / "notes.txt"

    def strike(pid: int) -> None:
        time.sleep(moment)
        try:
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            victim = rng.choice(family)
            if victim.status() == psutil.STATUS_ZOMBIE:
                return
            victim.kill()
        except psutil.NoSuchProcess:
            return
        with open(note, "a") as file:
            file.write(f"fault process {family.index(victim)} after {moment:.2f} s\n")

    return shop.run(scenario, folder, meanwhile=strike)


def signals(shop: Workshop, table: Table, n: int, seed: str, names: list[str]) -> None:
    """`n` stop signals before a chosen file operation, a fifth of them Ctrl-C twice."""
    order = scenario_order(random.Random(seed), names)
    for i in table.untried(range(n), seed):
        rng = random.Random(f"{seed} {i}")
        scenario, number = order[i % len(order)], rng.choice(SIGNALS)
        times = 2 if number == signal.SIGINT and rng.random() < 0.5 else 1
        role, at = any_operation(shop, scenario, rng)

        def send(_: int, number: int = number, times: int = times) -> None:
            for _ in range(times):
                os.kill(os.getpid(), number)

        named = f"{number.name}{' twice' if times == 2 else ''}"
        strike_and_finish(shop, table, f"signal: {named}", scenario, Fault(send, at, role))


def disks(shop: Workshop, table: Table, n: int, seed: str, names: list[str]) -> None:
    """`n` refusals of a disk: an error number at a chosen file operation (once, or from then on), or a limit of the size."""
    order = scenario_order(random.Random(seed), names)
    for i in table.untried(range(n), seed):
        rng = random.Random(f"{seed} {i}")
        scenario, number = order[i % len(order)], rng.choice(DISK_ERRORS)
        role, at = any_operation(shop, scenario, rng)

        def refuse(_: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        if rng.random() < 0.3:
            size = int(10 ** rng.uniform(2, 6))
            group = "disk: files of a limited size"
            strike_and_finish(shop, table, group, scenario, None, lambda size=size: limit_size(size), f"{size} bytes")
        else:
            lasting = rng.random() < 0.5
            group = f"disk: {errno.errorcode[number]}"
            strike_and_finish(shop, table, group, scenario, Fault(refuse, at, role, lasting))


def limit_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def strike_and_finish(
    shop: Workshop, table: Table, group: str, scenario: Scenario, fault: Fault | None,
    first: Callable[[], object] = lambda: None, what: str = "",
) -> None:  # fmt: skip
    folder = shop.fresh(scenario, "case")
    ended = shop.run(scenario, folder, fault=fault, first=first)
    struck = [note.replace(f"{folder}/", "") for note in ended.notes if note.startswith("fault")] or [what]
    table.count(group)
    judge(table, group, ended, [scenario.name, *struck], None)
    if ended.code not in TOLD_CODES:
        last = ended.output.strip().splitlines()[-1:] or ["nothing said"]
        if not (scenario.settings.get("launch.processes") and "rank" in last[0]):  # a rank that could not end well
            table.blame(group, "traceback", f"{scenario.name}, {struck[0]}: exit code {ended.code}: {last[0]}")
    finish(shop, table, group, scenario, folder, struck)


def newest(run: Path) -> int:
    """The newest whole checkpoint's step; 0 without one."""
    steps = checkpoint.steps_in(run / "checkpoints")
    return next((s for s in steps if checkpoint.verify(checkpoint.step_folder(run / "checkpoints", s)) is None), 0)


def judge(table: Table, group: str, ended: Ended, what: list[str], before: int | None) -> None:
    if line := traceback_in(ended.output):
        table.blame(group, "traceback", f"{what}: {line}")
    if ended.hung:
        table.blame(group, "traceback", f"{what}: {ended.hung}")
    started_over = before and "steps to go" in ended.output and f"step-{before:08d}" not in ended.output
    if started_over and "checkpoint.resume=false" not in ended.output:
        table.blame(group, "lost", f"{what}: did not go on from step {before}")


def finish(shop: Workshop, table: Table, group: str, scenario: Scenario, folder: Path, struck: list[str]) -> None:
    """The same command again, undisturbed: it has to get to the undisturbed result."""
    what = f"{scenario.name}: {', '.join(struck)}"
    before = newest(folder / "run") if scenario.name != "again" else None
    ended = shop.run(scenario, folder)
    judge(table, group, ended, [what], before)
    if ended.code and not (scenario.told and scenario.told in ended.output):
        last = ended.output.strip().splitlines()[-1:] or ["nothing said"]
        table.blame(group, "lost", f"{what}: exit code {ended.code}: {last[0]}")
    elif differing := differences(folder / "run", shop.reference(scenario) / "run"):
        table.blame(group, "silent", f"{what}: differs in {', '.join(differing[:5])}")
