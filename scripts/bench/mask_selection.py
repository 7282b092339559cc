"""What mask_finetune spends on choosing weights, and its training step against plain fine-tuning of the same layers.

    python scripts/bench/mask_selection.py [select] [step] [layers=all] [rows=2]

select: one 4096 x 11008 matrix of scores. The published code sorts all of it, with 64-bit indices, in every forward pass:
        16 times in a step of 16 micro-batches. Here it is selected once a step (goal: at least 100 times cheaper).
step:   a whole mask_finetune step (selection, forward, backward, optimizer) of SmolLM2-135M against forward and backward
        of sft that trains the same layers' weights and freezes the rest (goal: at most 1.2 times).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from mft_cli.config.compose import CONF
from mft_cli.config.load import train_config
from mft_cli.console import Log
from mft_cli.methods.masked_layers import choose
from mft_cli.methods.selection import keep_largest, removed_count
from mft_cli.methods.sft import Sft
from mft_cli.run_dir import RunDir
from mft_cli.signals import StopSignal
from mft_cli.train.loop import Trainer
from mft_cli.train.setup import assemble

ACCUMULATION = 16
STEPS = 2


def seconds(task: Callable[[], Any]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def by_sorting(scores: torch.Tensor, removed: int) -> torch.Tensor:
    """The published way: indices of a full sort."""
    mask = torch.ones(scores.numel())
    mask[scores.abs().flatten().sort().indices[:removed]] = 0
    return mask.view(scores.shape).bool()


def select() -> None:
    scores = torch.randn(4096, 11008, generator=torch.Generator().manual_seed(0)) * 0.02
    removed = removed_count(0.1, scores.numel())
    keep_largest(scores, removed)  # warm
    ours = statistics.median(seconds(lambda: keep_largest(scores, removed)) for _ in range(5))
    sort = seconds(lambda: by_sorting(scores, removed))
    print(f"select: {ours:.3f} s a step; full sort {sort:.1f} s a forward pass, {ACCUMULATION * sort:.0f} s a step")
    print(f"select: {ACCUMULATION * sort / ours:.0f} times cheaper at accumulation {ACCUMULATION}", flush=True)


class SameLayers(Sft):
    """Plain fine-tuning of the weights that mask_finetune would mask."""

    layers: Any = "all"

    def adapt(self, model: Any, tokenizer: Any) -> Any:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for module in choose(model, self.layers, ["attention", "mlp"]).values():
            module.weight.requires_grad_(True)
        return model


def make_trainer(folder: Path, method: dict[str, Any], rows: int) -> Trainer:
    read = {g: yaml.safe_load((CONF / f"{g}/{o}.yaml").read_text()) for g, o in GROUPS.items()}
    values = {
        "run_dir": str(folder), "model": read["model"], "data": read["data"] | {"validation": {"rows": 0}},
        "method": method, "launch": {"device": "cpu", "threads": torch.get_num_threads()},
        "train": {"global_batch_size": rows * 10, "max_steps": STEPS + 1, "precision": "bf16", "row_length": 1024},
    }  # fmt: skip
    run = RunDir(folder)
    run.root.mkdir(parents=True)
    return assemble(run, train_config(values), StopSignal(), Log(run.log)).trainer


GROUPS = {"model": "smollm2_135m", "data": "gsm_symbolic"}


def step(layers: str, rows: int) -> None:
    """Both in turn, step by step: the machine's other load then hits both."""
    with tempfile.TemporaryDirectory() as temporary:
        masked = make_trainer(Path(temporary) / "a", {"name": "mask_finetune", "layers": layers}, rows)
        SameLayers.layers = layers
        from mft_cli.train import setup as assembly

        own, assembly.make = assembly.make, lambda config, chunk: SameLayers(config, chunk)
        plain = make_trainer(Path(temporary) / "b", {"name": "sft"}, rows)
        assembly.make = own
        times: dict[str, list[float]] = {"select": [], "optimizer": [], "step": [], "sft": [], "sft step": []}
        for trainer, optimizer, whole in ((masked, "optimizer", "step"), (plain, "sft", "sft step")):
            time_parts(trainer, times, optimizer, whole)
        for k in range(STEPS + 1):
            tokens = masked.step(k).tokens
            plain.step(k)
            print(f"step {k}:", {n: round(v[k], 3) for n, v in times.items()}, flush=True)
    middle = {n: statistics.median(t[1:]) for n, t in times.items()}
    print(
        f"step: layers={layers}, {tokens:,} tokens: {middle['step']:.2f} s (selection {middle['select']:.3f}, optimizer "
        f"{middle['optimizer']:.2f}); sft of the same weights: forward and backward {middle['sft']:.2f} s, "
        f"whole step {middle['sft step']:.2f} s"
    )
    print(
        f"step: {middle['step'] / middle['sft']:.2f} times sft's forward and backward, "
        f"{middle['step'] / middle['sft step']:.2f} times its whole step",
        flush=True,
    )


def time_parts(trainer: Trainer, times: dict[str, list[float]], optimizer: str, whole: str) -> None:
    """Notes the seconds of the selection, of the optimizer's step, and of the whole step; of sft: all but the optimizer."""
    step_, begin, engine_step = trainer.step, trainer.method.begin_step, trainer.engine.step
    last = {"optimizer": 0.0}

    def timed_optimizer(*a: Any) -> Any:
        start = time.perf_counter()
        done = engine_step(*a)
        last["optimizer"] = time.perf_counter() - start
        return done

    def timed_begin(*a: Any) -> None:
        spent = seconds(lambda: begin(*a))
        if whole == "step":
            times["select"].append(spent)

    def timed_step(k: int) -> Any:
        start = time.perf_counter()
        done = step_(k)
        spent = time.perf_counter() - start
        times[whole].append(spent)
        times[optimizer].append(spent - last["optimizer"] if optimizer == "sft" else last["optimizer"])
        return done

    trainer.engine.step, trainer.method.begin_step, trainer.step = timed_optimizer, timed_begin, timed_step  # type: ignore[assignment]


def main() -> None:
    own = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
    wanted = [a for a in sys.argv[1:] if "=" not in a] or ["select", "step"]
    if "select" in wanted:
        select()
    if "step" in wanted:
        step(own.get("layers", "all"), int(own.get("rows", 2)))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")


if __name__ == "__main__":
    main()
