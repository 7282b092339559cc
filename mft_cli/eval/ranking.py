"""Choice tasks and perplexity by log-likelihood: sums of log p of tokens after their context, as lm-evaluation-harness has them.

Context and option are tokenized together and cut behind the context's tokens; blanks at the context's end go to the
option. A pair that is too long loses the beginning of its context.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from string import ascii_uppercase
from typing import Any

from mft_cli.data.options import Option
from mft_cli.eval.engines.base import Completion, Likelihood, Pair, Request
from mft_cli.eval.grading.likelihood import best

BLOCK = 64  # problems whose options go through the model before they are written down


def asked(before: str, options: Sequence[Option]) -> str:
    """The options of a problem as the text of its request; `before` stands before each one's context."""
    return json.dumps([before, *map(list, options)], ensure_ascii=False)


def first_id(tokenizer: Any) -> int:
    """What stands before a text that nothing stands before: the beginning- or end-of-sequence token."""
    return int(tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id)


def encode_pair(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """(ids of the context, ids of the continuation); an empty context is the beginning- or end-of-sequence token."""
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    if not bare:
        return [first_id(tokenizer)], list(tokenizer(continuation, add_special_tokens=False)["input_ids"])
    before, whole = (list(tokenizer(text)["input_ids"]) for text in (bare, bare + continuation))
    return before, whole[len(before) :]


def options_in(request: Request) -> list[Option]:
    before, *options = json.loads(request.text)
    return [Option(text, before + context, continuation) for text, context, continuation in options]


def pairs_of(request: Request, kind: str, tokenizer: Any, most: int) -> list[Pair]:
    """What is measured of a request: its options after their contexts, or its text in windows (`kind`=perplexity).

    `most`: positions that the model has.
    """
    if kind == "perplexity":
        ids = list(tokenizer(request.text, add_special_tokens=False)["input_ids"])
        return windows(ids, first_id(tokenizer), most)
    pairs = [encode_pair(tokenizer, option.context, option.continuation) for option in options_in(request)]
    return [(context[-max(1, most - len(option)) :], option[: most - 1]) for context, option in pairs]


def windows(ids: list[int], first: int, size: int) -> list[Pair]:
    """A text in windows of `size` tokens, one of context and all others predicted; the last one has as much context as fits."""
    ends = [(start, min(start + size - 1, len(ids))) for start in range(0, len(ids), size - 1)]
    return [(ids[max(0, end - size) : start] or [first], ids[start:end]) for start, end in ends]


def ranked(request: Request, measured: Sequence[Likelihood], normalise: str) -> Completion:
    """The letter of the likeliest option, with all options' log-likelihoods (nats) and lengths."""
    values, lengths = [m.logprob for m in measured], [float(len(option.text)) for option in options_in(request)]
    letter = ascii_uppercase[best(values, lengths, normalise)]
    return Completion(letter, "stop", 0, {"option_logprobs": values, "option_lengths": lengths})


def read(pairs: Sequence[Pair], measured: Sequence[Likelihood]) -> Completion:
    """A text's log-likelihood (nats), its tokens, and how many of them are the model's first choice."""
    return Completion("", "stop", 0, {
        "logprob_sum": math.fsum(m.logprob for m in measured), "tokens": sum(len(predicted) for _, predicted in pairs),
        "first_choices": sum(m.first_choices for m in measured),
    })  # fmt: skip


def rank_missing(
    requests: Sequence[Request],
    missing: set[int],
    record: Callable[[int, Completion], None],
    report: Callable[[int], None],
    rank: Callable[[Sequence[Request]], list[Completion]],
) -> None:
    """Whole blocks of the list, so that a resumed evaluation multiplies matrices of the same shapes."""
    for start in range(0, len(requests), BLOCK):
        block = range(start, min(start + BLOCK, len(requests)))
        if missing.isdisjoint(block):
            continue
        for index, completion in zip(block, rank([requests[i] for i in block]), strict=True):
            if index in missing:
                record(index, completion)
                report(1)
