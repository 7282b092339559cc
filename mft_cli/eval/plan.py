"""What will be generated for one benchmark: problems, prompt, requests, and the digests of all that decides them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mft_cli import __version__
from mft_cli.config import to_plain
from mft_cli.data.prompts import Renderer, UnsafeText
from mft_cli.errors import UserError
from mft_cli.eval.contamination import contamination, overlap, reason
from mft_cli.eval.engines import Request, Sampling
from mft_cli.eval.journal import Journal, completion_key
from mft_cli.eval.model_folder import ModelFolder
from mft_cli.eval.problems import Problem, load_problems
from mft_cli.rng import digest64
from mft_cli.run_dir import digest_of
from mft_cli.schema import BenchmarkConfig, EvalConfig, PromptConfig


@dataclass
class Plan:
    """One benchmark, ready to run. `requests` lists problem by problem, sample by sample, as `journal.keys` does."""

    name: str
    benchmark: BenchmarkConfig
    out: Path
    problems: list[Problem]
    renderer: Renderer
    sampling: Sampling
    requests: list[Request]
    journal: Journal
    settings_digest: str
    contaminated: str | None
    where: str
    overlap: dict[str, Any] | None = None  # the problems whose question was trained on; None: not known
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def place(self, index: int) -> tuple[Problem, int]:
        """(problem, sample) of a request."""
        return self.problems[index // self.benchmark.samples], index % self.benchmark.samples

    def record(self, index: int, text: str, finish_reason: str, tokens: int) -> None:
        """Write one completion into the journal."""
        problem, sample = self.place(index)
        record = {
            "id": problem.id,
            "sample": sample,
            "prompt": self.renderer.tokenizer.decode(list(self.requests[index].prompt)),
            "completion": text,
            "finish_reason": finish_reason,
            "prompt_tokens": len(self.requests[index].prompt),
            "completion_tokens": tokens,
        }
        self.journal.add(self.journal.keys[index], record)


def pick_prompt(benchmark: BenchmarkConfig, config: EvalConfig, facts: dict[str, Any], tokenizer: Any) -> PromptConfig:
    """The benchmark's own prompt, else eval.prompt, else the export's, else chat where a template exists, else raw."""
    if (chosen := benchmark.prompt or config.prompt) is not None:
        return chosen
    if recorded := facts.get("prompt"):
        from mft_cli.config import build

        prompt: PromptConfig = build(PromptConfig, recorded, "prompt")
        return prompt
    if tokenizer.chat_template:
        return PromptConfig()
    return PromptConfig(name="raw", kind="template", template="{question}\n")


def make_plan(
    name: str,
    benchmark: BenchmarkConfig,
    config: EvalConfig,
    folder: ModelFolder,
    tokenizer: Any,
    engine: dict[str, Any],
    out: Path,
) -> Plan:
    """Load, render and digest one benchmark. Raises UserError (missing data, a chat prompt without a template ...)."""
    renderer = Renderer(tokenizer, pick_prompt(benchmark, config, folder.facts, tokenizer))
    problems, where = load_problems(name, benchmark, config.seed)
    prompts = [render(renderer, problem) for problem in problems]
    ends = {*renderer.end_ids, *folder.end_ids}
    sampling = Sampling(benchmark.temperature, benchmark.top_p, tuple(renderer.stop), tuple(sorted(ends)))
    room = [available(len(p), benchmark.max_new_tokens, config, folder) for p in prompts]
    sampled = benchmark.temperature > 0
    requests = [
        Request(tuple(p), r, digest64(config.seed, problem.id, s) & 0x7FFFFFFF if sampled else 0)
        for p, r, problem in zip(prompts, room, problems, strict=True)
        for s in range(benchmark.samples)
    ]
    if benchmark.samples > 1 and not sampled:
        raise UserError(
            f"eval.benchmarks.{name}: samples={benchmark.samples} with temperature=0 gives the same completion "
            f"{benchmark.samples} times; set a temperature, such as 0.7, or samples=1"
        )
    made_by = digest_of(
        [asdict(sampling), benchmark.max_new_tokens, engine, folder.weights_digest, folder.tokenizer_digest]
    )
    keys = [
        completion_key(
            made_by, problems[i // benchmark.samples].id, i % benchmark.samples, (*r.prompt, r.max_new_tokens, r.seed)
        )
        for i, r in enumerate(requests)
    ]
    golds = [problem.gold for problem in problems]
    measured = overlap(
        folder.path, [problem.id for problem in problems], [problem.row.question for problem in problems]
    )
    settings = [
        keys,
        golds,
        to_plain(benchmark),
        config.gold_logprob,
        config.answer_timeout_s,
        __version__,
        config.failure_threshold,
        measured,
    ]
    return Plan(
        name=name,
        benchmark=benchmark,
        out=out,
        problems=problems,
        renderer=renderer,
        sampling=sampling,
        requests=requests,
        journal=Journal(out / "generations.jsonl", keys),
        settings_digest=digest_of(settings),
        contaminated=reason(contamination(folder.facts, name, benchmark.source.derived_from), measured),
        overlap=measured,
        where=where,
        warnings=context_warnings(room, benchmark.max_new_tokens),
    )


def render(renderer: Renderer, problem: Problem) -> list[int]:
    try:
        return renderer.prompt_ids(problem.row.question, problem.row.system)
    except UnsafeText as error:
        raise UserError(f"{problem.row.key}: {error}; a benchmark's question may not hold one") from None


def available(prompt: int, wanted: int, config: EvalConfig, folder: ModelFolder) -> int:
    """Tokens that fit behind a prompt of this length; 0 if the prompt itself does not fit."""
    limits = [n for n in (config.max_model_len, folder.context) if n is not None]
    return max(0, min(wanted, *(n - prompt for n in limits))) if limits else wanted


def context_warnings(room: list[int], wanted: int) -> list[str]:
    none, less = sum(r == 0 for r in room), sum(0 < r < wanted for r in room)
    warnings = []
    if none:
        warnings.append(f"{none} of {len(room)} prompts do not fit into the context: counted as wrong, not generated")
    if less:
        warnings.append(f"{less} of {len(room)} prompts leave room for fewer than {wanted} new tokens")
    return warnings
