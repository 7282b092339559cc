"""What a masked_thought step spends on corruption, and how speed depends on the data set's size and the row's length.

    MFT_DATA_DIR=<folder with gsm8k/> python scripts/bench/step.py [corrupt] [rows] [lengths]

corrupt: method.corrupt of whole steps, timed directly, as a share of the step (goal: at most 0.1 %).
rows:    tokens/s over 700 and 7,000 rows of GSM8K (goal: the same).
lengths: tokens/s for packed rows of 512 to 4,096 tokens (attention is block-diagonal, so it should hardly matter).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from mft_cli.config.load import train_config
from mft_cli.console import Log
from mft_cli.data.deal import Layout, deal
from mft_cli.data.pack import make_batch
from mft_cli.run_dir import RunDir
from mft_cli.signals import StopSignal
from mft_cli.train.loop import Trainer
from mft_cli.train.setup import assemble

STEPS = 3


def make_trainer(folder: Path, rows: int, row_length: int = 1024) -> Trainer:
    import yaml

    from mft_cli.config.compose import CONF

    read = {
        g: yaml.safe_load((CONF / g / f"{o}.yaml").read_text())
        for g, o in (("model", "smollm2_135m"), ("data", "gsm8k"))
    }
    data = read["data"] | {"validation": {"rows": 0}}
    data["sources"]["gsm8k"]["rows"] = rows
    config = train_config(
        {
            "run_dir": str(folder), "model": read["model"], "data": data,
            "method": {"name": "masked_thought", "schedule": "constant"},
            "train": {"global_batch_size": 12, "max_steps": STEPS + 1, "precision": "bf16", "row_length": row_length},
        }
    )  # fmt: skip
    run = RunDir(folder)
    run.root.mkdir(parents=True)
    return assemble(run, config, StopSignal(), Log(run.log)).trainer


def speed(made: Trainer) -> float:
    """Real tokens/s: median over STEPS steps after a first one."""
    found = []
    for k in range(STEPS + 1):
        start = time.perf_counter()
        result = made.step(k)
        found.append(result.tokens / (time.perf_counter() - start))
    return statistics.median(found[1:])


def corrupt(folder: Path) -> None:
    made = make_trainer(folder, 700)
    start = time.perf_counter()
    made.step(0)
    made.step(1)
    step_s = (time.perf_counter() - start) / 2
    times = []
    for k in range(20):
        epoch, chosen = made.order.step(k % made.order.steps_per_epoch)
        dealt = deal(made.train.lengths[chosen], Layout(made.layout.row_length, packing=True, micro_batch_size=1))
        blocks = [[[int(chosen[i]) for i in row] for row in rows] for rows in dealt[0]]
        batches = [make_batch(made.train, block, epoch, made.pad_id) for block in blocks]
        start = time.perf_counter()
        for batch in batches:
            made.method.corrupt(batch, 1.0, made.draw)
        times.append(time.perf_counter() - start)
    cost = statistics.median(times)
    print(f"corrupt: {1000 * cost:.2f} ms of a step of {step_s:.2f} s: {100 * cost / step_s:.4f} %", flush=True)


def main() -> None:
    wanted = sys.argv[1:] or ["corrupt", "rows", "lengths"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "corrupt" in wanted:
            corrupt(folder / "corrupt")
        if "rows" in wanted:
            for rows in (700, 7000):
                print(f"rows {rows:5d}: {speed(make_trainer(folder / f'rows{rows}', rows)):,.0f} tokens/s", flush=True)
        if "lengths" in wanted:
            for length in (512, 1024, 2048, 4096):
                print(
                    f"row_length {length:4d}: {speed(make_trainer(folder / f'l{length}', 700, length)):,.0f} tokens/s",
                    flush=True,
                )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")


if __name__ == "__main__":
    main()
