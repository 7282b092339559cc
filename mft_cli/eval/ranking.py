"""Choice tasks by log-likelihood: sum of log p of every option's tokens after its context, as lm-evaluation-harness does it.

Context and option are tokenized together and cut behind the context's tokens; blanks at the context's end go to the
option. A pair that is too long loses the beginning of its context.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from string import ascii_uppercase
from typing import Any

from transformers import PreTrainedModel

from mft_cli.data.options import Option
from mft_cli.eval.engines.base import Completion, Request
from mft_cli.eval.gold import gold_logprobs
from mft_cli.eval.grading.likelihood import best

BLOCK = 64  # problems whose options go through the model before they are written down


def asked(options: Sequence[Option]) -> str:
    """The options of a problem as the text of its request."""
    return json.dumps([list(option) for option in options], ensure_ascii=False)


def encode_pair(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """(ids of the context, ids of the continuation); an empty context is the beginning- or end-of-sequence token."""
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    if not bare:
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        return [first], list(tokenizer(continuation, add_special_tokens=False)["input_ids"])
    before, whole = (list(tokenizer(text)["input_ids"]) for text in (bare, bare + continuation))
    return before, whole[len(before) :]


def ranked(
    requests: Sequence[Request], model: PreTrainedModel, tokenizer: Any, most: int | None, normalise: str
) -> list[Completion]:
    """Of every request the letter of the likeliest option, with all options' log-likelihoods (nats) and lengths.

    `most`: positions that the model has.
    """
    groups = [[Option(*option) for option in json.loads(request.text)] for request in requests]
    pairs = [encode_pair(tokenizer, option.context, option.continuation) for group in groups for option in group]
    if most is not None:
        pairs = [(context[-max(1, most - len(option)) :], option[: most - 1]) for context, option in pairs]
    sums = iter(gold_logprobs(model, pairs))
    completions = []
    for group in groups:
        values, lengths = [next(sums) for _ in group], [float(len(option.text)) for option in group]
        letter = ascii_uppercase[best(values, lengths, normalise)]
        completions.append(Completion(letter, "stop", 0, {"option_logprobs": values, "option_lengths": lengths}))
    return completions


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
