"""train.micro_batch_size=auto: how many rows a GPU takes in one forward pass, by trial.

No number of a training depends on it but for rounding: the loss is a sum over a step, whatever it is cut into.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.console import Logger
from mft_cli.data.deal import Layout, deal
from mft_cli.data.examples import Examples
from mft_cli.models.device import Precision
from mft_cli.train.engine import TorchEngine
from mft_cli.train.loop import Trainer

# (configuration, precision, GPUs, GPUs of a node, bytes of a GPU) -> rows that should fit
Fits = Callable[[TrainConfig, Precision, int, int, float], int]
# bytes of a parameter that the first step will take, too
MOMENTS = {
    "adamw": 8,
    "adamw_8bit": 2,
    "adamw_8bit_paged": 0,
}


def choose_rows(trainer: Trainer, precision: Precision, should_fit: Fits | None, log: Logger) -> int:
    """Sets and returns the rows of a forward pass. All ranks have to call; they have the same.

    Begins with what the run had before, so that it goes on to the same bytes, else with what should fit and a step can fill.
    """
    engine, ranks = trainer.engine, trainer.engine.ranks
    _, memory = torch.cuda.mem_get_info(engine.device)
    should = should_fit(trainer.config, precision, ranks.world, ranks.local_world, memory) if should_fit else 1
    facts = trainer.run.get_provenance()
    same = trainer.state.step > 0 and facts.get("ranks") == ranks.world  # on fewer ranks a part of the states is larger
    before = facts.get("micro_batch_size") if same else None
    most = min(ranks.gather(int(before or min(should, rows_of_a_step(trainer)))))
    rows = rows_by_trial(trainer, most, log) if isinstance(engine, TorchEngine) else most
    trainer.layout = replace(trainer.layout, micro_batch_size=rows)
    log(f"train.micro_batch_size=auto: {rows} rows of {trainer.layout.row_length:,} tokens in one forward pass")
    return rows


def rows_by_trial(trainer: Trainer, most: int, log: Logger) -> int:
    """The largest of most, most / 2, ... rows whose forward and backward pass fits on every rank. All ranks have to call.

    Plain torch alone: under ZeRO ranks wait for each other within a pass, so that one that has no memory would stop all.
    """
    rows = most
    while rows > 1 and trainer.engine.ranks.any(not fits(trainer, rows)):
        log(f"{rows} rows in one forward pass do not fit this GPU's memory: {rows // 2} are tried")
        rows //= 2
    return rows


def fits(trainer: Trainer, rows: int) -> bool:
    """Whether the longest examples, laid into so many rows, can be trained on at once. Leaves no gradient."""
    engine, method = trainer.engine, trainer.method
    assert isinstance(engine, TorchEngine)
    layout = Layout(trainer.layout.row_length, trainer.layout.packing, rows)
    held: list[Tensor] = []
    try:
        held.append(moments_to_come(engine, trainer.config.train.optimizer))
        method.begin_step(engine.model, 0.0, engine.master)
        batch = trainer.batch(trainer.train, longest_rows(trainer.train, layout), 0)
        batch = trainer.on_device(method.corrupt(batch, 0.0, trainer.draw)).batch
        trainer.before_forward(batch)
        sums = engine.run(method.loss, batch).sums
        engine.backward(sum(sums.values()), last=False)  # type: ignore[arg-type]
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        engine.zero()
        held.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def moments_to_come(engine: TorchEngine, optimizer: str) -> Tensor:
    """Memory in place of what the optimizer's first step allocates; nothing after it."""
    count = 0 if engine.optimizer.state else sum(p.numel() for p in engine.named.values())
    return torch.empty(count * MOMENTS[optimizer], dtype=torch.uint8, device=engine.device)


def longest_rows(examples: Examples, layout: Layout) -> list[list[int]]:
    """The first micro-batch of the longest examples."""
    longest = np.argsort(-examples.lengths, kind="stable")
    enough = int(np.searchsorted(np.cumsum(examples.lengths[longest]), layout.row_length * layout.micro_batch_size)) + 1
    chosen = longest[: max(enough, layout.micro_batch_size)]
    return [[int(chosen[i]) for i in row] for row in deal(examples.lengths[chosen], layout)[0][0]]


def rows_of_a_step(trainer: Trainer) -> int:
    """The largest power of two that one rank's rows of the first step fill: more would stay empty."""
    lengths = trainer.train.lengths[trainer.order.step(0)[1]]
    whole = Layout(trainer.layout.row_length, trainer.layout.packing, len(lengths), trainer.layout.world)
    return 1 << (max(len(rows[0]) for rows in deal(lengths, whole)).bit_length() - 1)
