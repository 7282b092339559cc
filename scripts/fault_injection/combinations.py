"""Settings that are each allowed, together: a run, or a sentence why not."""

from __future__ import annotations

import random

from scripts.fault_injection.scenarios import EVALUATED, Scenario, Workshop
from scripts.fault_injection.table import Table, traceback_in

METHODS = ("sft", "masked_thought", "masked_critique", "mask_finetune", "chunk_refine", "masked_thought_neftune")
CHOICES: dict[str, tuple[object, ...]] = {
    "peft": ("none", "lora", "qlora"),
    "deepspeed": ("none", "none", "none", "zero1", "zero3"),
    "train.precision": ("fp32", "bf16", "fp16", "auto"),
    "train.schedule": ("constant", "linear", "cosine"),
    "train.optimizer": ("adamw", "adamw", "adamw_8bit"),
    "train.packing": (True, False),
    "train.gradient_checkpointing": (True, False),
    "train.micro_batch_size": (1, 3),
    "train.epochs": (0.01, 1),
    "train.max_steps": (1, 2),
    "train.row_length": (8, 256, "null"),
    "train.max_grad_norm": (0, 1),
    "data.validation.rows": (0, 1, 39),
    "data.validation.every_steps": (0, 1),
    "data.on_long": ("drop", "truncate", "error"),
    "data.max_length": (1, 64, 256),
    "checkpoint.keep_best": (True, False),
    "checkpoint.every_steps": (0, 1),
    "log.samples_every_steps": (0, 1),
    "log.every_steps": (1, 7),
    "log.tensorboard": (True, False),
    "model.attention": ("auto", "sdpa", "flex"),
    "eval.checkpoints": ("last", "best", "all"),
    "prompt": ("chat", "alpaca", "completion"),
}
OF_METHOD = {"mask_finetune": {"method.layers": "0-1"}, "chunk_refine": {"method.width": 32, "method.heads": 4}}
SET_AT_ONCE = 6


def combinations(shop: Workshop, table: Table, n: int, seed: str, names: list[str]) -> None:
    """`n` random combinations, of a method and some other keys each."""
    for number in table.untried(range(n), seed):
        rng = random.Random(f"{seed} {number}")
        method = rng.choice(METHODS)
        chosen = {key: rng.choice(CHOICES[key]) for key in rng.sample(sorted(CHOICES), SET_AT_ONCE)}
        more = EVALUATED if rng.random() < 0.2 else {}
        settings = {"train.max_steps": 2, **chosen, **OF_METHOD.get(method, {}), **more}
        groups = tuple(f"{key}={settings.pop(key)}" for key in ("peft", "deepspeed", "prompt") if key in settings)
        scenario = Scenario(f"combination {number}", settings, (f"method={method}", *groups))
        group = f"combination with {method}"
        table.count(group)
        ended = shop.run(scenario, shop.fresh(scenario, "case"))
        what = f"{' '.join(scenario.words)} {' '.join(f'{k}={v}' for k, v in settings.items())}"
        last = (ended.output.strip().splitlines() or ["nothing said"])[-1]
        if (line := traceback_in(ended.output)) or ended.hung or ended.code not in (0, 2):
            table.blame(group, "traceback", f"{what}: exit code {ended.code}: {line or ended.hung or last}")
        elif ended.code == 2 and not last.startswith("mft: "):
            table.blame(group, "lost", f"{what}: no reason is given: {last}")
