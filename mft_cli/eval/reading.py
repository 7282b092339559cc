"""Benchmarks that generate nothing: the log-likelihoods of what the journal lacks, options that are ranked or whole texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mft_cli.console import TokenProgress
from mft_cli.eval.engines.base import Completion, Likelihood, Pair, Request
from mft_cli.eval.plan import Plan, Subject
from mft_cli.eval.ranking import pairs_of, rank_missing, ranked, read

NO_LIMIT = 1 << 30
WINDOW = 2048  # tokens at a time for a model that does not say how many positions it has
Measure = Callable[[Sequence[Pair]], list[Likelihood]]


class Reading:
    """What is to be measured of a plan. `max_model_len` shortens the windows of texts; vllm makes a token, too."""

    def __init__(self, plan: Plan, subject: Subject, max_model_len: int | None, engine: str):
        self.plan, self.tokenizer, self.kind = plan, subject.tokenizer, plan.benchmark.answer_type
        limits = [subject.folder.context or NO_LIMIT]
        if self.kind == "perplexity":
            limits.append(max_model_len or subject.folder.context or WINDOW)
        elif engine == "vllm" and max_model_len is not None:
            limits.append(max_model_len)
        self.most = min(limits) - int(engine == "vllm")

    def pairs(self, requests: Sequence[Request]) -> list[list[Pair]]:
        return [pairs_of(request, self.kind, self.tokenizer, self.most) for request in requests]

    def longest(self) -> int:
        """Tokens of the longest text that goes through the model at once."""
        return max(len(before) + len(after) for pairs in self.pairs(self.plan.requests) for before, after in pairs)

    def measure_missing(self, measure: Measure) -> None:
        """Fills the journal; nothing is done where all is there."""
        plan, start, missing = self.plan, time.perf_counter(), set(self.plan.journal.missing())
        progress = TokenProgress(plan.title, len(missing), 1)
        try:
            rank_missing(
                plan.requests, missing, plan.record, progress.examples, lambda block: self.read(block, measure)
            )
        finally:
            plan.journal.close()
            progress.close()
        plan.journal.finish()
        if missing:
            plan.seconds["generate"] = round(time.perf_counter() - start, 3)

    def read(self, requests: Sequence[Request], measure: Measure) -> list[Completion]:
        groups = self.pairs(requests)
        measured = iter(measure([pair for pairs in groups for pair in pairs]))
        completions = []
        for request, pairs in zip(requests, groups, strict=True):
            values = [next(measured) for _ in pairs]
            normalise = self.plan.benchmark.likelihood.normalise
            completions.append(read(pairs, values) if self.kind == "perplexity" else ranked(request, values, normalise))
        return completions
