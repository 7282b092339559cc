"""What will be generated for one benchmark: problems, prompt, requests, and the digests of all that decides them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mft_cli import __version__
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.config.validate import build, to_plain
from mft_cli.data.files import BadRow
from mft_cli.data.options import options_of
from mft_cli.data.prompts import Renderer, UnsafeText
from mft_cli.data.shots import Shots
from mft_cli.errors import UserError
from mft_cli.eval.contamination import contamination, overlap, reason
from mft_cli.eval.engines.base import Completion, Request, Sampling
from mft_cli.eval.grading.graders import SCORING_VERSION
from mft_cli.eval.journal import Journal, Record, completion_key
from mft_cli.eval.metrics_file import Overlap
from mft_cli.eval.problems import EVAL_OPTIONS, OptionNames, Problem, base_questions, load_problems
from mft_cli.eval.ranking import asked
from mft_cli.files import JsonObject, digest_of, read_json
from mft_cli.models.folder import ModelFolder
from mft_cli.models.vocabulary import structure_tokens
from mft_cli.rng import sampling_seed

DECODING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
FIELDS = {"id": str, "sample": int, "prompt": str, "completion": str, "finish_reason": str, "completion_tokens": int}
Prompt = tuple[tuple[int, ...], str]  # token ids, or the text that an endpoint is sent


@dataclass(frozen=True)
class Subject:
    """What is evaluated and by what. `by_text`: prompts are sent as text or messages, not as token ids."""

    folder: ModelFolder
    tokenizer: Any
    engine: JsonObject
    by_text: bool = False

    def room(self, prompt: Prompt, most: int, *more: int | None, config: EvalConfig) -> int:
        """Tokens (at most `most`) that fit after a prompt; 0 if it does not fit itself. `more` are further limits of the context."""
        limits = [n for n in (config.max_model_len, self.folder.context, *more) if n is not None]
        if self.by_text or not limits:
            return most
        return max(0, min(most, min(limits) - len(prompt[0])))


@dataclass
class Plan:
    """One benchmark, or one pass of it, ready to run.

    `requests` lists problem by problem, sample by sample, as `journal.keys` does.
    """

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
    data_summary: str
    overlap: Overlap | None = None  # the problems whose question was trained on; None: not known
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    first: Plan | None = None  # the plan of the first pass, if this is the second

    @property
    def title(self) -> str:
        return f"{self.name}, {'first' if self.first is None else 'second'} pass" if self.two_passes else self.name

    @property
    def two_passes(self) -> bool:
        return self.benchmark.second_prompt is not None

    @property
    def golds(self) -> dict[str, str]:
        return {problem.id: problem.gold for problem in self.problems}

    def problem_and_sample(self, index: int) -> tuple[Problem, int]:
        """(problem, sample) of a request."""
        return self.problems[index // self.benchmark.samples], index % self.benchmark.samples

    def record(self, index: int, completion: Completion) -> None:
        """Write one completion into the journal."""
        problem, sample = self.problem_and_sample(index)
        request = self.requests[index]
        record = {
            "id": problem.id,
            "sample": sample,
            "prompt": request.text or self.renderer.tokenizer.decode(list(request.prompt)),
            "completion": completion.text,
            "finish_reason": completion.finish_reason,
            "prompt_tokens": None if request.text else len(request.prompt),  # an endpoint counts its own
            "completion_tokens": completion.tokens,
            **completion.confidence,
        }
        self.journal.add(self.journal.keys[index], record)

    def without_tags(self, completion: str) -> str:
        """A completion as another prompt shows it: without the special tokens that its text keeps."""
        for id in self.sampling.kept_special:
            completion = completion.replace(self.renderer.tokenizer.added_tokens_decoder[id].content, "")
        return completion

    def records(self) -> list[Record]:
        """The completions in order, each with its gold answer. All must be there."""
        golds = self.golds
        done = [self.journal.done[key] for key in self.journal.keys]
        return [{**record, "gold": golds[record["id"]]} for record in done]


def pick_prompt(benchmark: BenchmarkConfig, config: EvalConfig, facts: JsonObject, tokenizer: Any) -> PromptConfig:
    """The benchmark's own prompt, else eval.prompt, else the export's, else chat where a template exists, else raw.

    Where nothing is generated, the benchmark's own texts are read, whatever the model's prompt.
    """
    if not benchmark.generates:
        return PromptConfig(name=benchmark.answer_type, kind="template", template="{question}")
    if (chosen := benchmark.prompt or config.prompt) is not None:
        return chosen
    if recorded := facts.get("prompt"):
        prompt: PromptConfig = build(PromptConfig, recorded, "prompt")
        return prompt
    if tokenizer.chat_template:
        return PromptConfig()
    return PromptConfig(name="raw", kind="template", template="{question}\n")


def make_plan(
    name: str,
    benchmark: BenchmarkConfig,
    config: EvalConfig,
    subject: Subject,
    out: Path,
    option_names: OptionNames = EVAL_OPTIONS,
) -> Plan:
    """Load, render and digest one benchmark. Raises UserError (missing data, a chat prompt without a template ...)."""
    benchmark = decoding_of(benchmark, config, subject)
    if benchmark.samples > 1 and benchmark.temperature == 0:
        raise UserError(
            f"eval.benchmarks.{name}: samples={benchmark.samples} with temperature=0 gives the same completion "
            f"{benchmark.samples} times; set a temperature, such as 0.7, or samples=1"
        )
    renderer = Renderer(subject.tokenizer, pick_prompt(benchmark, config, subject.folder.facts, subject.tokenizer))
    problems, data_summary = load_problems(name, benchmark, config.seed, config.limit, option_names)
    if benchmark.generates:
        prompts = [render(renderer, problem, benchmark, subject) for problem in problems]
    else:
        shots = Shots(benchmark.likelihood, benchmark.source, name, config.seed)
        prompts = [((), text_to_read(problem, benchmark, shots)) for problem in problems]
    room = [subject.room(p, benchmark.max_new_tokens, config=config) for p in prompts]
    sampled, chat = benchmark.temperature > 0, renderer.prompt.kind == "chat"
    requests = [
        Request(ids, r, sampling_seed(config.seed, problem.id, s) if sampled else 0, text, chat)
        for (ids, text), r, problem in zip(prompts, room, problems, strict=True)
        for s in range(benchmark.samples)
    ]
    sampling = make_sampling(benchmark, config, renderer, subject)
    by_vllm = not benchmark.generates and config.engine == "vllm"
    keys = request_keys(requests, problems, sampling, benchmark, subject, *["log-likelihoods by vllm"] * by_vllm)
    golds = [problem.gold for problem in problems]
    folder = subject.folder
    ids, questions = [p.id for p in problems], [p.row.question for p in problems]
    measured = overlap(folder.adapter or folder.path, ids, questions, base_questions(problems, benchmark))
    settings = [
        keys, golds, to_plain(benchmark), config.gold_logprob, config.answer_timeout_s, __version__,
        config.failure_threshold, measured, SCORING_VERSION,
    ]  # fmt: skip
    if benchmark.answer_type == "judged":
        settings.append([config.judge.base_url, config.judge.model, config.judge.version, config.judge.extra])
    return Plan(
        name=name,
        benchmark=benchmark,
        out=out,
        problems=problems,
        renderer=renderer,
        sampling=sampling,
        requests=requests,
        journal=Journal(out / f"generations{'' if benchmark.second_prompt is None else '.pass1'}.jsonl", keys, FIELDS),
        settings_digest=digest_of(settings),
        contaminated=reason(contamination(folder.facts, name, benchmark.source.derived_from), measured),
        overlap=measured,
        data_summary=data_summary,
        warnings=context_warnings(room, benchmark.max_new_tokens) if benchmark.generates else [],
    )


def make_sampling(benchmark: BenchmarkConfig, config: EvalConfig, renderer: Renderer, subject: Subject) -> Sampling:
    known_ends = () if subject.by_text else (*renderer.end_ids, *subject.folder.end_ids)
    return Sampling(
        temperature=benchmark.temperature, top_p=benchmark.top_p, stop=tuple(renderer.stop),
        end_ids=tuple(sorted({*known_ends, *benchmark.stop_ids})), top=config.logprobs_top,
        logprobs=("tokens" if config.token_logprobs else "mean") if config.logprobs else "",
        kept_special=structure_tokens(subject.tokenizer),
        top_k=benchmark.top_k, min_p=benchmark.min_p, repetition_penalty=benchmark.repetition_penalty,
    )  # fmt: skip


def decoding_of(benchmark: BenchmarkConfig, config: EvalConfig, subject: Subject) -> BenchmarkConfig:
    """The benchmark with its decoding, or the model's own (eval.decoding=model). Raises UserError for a model without one."""
    if config.decoding == "benchmark":
        return benchmark
    file = subject.folder.path / "generation_config.json"
    if not file.is_file():
        raise UserError(
            f"eval.decoding=model: {file} does not exist; set eval.decoding=benchmark, and a temperature there"
        )
    settings = read_json(file)
    values = {name: settings[name] for name in DECODING if settings.get(name) is not None}
    if not settings.get("do_sample", False):
        values["temperature"] = 0.0
    else:
        values.setdefault("temperature", 1.0)
    plain = to_plain(benchmark)
    rest = {name: value for name, value in plain.items() if name not in DECODING}
    return build(BenchmarkConfig, {**rest, **values}, f"{file}: ")


