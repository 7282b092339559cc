"""`mft fetch`: its help, its options and what it calls."""

from __future__ import annotations

from mft_cli.cli.options import composed
from mft_cli.config.schema.runs import TrainConfig


def main(arguments: list[str]) -> None:
    from mft_cli.config.load import train_config

    composed("train", arguments, train_config, fetch)


def fetch(config: TrainConfig) -> None:
    """Says where each thing lies. Raises UserError."""
    from mft_cli.data.layouts import resolve_local
    from mft_cli.train.fetch import fetch_model, fetch_source

    resolve_local(config.data)
    print(f"model      {config.model.path}: {fetch_model(config.model, print)}", flush=True)
    for name, source in {**config.data.sources, **config.data.sources_validation}.items():
        print(f"data       {name}: {fetch_source(source)}", flush=True)
    for name, benchmark in config.eval.benchmarks.items():
        print(f"benchmark  {name}: {fetch_source(benchmark.source)}", flush=True)
    print(
        "all of it is here: with HF_HUB_OFFLINE=1 and HF_DATASETS_OFFLINE=1 the same words to mft train need no network"
    )


HELP = """mft fetch: bring model, tokenizer, data and benchmarks, on a login node whose compute nodes have no network

  mft fetch model=llama2_7b data=gsm8k eval=[gsm8k,math500]
  mft fetch model.path=org/name data=local data.sources.local.path=https://host/rows.jsonl

Takes every override of mft train. The hub's files go to HF_HOME, others to mft's cache (MFT_CACHE_DIR): both must lie where the
compute nodes see them (docs/cluster.md). What is there already is left as it is.
"""
