"""Mean log-likelihood of the gold solutions: a finer measure than right or wrong, and no generation is needed.

The solution is rendered as in training, end token included, and its tokens are summed: sum of log p(token | before) in
nats. Examples are padded on the right, where causal attention never looks; batches are of like length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from mft_cli.eval.engines.base import Likelihood, Pair
from mft_cli.eval.journal import dump
from mft_cli.eval.metrics_file import GoldLogprob
from mft_cli.files import write_atomically
from mft_cli.stats.intervals import bootstrap_mean

LOGITS_BYTES = 512 << 20  # fp32 logits held at once


def gold_logprobs(
    model: PreTrainedModel, examples: Sequence[Pair], report: Callable[[int], None] = lambda count: None
) -> list[float]:
    """Sum of log-probabilities of each response, in nats. `report` gets counts of done."""
    return [likelihood.logprob for likelihood in likelihoods(model, examples, report)]


def likelihoods(
    model: PreTrainedModel,
    examples: Sequence[Pair],
    report: Callable[[int], None] = lambda count: None,
    hidden: Sequence[int] = (),
) -> list[Likelihood]:
    """The likelihood of each response after its prompt; `hidden` are ids that are not to be."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    budget = max(256, LOGITS_BYTES // (4 * vocabulary))  # padded tokens in a batch
    order = sorted(range(len(examples)), key=lambda i: -sum(map(len, examples[i])))
    measured, start = [Likelihood(0.0, 0)] * len(examples), 0
    while start < len(order):
        length = sum(map(len, examples[order[start]]))
        batch = order[start : start + max(1, budget // length)]
        with torch.inference_mode():
            for i, value in zip(batch, _batch(model, [examples[i] for i in batch], hidden), strict=True):
                measured[i] = value
        start += len(batch)
        report(len(batch))
    return measured


def _batch(model: PreTrainedModel, examples: Sequence[Pair], hidden: Sequence[int]) -> list[Likelihood]:
    device = next(model.parameters()).device
    length = max(len(p) + len(r) for p, r in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for row, (prompt, response) in enumerate(examples):
        both = prompt + response
        ids[row, : len(both)] = torch.tensor(both, device=device)
        mask[row, : len(both)] = 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.to(device)
    if hidden:
        logits[..., list(hidden)] = -torch.inf
    measured = []
    for row, (prompt, response) in enumerate(examples):
        predicted = logits[row, len(prompt) - 1 : len(prompt) + len(response) - 1].float()
        target = torch.tensor(response, device=device)
        logprob = -float(F.cross_entropy(predicted, target, reduction="none").double().sum())
        measured.append(Likelihood(logprob, int((predicted.argmax(-1) == target).sum())))
    return measured


def write_gold(path: Path, ids: Sequence[str], sums: Sequence[float], tokens: Sequence[int]) -> GoldLogprob:
    """Write gold.jsonl and return the metrics: mean over problems of the log-likelihood per token, in nats."""
    lines = zip(ids, sums, tokens, strict=True)
    write_atomically(path, "".join(dump({"id": i, "logprob_sum": s, "tokens": n}) for i, s, n in lines))
    means = [s / n for s, n in zip(sums, tokens, strict=True)]
    interval = list(bootstrap_mean(means))
    return {"mean": math.fsum(means) / len(means), "interval": interval, "n": len(means), "tokens": sum(tokens)}
