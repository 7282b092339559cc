"""What metrics.json says of the completions besides right and wrong: how sure the model was, what an endpoint refused."""

from __future__ import annotations

import math

from mft_cli.eval.plan import Plan
from mft_cli.files import JsonObject

ENTROPY = {
    "hf": "exact, from all logits",
    "vllm": "lower bound: the {top} likeliest tokens, all others counted as one",
    "api": "lower bound: the likeliest tokens that the endpoint gives (at most {top}), all others counted as one",
}


def confidence_metrics(plan: Plan, engine: str) -> JsonObject:
    """Means over completions of mean_logprob and mean_entropy (nats a token), and how the entropy was computed."""
    records = plan.records()

    def mean(name: str) -> float | None:
        values = [r[name] for r in records if r.get(name) is not None]
        return math.fsum(values) / len(values) if values else None

    return {
        "mean_logprob": mean("mean_logprob"),
        "mean_entropy": mean("mean_entropy"),
        "without": sum(r.get("mean_entropy") is None for r in records),
        "entropy": ENTROPY[engine].format(top=plan.sampling.top),
        "distribution": "the model's own, before temperature and top_p; natural logarithms",
    }


def refused_prompts(plan: Plan) -> int:
    """Prompts that an endpoint found too long; those that were known not to fit are counted elsewhere."""
    pairs = zip(plan.requests, plan.records(), strict=True)
    return sum(
        r.max_new_tokens > 0 and c["completion_tokens"] == 0 and c["finish_reason"] == "length" for r, c in pairs
    )
