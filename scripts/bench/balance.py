"""How much of what ranks compute in a step is real tokens, for GSM8K's lengths. Nothing is trained.

    MFT_DATA_DIR=<folder with gsm8k/> python scripts/bench/balance.py

A step takes as long as its slowest rank: what the others wait for, and padding, counts as useless.
"""

from __future__ import annotations

import yaml

from mft_cli.config.compose import CONF
from mft_cli.config.load import train_config
from mft_cli.data.deal import Layout, balance
from mft_cli.data.load import load
from mft_cli.data.pack import Order
from mft_cli.data.prompts import Renderer
from mft_cli.models.loading import load_tokenizer, locate

STEPS = 50
ROW_LENGTH = 1024


def main() -> None:
    read = {
        g: yaml.safe_load((CONF / g / f"{o}.yaml").read_text())
        for g, o in (("model", "smollm2_135m"), ("data", "gsm8k"))
    }
    config = train_config({"run_dir": "-", **read})
    tokenizer = load_tokenizer(locate(config.model), config.model)
    train = load(config.data, Renderer(tokenizer, config.prompt, ()), config.seed).train
    print(f"{len(train):,} examples of {train.lengths.mean():.0f} tokens, rows of {ROW_LENGTH}; mean of {STEPS} steps")
    print(f"{'ranks':>5} {'examples a rank':>15} {'micro-batch':>11} {'passes':>6} {'useful':>7} {'idle ranks':>10}")
    for world in (1, 8, 64):
        for each in (1, 4, 8, 64):
            order = Order(train, config.seed, each * world)
            steps = [train.lengths[order.step(k)[1]] for k in range(min(STEPS, max(1, len(train) // (each * world))))]
            for size in (1, 2, 4, 8):
                b = balance(steps, Layout(ROW_LENGTH, packing=True, micro_batch_size=size, world=world))
                print(f"{world:5d} {each:15d} {size:11d} {b.passes:6.1f} {b.useful:7.1%} {b.idle:10d}")


if __name__ == "__main__":
    main()
