"""What tests/distributed/test_ranks.py starts once a rank: every method's first steps under one engine, results as JSON from rank 0."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from mft_cli.config import load, schema, validate
from mft_cli.console import Log
from mft_cli.distributed.ranks import Ranks, join, leave
from mft_cli.distributed.zero import is_partitioned
from mft_cli.models.device import set_up_device
from mft_cli.run_dir import RunDir
from mft_cli.signals import StopSignal
from mft_cli.train import checkpoint
from mft_cli.train.loop import Trainer
from mft_cli.train.setup import assemble

STEPS = 3


def make_trainer(values: dict[str, Any], ranks: Ranks) -> Trainer:
    asked: schema.TrainConfig = load.train_config(values)
    run = RunDir(asked.run_dir or "")
    run.root.mkdir(parents=True, exist_ok=True)
    return assemble(run, asked, StopSignal(), Log(), ranks).trainer


def facts(trainer: Trainer, states: Path | None = None) -> list[dict[str, Any]]:
    """Steps of a run, as numbers that must not depend on the ranks.

    `states`: a folder with the checkpoint of every step, each of which is the state that the next step starts from. The
    run whose own folder it is writes them.
    """
    found = []
    for k in range(trainer.state.step, trainer.state.step + STEPS):
        if states is not None and k:
            start_from(trainer, states, k)
        r = trainer.step(k)
        found.append(
            {
                "examples": r.examples,
                "counts": r.counts,
                "shares": r.shares,
                "terms": r.terms,
                "loss": r.loss,
                "norm": r.norm,
                "applied": r.applied,
                "whole_parameters": whole_parameters(trainer),
                "swapped": swapped_groups(trainer),
            }
        )
    return found


def whole_parameters(trainer: Trainer) -> int:
    """How many parameters every rank holds whole, outside of a forward pass."""
    parameters: list[Any] = list(trainer.engine.model.parameters())
    return sum(not is_partitioned(p) or p.ds_persist for p in parameters)


def swapped_groups(trainer: Trainer) -> int:
    """How many sub-groups DeepSpeed keeps in files on this rank."""
    zero = getattr(trainer.engine, "zero", None)
    swapper = getattr(zero, "optimizer_swapper", None)
    return len(swapper.swap_params_info) if swapper else 0


def break_first_step(trainer: Trainer) -> None:
    """The engine is told a loss that is not finite, once; the gradients are."""
    step = trainer.engine.step
    losses = iter([math.inf])
    trainer.engine.step = lambda rate, loss: step(rate, next(losses, loss))  # type: ignore[method-assign]


def start_from(trainer: Trainer, states: Path, k: int) -> None:
    if states == trainer.run.checkpoints:
        trainer.state.step = k
        trainer.save()
        return
    stored = checkpoint.Stored(checkpoint.step_folder(states, k))
    trainer.engine.load(stored.read, stored.read, stored.trainer["engine"])


def main(cases: Path, out: Path) -> None:
    wanted = json.loads(cases.read_text())
    first = {k: v for k, v in next(iter(wanted.values())).items() if k != "states"}
    ranks = join(set_up_device(validate.build(schema.TrainConfig, first).launch))
    results: dict[str, Any] = {}
    for name, values in wanted.items():
        states = values.pop("states", None)
        trainer = make_trainer(values, ranks)
        if name.startswith("broken"):
            break_first_step(trainer)
        if values["run_dir"].endswith("-resume"):
            results[name] = facts(trainer)
            continue
        results[name] = facts(trainer, Path(states) if states else None)
        trainer.state.step = STEPS
        trainer.save()
        if ranks.rank == 0:
            trainer.run.config.write_text(validate.to_yaml(trainer.config))
        ranks.barrier()
    if ranks.rank == 0:
        out.write_text(json.dumps(results))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
