"""The interface of the generating engines, and what they share: work in units, end of a completion, order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

from mft_cli.models.folder import ModelFolder


@dataclass(frozen=True)
class Request:
    """One completion to make. `prompt`: token ids; `max_new_tokens`: what still fits; `seed` matters when sampling.

    `text` is what an endpoint gets that does its own tokenizing: plain text, or the messages of a `chat` as JSON.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    seed: int = 0
    text: str = ""
    chat: bool = False


@dataclass(frozen=True)
class Sampling:
    """Decoding. temperature 0 is greedy. What ends a completion (`end_ids`, `stop` texts) is no part of its text.

    `logprobs`: "" none, "mean" means over the completion's tokens, "tokens" also each token's. `top`: the likeliest
    tokens that an engine gives where it does not give all. `kept_special`: ids of special tokens that stay in the text.
    `top_k` 0, `min_p` 0 and `repetition_penalty` 1 are off; engines/sampling.py says what each does.
    """

    temperature: float
    top_p: float
    stop: tuple[str, ...]
    end_ids: tuple[int, ...]
    logprobs: str = ""
    top: int = 20
    kept_special: tuple[int, ...] = ()
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def settings(self) -> dict[str, object]:
        """What decides a completion, for digests; without what most samplings do not have."""
        rare: dict[str, object] = {"kept_special": (), "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        return {name: value for name, value in asdict(self).items() if name not in rare or value != rare[name]}


Confidence = dict[str, float | list[float] | None]


class Tokenizer(Protocol):
    """What engines need of a tokenizer: transformers' fast ones and mft's own stand-ins have it."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...

    def decode(self, token_ids: Any, skip_special_tokens: bool = ..., **more: Any) -> Any: ...


@dataclass(frozen=True)
class Completion:
    """`finish_reason`: stop (an end token or stop text) or length. `tokens` counts generated ids, the end token too.

    `confidence`: mean_logprob, mean_entropy (nats a token) and token_logprobs, where they were asked for.
    """

    text: str
    finish_reason: str
    tokens: int
    confidence: Confidence = field(default_factory=dict)


class Likelihood(NamedTuple):
    """Of a text's tokens after those before it: the sum of their log-probabilities (nats), and how many are first choices."""

    logprob: float
    first_choices: int


Pair = tuple[list[int], list[int]]  # ids of what stands before, ids whose likelihood is measured
OnCompletion = Callable[[int, Completion], None]  # index of the request
OnTokens = Callable[[int], None]  # how many tokens were generated since the last call (about; for the time left)
Unit = list[tuple[int, Request]]  # requests with their indices that belong together: a batch, or samples of a prompt


class Source(Protocol):
    """Where an engine takes its work from."""

    def more(self, busy: int) -> list[Unit]:
        """Units to begin now, while `busy` completions are in the making. None with busy = 0 is the end."""


class AllAtOnce:
    """All units with the first call."""

    def __init__(self, units: list[Unit]):
        self.units = units

    def more(self, busy: int) -> list[Unit]:
        units, self.units = self.units, []
        return units


class Engine(ABC):
    """What an evaluation needs of an engine."""

    @abstractmethod
    def units(self, requests: Sequence[Request], done: set[int]) -> list[list[int]]:
        """Indices of the requests that are still to be computed, in the order and the groups of their computation."""

    @abstractmethod
    def run(self, source: Source, sampling: Sampling, report: OnCompletion, tokens: OnTokens) -> None:
        """Generate what `source` gives, calling report(index, completion) as soon as a completion is there."""

    def generate(
        self, requests: Sequence[Request], done: set[int], sampling: Sampling, report: OnCompletion, tokens: OnTokens
    ) -> None:
        """Generate `requests[i]` for every i not in `done`; some of `done` may be repeated and reported again."""
        units = [[(i, requests[i]) for i in unit] for unit in self.units(requests, done)]
        self.run(AllAtOnce(units), sampling, report, tokens)

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood] | None:
        """The likelihood of each pair; None: this engine measures none, plain transformers do."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Free the model's memory."""


# ---- order ----------------------------------------------------------------------------------------------------------


