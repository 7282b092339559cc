"""The second pass of a two-pass evaluation: a candidate solution is shown again, criticised and answered again.

Each completion of the first pass becomes a prompt of the second, by `second_prompt`, whose template holds {question}
and {solution}. The second journal's keys hold the digest of the first journal's file, so that a changed candidate
never keeps its old critique.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from mft_cli import __version__
from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.config.validate import to_plain
from mft_cli.data.prompts import Renderer
from mft_cli.errors import UserError
from mft_cli.eval.engines.base import Request
from mft_cli.eval.grading.graders import grade
from mft_cli.eval.journal import Journal, dump, read_lines
from mft_cli.eval.metrics_file import FirstPass
from mft_cli.eval.plan import FIELDS, Plan, Subject, context_warnings, make_sampling, render, request_keys
from mft_cli.eval.problems import Problem
from mft_cli.eval.score import summarise
from mft_cli.files import digest_of, file_digest, write_atomically
from mft_cli.rng import sampling_seed

SLACK = 64  # tokens; a decoded and re-tokenized solution may be a little longer than what was generated


def second_plan(first: Plan, config: EvalConfig, subject: Subject) -> Plan:
    """The plan of the second pass. `first` must be finished: its file is read for its digest. Raises UserError."""
    prompt = second_prompt(first)
    renderer, filled = renderers(prompt, subject)
    benchmark = first.benchmark
    whole = replace(benchmark, instruction=None)
    prompts, cleaned = [], 0
    for index, record in enumerate(first.records()):
        completion = first.without_tags(record["completion"])
        solution = renderer.control.sub("", completion) if renderer.control else completion
        cleaned += solution != completion
        prompts.append(
            render(filled, with_solution(prompt, first.problem_and_sample(index)[0], solution), whole, subject)
        )
    limit = context_needed(first, config, subject)
    room = [subject.room(p, benchmark.max_new_tokens, limit, config=config) for p in prompts]
    sampled = benchmark.temperature > 0
    requests = []
    for index, ((ids, text), r) in enumerate(zip(prompts, room, strict=True)):
        problem, sample = first.problem_and_sample(index)
        seed = sampling_seed(config.seed, problem.id, sample, "second pass") if sampled else 0
        requests.append(Request(ids, r, seed, text, prompt.kind == "chat"))
    sampling = make_sampling(benchmark, config, renderer, subject)
    digest = file_digest(first.journal.path)
    keys = request_keys(requests, first.problems, sampling, benchmark, subject, digest)
    warnings = [w for w in first.warnings if w.startswith("CONTAMINATED")]
    warnings += context_warnings(room, benchmark.max_new_tokens)
    if cleaned:
        warnings.append(f"{cleaned} candidate solutions held control tokens, which were taken out for the second pass")
    return replace(
        first,
        renderer=renderer,
        sampling=sampling,
        requests=requests,
        journal=Journal(first.out / "generations.jsonl", keys, FIELDS),
        settings_digest=digest_of([first.settings_digest, keys, __version__]),
        warnings=warnings,
        seconds={},
        first=first,
    )


def second_prompt(plan: Plan) -> PromptConfig:
    """The benchmark's second prompt. Raises UserError if it shows no solution."""
    prompt = plan.benchmark.second_prompt
    assert prompt is not None
    if "{solution}" not in prompt.template or "{question}" not in prompt.template:
        raise UserError(
            f"eval.benchmarks.{plan.name}.second_prompt.template needs both {{question}} and {{solution}}; "
            "the first pass's completion goes into the second"
        )
    return prompt


def renderers(prompt: PromptConfig, subject: Subject) -> tuple[Renderer, Renderer]:
    """The second prompt's renderer, and one for questions that are the filled template already.

    A template may hold control tokens, so the latter does not look for any: the question passed that check in the first
    pass, and solutions are cleaned of them.
    """
    filled = Renderer(subject.tokenizer, replace(prompt, template="{question}"))
    filled.control = None
    return Renderer(subject.tokenizer, prompt), filled


def with_solution(prompt: PromptConfig, problem: Problem, solution: str) -> Problem:
    """The problem whose question is the whole second template, filled in one go: a text that says {solution} stays."""
    choices = problem.row.choices or {}
    options = [prompt.option.replace("{letter}", k).replace("{text}", v) for k, v in choices.items()]
    values = {"question": "\n".join([problem.row.question, *options]), "solution": solution}
    text = re.sub(r"\{(question|solution)\}", lambda field: values[field[1]], prompt.template)
    return replace(problem, row=replace(problem.row, question=text, choices={}))


def context_needed(first: Plan, config: EvalConfig, subject: Subject) -> int | None:
    """Tokens of the longest second prompt and completion, known before the first pass has run. None: sent as text."""
    if subject.by_text:
        return None
    prompt = second_prompt(first)
    _, filled = renderers(prompt, subject)
    whole = replace(first.benchmark, instruction=None)
    bare = max(len(render(filled, with_solution(prompt, p, ""), whole, subject)[0]) for p in first.problems)
    needed = bare + 2 * first.benchmark.max_new_tokens + SLACK
    limits = [n for n in (config.max_model_len, subject.folder.context) if n is not None]
    return min(needed, *limits) if limits else needed


def first_pass_metrics(first: Plan, second: Path, config: EvalConfig) -> FirstPass:
    """Scores of the first pass, written to scores.pass1.jsonl; with how many answers the second pass (its scores) corrected and broke."""
    records = first.records()
    scores = grade(records, first.benchmark, config)
    write_atomically(first.out / "scores.pass1.jsonl", "".join(dump(s) for s in scores))
    metrics = summarise(first.name, records, scores, len(first.problems))
    pairs = [(bool(a["correct"]), bool(b["correct"])) for a, b in zip(scores, read_lines(second)[0], strict=True)]
    return {
        "accuracy": metrics["accuracy"],
        "interval": metrics["interval"],
        "interval_method": metrics["interval_method"],
        "correct": metrics["correct"],
        "unparsed": metrics["unparsed"],
        "truncated": metrics["truncated"],
        "timed_out": metrics["timed_out"],
        "corrected": pairs.count((False, True)),
        "broken": pairs.count((True, False)),
        "generations_digest": file_digest(first.journal.path),
        "prompt": to_plain(first.renderer.prompt),
        "seconds": first.seconds,
    }
