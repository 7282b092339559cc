"""Hydra's side of a sweep: launchers that compose the jobs, enter them in the ledger and have them run.

Hydra instantiates launchers by name, of the namespace `hydra_plugins` only, and finds them by scanning installed packages,
which an editable installation defeats. So ours are registered by hand, in a module of that namespace made on the spot.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from omegaconf import DictConfig

from mft_cli.config.compose import resolved
from mft_cli.config.effects import unmet_needs
from mft_cli.config.schema.base import Values
from mft_cli.errors import UserError
from mft_cli.sweep.ledger import IN_CLUSTER, Job, Ledger, varied
from mft_cli.sweep.verbs import VERBS

Run = Callable[[Ledger, list[int], Values], None]  # ledger, jobs to run, the launcher's options
MODULE = "hydra_plugins.mft"
# hydra/launcher=<name> and its keys
OPTIONS: dict[str, Values] = {
    "basic": {},
    "mft_local": {"jobs": 2},
    "mft_slurm": {"wait": False},
}


class Sweep(Protocol):
    """What a launcher asks of the sweep that it belongs to."""

    def begin(self, folder: str, launcher: str, options: Values) -> Ledger: ...
    def check(self, values: Values, hydra: DictConfig) -> None: ...
    def finished(self, ledger: Ledger, job: Job) -> bool: ...


def register(sweep: Sweep, runners: dict[str, Run]) -> None:
    """Put a launcher a runner into Hydra's registry; `basic` takes the place of Hydra's own.

    A launcher enters its jobs in the ledger, leaves out those that are finished, hands the others to its runner and
    gives the sweeper every job's objective (None for a failed one).
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from hydra.core.utils import JobReturn, JobStatus, setup_globals
    from hydra.plugins.launcher import Launcher

    def launcher(name: str, run: Run) -> type:
        class Ours(Launcher):
            def __init__(self, **options: Any):
                self.options = options

            def setup(self, *, hydra_context: Any, task_function: object, config: DictConfig) -> None:
                self.loader, self.config = hydra_context.config_loader, config

            def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
                setup_globals()
                ledger = sweep.begin(str(self.config.hydra.sweep.dir), name, self.options)
                jobs = [ledger.add([str(o) for o in overrides]) for overrides in job_overrides]
                todo = [job.number for job in jobs if enter(sweep, ledger, job, self.loader, self.config)]
                if mistake := shared_mistake(ledger, [job.number for job in jobs]):
                    raise UserError(f"{mistake} (so in all {len(jobs)} jobs; none was started)")
                if useless := swept_for_nothing(ledger, jobs):
                    raise UserError(f"{useless}; none of the {len(jobs)} jobs was started")
                if len(todo) < len(jobs):
                    print(f"{len(jobs) - len(todo)} of {len(jobs)} jobs are done already", flush=True)
                run(ledger, todo, self.options)
                return [returned(ledger.get(job.number)) for job in jobs]

        Ours.__name__ = Ours.__qualname__ = name
        Ours.__module__ = MODULE
        return Ours

    def returned(job: Job) -> JobReturn:
        return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=job.objective)

    plugins, store, module = Plugins.instance(), ConfigStore.instance(), namespace_module()
    for name, run in runners.items():
        made = launcher(name, run)
        setattr(module, name, made)
        plugins.register(made)
        store.store(group="hydra/launcher", name=name, node={"_target_": f"{MODULE}.{name}", **OPTIONS[name]})


def shared_mistake(ledger: Ledger, numbers: Sequence[int]) -> str | None:
    """What is wrong, if no job of several can run: reported once, before the first is started.

    A search asks for one job at a time; there a mistake belongs to the values that it tried.
    """
    said: dict[str, str] = {}  # sentences that differ in a value only are one
    for number in numbers:
        try:
            VERBS[ledger.verb].read(ledger.values(number))
        except UserError as error:
            said.setdefault(re.sub(r"\(value [^()]*\)", "", str(error)), str(error))
        else:
            return None
    return "\n".join(said.values()) if said and len(numbers) > 1 else None


def swept_for_nothing(ledger: Ledger, jobs: Sequence[Job]) -> str | None:
    """A swept key that has no effect in any job: its runs would be repetitions of each other."""
    needs = []
    for job in jobs:
        with contextlib.suppress(UserError):  # the job itself says what is wrong
            needs.append(
                {key: need for key, need, _ in unmet_needs(VERBS[ledger.verb].read(ledger.values(job.number)))}
            )
    for key in varied(jobs):
        if needs and all(key in unmet for unmet in needs):
            return f"{key} is swept and has no effect in any job: it needs {needs[0][key]}"
    return None


def namespace_module() -> types.ModuleType:
    """An empty module hydra_plugins.mft, importable by that name."""
    parent, name = MODULE.split(".")
    try:
        package = importlib.import_module(parent)
    except ModuleNotFoundError:  # no plugin is installed
        package = sys.modules[parent] = types.ModuleType(parent)
        package.__path__ = []
    module = sys.modules[MODULE] = types.ModuleType(MODULE)
    setattr(package, name, module)
    return module


def enter(sweep: Sweep, ledger: Ledger, job: Job, loader: Any, config: DictConfig) -> bool:
    """Compose a job and freeze it. True if it is to be run."""
    values = composed(loader, config, job, ledger.verb)
    sweep.check(values, config.hydra)
    changed = ledger.freeze(job.number, values)
    if not changed and sweep.finished(ledger, job):
        return False
    if ledger.truth(job).state not in IN_CLUSTER:
        ledger.reset(job.number)
    return True


def composed(loader: Any, config: DictConfig, job: Job, verb: str) -> Values:
    """One job's configuration as nested plain dicts, interpolations such as ${hydra:job.num} resolved."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    before = HydraConfig.instance().cfg
    whole = loader.load_sweep_config(config, list(job.overrides))
    with open_dict(whole):
        whole.hydra.job.id = whole.hydra.job.num = job.number
    try:
        HydraConfig.instance().set_config(whole)
        without_hydra = copy.deepcopy(whole)
        with open_dict(without_hydra):
            del without_hydra["hydra"]
        return resolved(without_hydra, verb, job.overrides)
    finally:
        HydraConfig.instance().cfg = before


def sweep_name(overrides: Sequence[str]) -> str:
    """The last parts of the swept keys, joined: mask_ratio+seed. Empty for what Hydra cannot read and will complain of."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return ""
    swept = [
        o.get_key_element().lstrip("+~").rsplit(".", 1)[-1].rsplit("/", 1)[-1] for o in parsed if o.is_sweep_override()
    ]
    return "+".join(swept)[:60]
