"""`mft plan`: its help, its options and what it calls."""

from __future__ import annotations

import os

from mft_cli.cli.options import composed, read_options
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.files import OFFLINE


def main(arguments: list[str]) -> None:
    from mft_cli.config.load import train_config
    from mft_cli.plan.settings import PlanOptions

    options, rest = read_options(PlanOptions, "plan", arguments, TrainConfig)
    for name, value in OFFLINE.items():  # a plan waits for no download, nor for a hub that does not answer
        os.environ.setdefault(name, value)

    def task(config: TrainConfig) -> None:
        from mft_cli.plan.run import plan

        plan(config, options)

    composed("train", rest, train_config, task)


HELP = """mft plan: memory, time and disk of a training before it is paid for

  mft plan method=sft model=llama2_7b data=gsm8k gpus=8 gpu_memory_gb=80 mfu=0.4 peak_tflops=312 mean_tokens=210
  mft plan model=llama2_70b gpus=64 rows=100000 mean_tokens=600 train.gradient_checkpointing=true
  mft plan model=qwen25_7b peft.name=lora peft.rank=16 gpus=1 rows=7473 mean_tokens=210
  mft plan model=local model.path=my/model arch=my/config.json gpus=8 json=true

Takes every override of mft train, and:
  gpus=N            GPUs in all (default launch.gpus x nodes, else 1); nodes=N (default: 8 GPUs a node)
  gpu_memory_gb=80  memory of one, 1e9 bytes; reserve=0.05 of it is left for what the plan does not count
  mfu=0.4 peak_tflops=312  what share of which peak is reached; without the peak no time is given
  rows=N mean_tokens=N     training examples and tokens of one, where the data or the tokenizer is not here
  label_share=0.6   share of tokens that are trained on (default: counted, else 1)
  arch=FILE         the model's config.json, or its numbers: arch='{model_type: llama, hidden_size: 4096, ...}'
  json=true         for scripts
Prints for every ZeRO stage what lies on a GPU, with and without gradient checkpointing, what fits, and the arithmetic.
Nothing is downloaded and no weight is loaded. What it counts and how it was checked: docs/plan.md
"""