def longest_first(requests: Sequence[Request]) -> list[int]:
    """Indices by falling prompt length; equal prompts stay together, so that samples of a prompt share its prefill."""

    def sort_key(i: int) -> tuple[int, int, tuple[int, ...], str, int]:
        r = requests[i]
        return -len(r.prompt), -len(r.text), r.prompt, r.text, i

    return sorted(range(len(requests)), key=sort_key)


def batches(requests: Sequence[Request], done: set[int], size: int) -> list[list[int]]:
    """Batches of the whole list; one of which all is done is left out, the others are repeated whole.

    So a resumed run multiplies matrices of the same shapes and gets the same bits.
    """
    order = longest_first(requests)
    whole = [order[start : start + size] for start in range(0, len(order), size)]
    return [batch for batch in whole if not set(batch) <= done]


def by_prompt(requests: Sequence[Request], done: set[int]) -> list[list[int]]:
    """Groups of equal prompts (the samples of a problem), without what is done."""
    groups: dict[tuple[tuple[int, ...], str], list[int]] = {}
    for i in longest_first(requests):
        if i not in done:
            groups.setdefault((requests[i].prompt, requests[i].text), []).append(i)
    return list(groups.values())


# ---- the end of a completion ----------------------------------------------------------------------------------------


def finish(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    sampling: Sampling,
    logprobs: Sequence[float] = (),
    entropies: Sequence[float] = (),
) -> Completion:
    """A completion from raw generated ids: cut at the first end token, decoded, cut at the first stop text.

    `logprobs` and `entropies` belong to the ids, one each; they count up to the end token, which is one of them.
    """
    end = next((n for n, i in enumerate(ids) if i in sampling.end_ids), None)
    kept = list(ids if end is None else ids[:end])
    text = decoded(tokenizer, kept, sampling.kept_special)
    text, cut = cut_at_stop(text, sampling.stop)
    count = len(ids) if end is None else end + 1
    reason = "stop" if end is not None or cut else "length"
    return Completion(text, reason, count, confidence(sampling, logprobs[:count], entropies[:count]))


def decoded(tokenizer: Tokenizer, ids: Sequence[int], kept_special: Sequence[int] = ()) -> str:
    """The text of ids, special tokens left out but for those that are to stay."""
    if kept_special:
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} - set(kept_special)
        ids = [i for i in ids if i not in special]
    return str(tokenizer.decode(ids, skip_special_tokens=not kept_special, clean_up_tokenization_spaces=False))


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text, and whether there was one."""
    starts = [start for start in map(text.find, stop) if start >= 0]
    return (text[: min(starts)], True) if starts else (text, False)


def confidence(sampling: Sampling, logprobs: Sequence[float], entropies: Sequence[float]) -> Confidence:
    """What a record says of the model's certainty, in nats a token; nothing unless it was asked for."""
    if not sampling.logprobs:
        return {}
    measures: Confidence = {"mean_logprob": _mean(logprobs), "mean_entropy": _mean(entropies)}
    if sampling.logprobs == "tokens":
        measures["token_logprobs"] = [round(v, 5) for v in logprobs]
    return measures


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 6) if values else None


def entropy_of_top(logprobs: Sequence[float]) -> float:
    """Entropy in nats from the likeliest tokens' log-probabilities, all the others counted as one: a lower bound."""
    rest = 1 - math.fsum(math.exp(v) for v in logprobs)
    tail = rest * math.log(rest) if rest > 1e-9 else 0.0
    return max(0.0, -math.fsum(math.exp(v) * v for v in logprobs if v > -math.inf) - tail)


@dataclass(frozen=True)
class Loading:
    """All that a process needs to load a model. `adapter`: a LoRA folder; `context`: tokens of prompt and completion."""

    name: str
    folder: str
    adapter: str | None
    tokenizer: str
    dtype: str
    device: str
    context: int
    trust: bool

    @classmethod
    def of(cls, folder: ModelFolder, name: str, device: str, dtype: str, context: int, trust: bool) -> Loading:
        """A model's folder, its adapter and tokenizer, for the engine `name`."""
        adapter = str(folder.adapter) if folder.adapter else None
        return cls(name, str(folder.path), adapter, str(folder.tokenizer), dtype, device, context, trust)
