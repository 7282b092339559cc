"""`mft generate`: completions of one's own questions by an exported model, on the screen or into a jsonl file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.data.prompts import Renderer, UnsafeText
from mft_cli.errors import UserError
from mft_cli.eval.engines.base import Completion, Loading, Request, Sampling
from mft_cli.eval.engines.load import choose_engine, device_and_dtype, load_engine
from mft_cli.eval.engines.placement import tensor_parallel
from mft_cli.eval.plan import Subject, pick_prompt
from mft_cli.files import JsonObject
from mft_cli.models.folder import open_model
from mft_cli.models.loading import load_tokenizer
from mft_cli.models.vocabulary import structure_tokens
from mft_cli.rng import sampling_seed


@dataclass(frozen=True)
class Asked:
    """What to complete and how; the command's own keys."""

    questions: list[str]
    out: Path | None = None
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1


@dataclass
class Results:
    """Completions as they come in, by request."""

    completions: dict[int, Completion] = field(default_factory=dict)
    tokens: int = 0

    def add(self, index: int, completion: Completion) -> None:
        self.completions[index] = completion
        self.tokens += completion.tokens


def generate(config: EvalRunConfig, asked: Asked) -> list[JsonObject]:
    """One record a completion, in the order of the questions. Prints them, or writes asked.out. Raises UserError."""
    device, dtype = device_and_dtype(config)
    folder = open_model(config.model)
    tokenizer = load_tokenizer(str(folder.tokenizer), config.model)
    name, version = choose_engine(config.eval)
    if name == "api":
        raise UserError("mft generate runs a model folder: set eval.engine=vllm, hf or auto")
    subject = Subject(folder, tokenizer, {"name": name})
    renderer = Renderer(tokenizer, pick_prompt(BenchmarkConfig(), config.eval, folder.facts, tokenizer))
    ends = tuple(sorted({*renderer.end_ids, *folder.end_ids}))
    sampling = Sampling(
        asked.temperature, asked.top_p, tuple(renderer.stop), ends, kept_special=structure_tokens(tokenizer)
    )
    requests = [r for q in asked.questions for r in requests_of(q, renderer, asked, config, subject)]
    context = max(len(r.prompt) + r.max_new_tokens for r in requests)
    loading = Loading.of(folder, name, device, dtype, context, config.model.trust_remote_code)
    wide = tensor_parallel(config.eval, name, folder.path, dtype, device)
    engine = load_engine(loading, tokenizer, replace(config.eval, tensor_parallel=wide))
    results, start = Results(), time.perf_counter()
    try:
        engine.generate(requests, set(), sampling, results.add, lambda tokens: None)
    finally:
        seconds = time.perf_counter() - start
        engine.close()
    rows = [
        {
            "question": asked.questions[i // asked.samples],
            "completion": results.completions[i].text,
            "finish_reason": results.completions[i].finish_reason,
            "tokens": results.completions[i].tokens,
            "decode": config.eval.decode,
        }
        for i in range(len(requests))
    ]
    speed = f"{results.tokens} tokens in {seconds:.1f} s by {name} {version} ({dtype}, prompt {renderer.prompt.name})"
    print(speed, file=sys.stderr, flush=True)
    write(rows, asked)
    return rows


def requests_of(
    question: str, renderer: Renderer, asked: Asked, config: EvalRunConfig, subject: Subject
) -> Iterator[Request]:
    """Raises UserError for a question that holds control tokens or fills the model's context."""
    try:
        prompt = tuple(renderer.prompt_ids(question))
    except UnsafeText as error:
        raise UserError(f"question {question[:60]!r}: {error}; take it out") from None
    room = subject.room((prompt, ""), asked.max_new_tokens, config=config.eval)
    if room == 0:
        raise UserError(f"question {question[:60]!r}: its {len(prompt)} tokens leave no room in the model's context")
    for sample in range(asked.samples):
        yield Request(prompt, room, sampling_seed(config.eval.seed, question, sample))


def write(rows: list[JsonObject], asked: Asked) -> None:
    """JSON lines into asked.out; on the screen the bare text of one completion, else each under its question."""
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
        print(f"{len(rows)} completions in {asked.out}", flush=True)
    elif len(rows) == 1:
        print(rows[0]["completion"], flush=True)
    else:
        for row in rows:
            print(f"> {row['question']}\n{row['completion']}\n", flush=True)
