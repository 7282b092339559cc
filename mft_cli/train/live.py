"""Benchmarks inside of a training: the weights as they are, by plain transformers in this process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from mft_cli import files
from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.config.schema.runs import EvalRunConfig, TrainConfig
from mft_cli.data.prompts import Renderer
from mft_cli.eval.engines.base import Likelihood, Pair, Tokenizer
from mft_cli.eval.engines.hf import HfEngine
from mft_cli.eval.evaluate import evaluate_session
from mft_cli.eval.gold import likelihoods
from mft_cli.eval.plan import Subject
from mft_cli.eval.session import LoadedModel, Session
from mft_cli.files import JsonObject
from mft_cli.models.folder import ModelFolder, context_of
from mft_cli.train.metrics import Row
from mft_cli.train.samples import generating


class LiveEngine(HfEngine):
    """Never generates `hidden`: tokens of the method that its export does not have."""

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, batch_size: int, hidden: list[int]):
        super().__init__(model, tokenizer, batch_size)
        self.hidden = hidden

    def _forward(self, ids: Tensor, mask: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        logits, cache = super()._forward(ids, mask, cache)
        logits[:, self.hidden] = -torch.inf
        return logits, cache

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """See Engine."""
        return likelihoods(self.model, pairs, hidden=self.hidden)


class LiveEvaluation:
    """`evaluation(step)` gives the accuracy of every benchmark; completions and metrics stay in <folder>/step-<step>/.

    `start` is the folder that the weights came from; `hidden` are ids that the export will not have.
    """

    def __init__(
        self, folder: Path, start: Path, config: TrainConfig, model: PreTrainedModel, renderer: Renderer,
        derived_from: list[str], hidden: list[int],
    ):  # fmt: skip
        self.folder, self.start, self.model, self.renderer, self.hidden = folder, start, model, renderer, hidden
        self.config = EvalRunConfig(model=config.model, eval=inside(config.eval), launch=config.launch)
        self.facts: JsonObject = {"prompt": asdict(config.prompt), "derived_from": derived_from}

    def __call__(self, step: int) -> Row:
        started, out = time.monotonic(), self.folder / f"step-{step:08d}"
        if out.is_dir():  # of an attempt that was stopped here
            files.discard(out)
        with generating(self.model):
            metrics = evaluate_session(Session(self.config, out, loaded=self.loaded(step)), out)
        return {**scores_of(metrics), "seconds": time.monotonic() - started}

    def loaded(self, step: int) -> LoadedModel:
        tokenizer: Any = self.renderer.tokenizer
        folder = ModelFolder(
            path=self.start, weights_digest=f"step {step}", tokenizer_digest="", end_ids=tuple(self.renderer.end_ids),
            context=context_of(self.model.config.to_dict()), facts=self.facts, adapter=None, tokenizer=self.start,
        )  # fmt: skip
        facts: JsonObject = {
            "name": "hf", "dtype": str(self.model.dtype).removeprefix("torch."), "device": str(self.model.device),
            "training_step": step,
        }  # fmt: skip
        engine = LiveEngine(self.model, tokenizer, self.config.eval.batch_size, self.hidden)
        return LoadedModel(Subject(folder, tokenizer, facts), engine, self.model)


def scores_of(metrics: Mapping[str, Mapping[str, Any]]) -> Row:
    """A row of metrics.jsonl from every benchmark's metrics."""
    scores: Row = {}
    for name, measured in metrics.items():
        low, high = measured["interval"]
        scores |= {name: measured["accuracy"], f"{name}/low": low, f"{name}/high": high, f"{name}/n": measured["n"]}
        if read := measured.get("perplexity"):
            scores[f"{name}/perplexity"] = read["token"]["perplexity"]
    return scores


def inside(config: EvalConfig) -> EvalConfig:
    """The evaluation's settings as far as they go inside of a training: this process, plain decoding, fewer problems."""
    return replace(fewer_problems(config), engine="hf", decode="plain", replicas=None, gold_logprob=False)


def fewer_problems(config: EvalConfig) -> EvalConfig:
    """At most eval.every_limit of every benchmark."""
    most = config.every_limit
    benchmarks = {
        name: replace(b, limit=min(most, b.limit or config.limit or most) if most else b.limit)
        for name, b in config.benchmarks.items()
    }
    return replace(config, benchmarks=benchmarks)