def request_keys(
    requests: Sequence[Request],
    problems: Sequence[Problem],
    sampling: Sampling,
    benchmark: BenchmarkConfig,
    subject: Subject,
    *more: str,
) -> list[str]:
    """The journal's keys: whatever can change a completion is in them. `more` is further text that decides it."""
    folder = subject.folder
    made_by = [
        sampling.settings(), benchmark.max_new_tokens, subject.engine, folder.weights_digest, folder.tokenizer_digest,
        *more,
    ]  # fmt: skip
    digest, samples = digest_of(made_by), benchmark.samples
    return [
        completion_key(digest, problems[i // samples].id, i % samples, [*r.prompt, r.text, r.max_new_tokens, r.seed])
        for i, r in enumerate(requests)
    ]


def text_to_read(problem: Problem, benchmark: BenchmarkConfig, shots: Shots) -> str:
    """What log-likelihoods are measured of: the options after their contexts, or the row's text."""
    if benchmark.answer_type == "perplexity":
        return problem.row.response
    try:
        before = shots.before(problem.row, problem.id)
        return asked(before, options_of(problem.row.meta, benchmark.likelihood, problem.row.key))
    except BadRow as error:
        raise UserError(f"{error}; correct the row or the benchmark's likelihood.*") from None


def render(renderer: Renderer, problem: Problem, benchmark: BenchmarkConfig, subject: Subject) -> Prompt:
    parts = problem.row.question, problem.row.system, problem.row.choices, benchmark.instruction
    try:
        return ((), renderer.prompt_text(*parts)) if subject.by_text else (tuple(renderer.prompt_ids(*parts)), "")
    except UnsafeText as error:
        raise UserError(f"{problem.row.key}: {error}; a benchmark's question may not hold one") from None


def context_warnings(room: list[int], max_new_tokens: int) -> list[str]:
    none, less = sum(r == 0 for r in room), sum(0 < r < max_new_tokens for r in room)
    warnings = []
    if none:
        warnings.append(f"{none} of {len(room)} prompts do not fit into the context: counted as wrong, not generated")
    if less:
        warnings.append(f"{less} of {len(room)} prompts leave room for fewer than {max_new_tokens} new tokens")
    return warnings
