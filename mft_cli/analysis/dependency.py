"""`mft analyze dependency`: how much predictions change when the question, the near or the far context is corrupted.

The claim of masked thought (arXiv 2403.02178) is that it moves dependence towards the question. Definitions: docs/analysis.md.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mft_cli.analysis import dependency_report
from mft_cli.analysis.regions import HIDDEN, READ, REGIONS, Corruption, Variant, as_examples, variants_of
from mft_cli.analysis.settings import DependencySettings as Asked
from mft_cli.analysis.subjects import Prepared, Subject, prepare
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.console import TokenProgress
from mft_cli.data.pack import make_batch, pack_examples
from mft_cli.errors import Stopped, UserError
from mft_cli.eval.journal import Journal
from mft_cli.files import JsonObject, digest_of, locked
from mft_cli.methods.base import model_inputs
from mft_cli.methods.mask_token import choose_mask_token
from mft_cli.models.kernels.cross_entropy import hidden_states, own_logits
from mft_cli.models.probes import may_pack
from mft_cli.models.vocabulary import embedding_rows, extend_model
from mft_cli.rng import Draw
from mft_cli.signals import StopSignal

VERSION = 1  # of what a record means: another one makes new records


def dependency(config: TrainConfig, folders: list[str], own_model: bool, asked: Asked) -> JsonObject:
    """Measure, print the table, write everything, return the JSON. Raises UserError; Stopped after a signal."""
    ready = prepare(config, folders, own_model, asked.examples, asked.split)
    print(ready.source, flush=True)
    settings = {k: v for k, v in asdict(asked).items() if k not in ("examples", "out")} | {
        "seed": config.seed,
        "words": ready.shared_ids,
    }
    rows = [digest_of([int(i), t]) for i, t in identities(ready)]
    name = digest_of([settings, asked.examples, rows])[:8]
    out = Path(asked.out or f"outputs/dependency-{config.data.name or 'data'}-{name}")
    keys = [[digest_of([VERSION, settings, s.folder.weights_digest, row]) for row in rows] for s in ready.subjects]
    with locked(out, f"{out} is in use by another mft process; wait for it, or set out="):
        journal = Journal(out / "examples.jsonl", [key for model_keys in keys for key in model_keys])
        stop = StopSignal()
        try:
            for subject, model_keys in zip(ready.subjects, keys, strict=True):
                measure(ready, subject, model_keys, journal, asked, config.seed, stop)
        finally:
            journal.close()
        journal.finish()
        records = [[journal.done[key] for key in model_keys] for model_keys in keys]
        if not any(r["targets"] for r in records[0]):
            raise UserError(
                f"near={asked.near}: no response is long enough to have a far context; set near= lower than "
                f"{int(ready.examples.labels.max())}"
            )
        return dependency_report.write(ready, records, settings, out)


def identities(ready: Prepared) -> list[tuple[int, list[int]]]:
    """Id and tokens of every example: what a record depends on besides settings and model."""
    return [
        (int(ready.examples.ids[i]), ready.examples.tokens[ready.examples.place(i)].tolist())
        for i in range(len(ready.examples))
    ]


def measure(
    ready: Prepared, subject: Subject, keys: list[str], journal: Journal, asked: Asked, seed: int, stop: StopSignal
) -> None:
    """Add the model's missing records to the journal, one for each example."""
    missing = [i for i, key in enumerate(keys) if key not in journal.done]
    if not missing:
        return
    model = subject.load(ready.device)
    vocabulary = embedding_rows(model)
    how = corruption(model, subject, asked, ready.shared_ids, ready.tokenizer.all_special_ids)
    special, draw = np.array(ready.tokenizer.all_special_ids), Draw(seed)
    progress = TokenProgress(subject.label, len(missing), 1)
    for i in missing:
        if stop.name:
            raise Stopped(f"stopped by {stop.name}; {journal.path} has what is measured", stop.name)
        variants = variants_of(ready.examples, i, special, how, draw)
        record = scores(model, ready.examples.tokens[ready.examples.place(i)], variants, asked, vocabulary)
        journal.add(keys[i], {"model": subject.folder.weights_digest, "example": ready.examples.key(i), **record})
        progress.examples(1)
    progress.close()


def corruption(model: nn.Module, subject: Subject, asked: Asked, shared_ids: int, special: list[int]) -> Corruption:
    """What replaces a token. The mask token is the one of method=masked_thought; a model without it gets the mean row."""
    ids = np.zeros(0, dtype=np.int64)
    if asked.corruption == "random":
        ids = np.setdiff1d(np.arange(shared_ids), np.array(special))
    elif asked.corruption == "mask":
        tokenizer = subject.tokenizer()
        token = choose_mask_token(tokenizer, "auto")
        if token not in tokenizer.get_vocab():
            extend_model(model, tokenizer, [token])
        ids = np.array([tokenizer.convert_tokens_to_ids(token)])
    return Corruption(asked.near, asked.positions, asked.draws, asked.share, ids)


@torch.inference_mode()
def log_probabilities(model: nn.Module, variants: list[Variant], batch_tokens: int, vocabulary: int) -> list[Tensor]:
    """For every variant float64 [targets, V]: log-probabilities of what may stand at its targets."""
    examples = as_examples(variants)
    results: list[Tensor] = [torch.empty(0)] * len(variants)
    for row in pack_examples(examples.lengths, batch_tokens, may_pack(model)):
        batch = make_batch(examples, [row], 0, 0).to(next(model.parameters()).device)
        hidden_keys = (batch.spans & HIDDEN) > 0
        batch.hidden_keys = hidden_keys if bool(hidden_keys.any()) else None
        read = (batch.spans & READ) > 0
        hidden = hidden_states(model, **model_inputs(batch))[read]
        result = own_logits(model, hidden)[:, :vocabulary].double().log_softmax(-1)
        owner = batch.example[read]
        for v in row:
            results[v] = result[owner == v]
    return results


def scores(model: nn.Module, tokens: np.ndarray, variants: list[Variant], asked: Asked, vocabulary: int) -> JsonObject:
    """One example's record: means over targets and draws of each region's drop, divergence, count and distance."""
    if not variants:
        return {"targets": 0, "logprob": None, "regions": {}}
    clean, *others = log_probabilities(model, variants, asked.batch_tokens, vocabulary)
    row_of = {j: n for n, j in enumerate(variants[0].targets)}
    values: dict[str, dict[str, list[float]]] = {r: defaultdict(list) for r in REGIONS}
    for variant, changed in zip(variants[1:], others, strict=True):
        for j, after in zip(variant.targets, changed, strict=True):
            before, measured = clean[row_of[j]], values[str(variant.region)]
            drop = float(before[int(tokens[j])] - after[int(tokens[j])])
            at = [k for k in variant.corrupted if k < j]
            measured["drop"].append(drop)
            measured["kl"].append(max(0.0, float((before.exp() * (before - after)).sum())))  # below 0 only by rounding
            measured["drop_per_token"].append(drop / len(at))
            measured["corrupted"].append(float(len(at)))
            measured["distance"].append(j - float(np.mean(at)))
    logprob = float(np.mean([float(clean[n, int(tokens[j])]) for j, n in row_of.items()]))
    means = {r: {name: float(np.mean(v)) for name, v in measured.items()} for r, measured in values.items()}
    return {"targets": len(row_of), "logprob": logprob, "regions": means}
