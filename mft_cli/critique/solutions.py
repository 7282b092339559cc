"""The first half: a base model samples solutions, by the same plans, engines and journals as an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mft_cli.answers.critique_format import TAGS
from mft_cli.config.schema.critique import CritiqueRunConfig
from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.data.prompts import Renderer, UnsafeText
from mft_cli.errors import UserError
from mft_cli.eval.grading.graders import grade
from mft_cli.eval.journal import Journal
from mft_cli.eval.plan import FIELDS, Plan
from mft_cli.eval.problems import OptionNames, Problem
from mft_cli.eval.session import Session
from mft_cli.files import digest_of

KEYS = OptionNames("data.sources.{name}", "data.sources.{name}", "solutions.questions")  # what its settings are called


@dataclass(frozen=True)
class Solution:
    """One candidate. `id`: source, question and sample; `text`: without control tokens; `match`: right or not."""

    id: str
    source: str
    problem: Problem
    sample: int
    text: str
    seed: int
    finish_reason: str
    tokens: int
    answer: str | None
    match: bool

    @property
    def digest(self) -> str:
        return digest_of(self.text)


@dataclass
class Base:
    """The base model's part of the run. `facts`: for provenance.json; `control`: tokens that no row may hold."""

    solutions: list[Solution]
    facts: dict[str, Any]
    control: Any
    empty: int


def sample_solutions(config: CritiqueRunConfig, out: Path) -> Base:
    """Everything that solutions/<source>.jsonl lacks, and the solutions in order. Raises UserError, Stopped."""
    session = Session(session_config(config), out, KEYS)
    try:
        plans = [
            replace(p, journal=Journal(journal_path(out, p.name), p.journal.keys, FIELDS)) for p in session.plans(out)
        ]
        for plan in plans:
            session.generate(plan, plans)
    except UnsafeText as error:  # a question with a control token
        raise UserError(f"{error}; leave the row out") from None
    finally:
        session.close_engine()
    renderer = plans[0].renderer
    control = renderer.control
    found = [s for plan in plans for s in read(plan, config, control)]
    kept = [s for s in found if s.text.strip()]
    forbidden = Renderer(
        renderer.tokenizer, renderer.prompt, TAGS
    ).control  # a model may have the tags as special tokens
    return Base(kept, facts(session, plans), forbidden, len(found) - len(kept))


def journal_path(out: Path, name: str) -> Path:
    return out / "solutions" / f"{name}.jsonl"


def session_config(config: CritiqueRunConfig) -> EvalRunConfig:
    """The sources as benchmarks with several samples a problem."""
    wanted = config.solutions
    benchmarks = {
        name: BenchmarkConfig(
            source=source,
            answer_type=wanted.answer_type,
            samples=wanted.samples,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            max_new_tokens=wanted.max_new_tokens,
            limit=wanted.questions,
            unreadable_golds=1.0,  # told, but training data is not a benchmark
        )
        for name, source in config.data.sources.items()
    }
    engine = replace(config.eval, benchmarks=benchmarks, gold_logprob=False)
    return EvalRunConfig(model=config.model, eval=engine, launch=config.launch)


def read(plan: Plan, config: CritiqueRunConfig, control: Any) -> list[Solution]:
    """The journal's completions, graded."""
    records = plan.records()
    scores = grade(records, plan.benchmark, config.eval)
    result = []
    for index, (record, score) in enumerate(zip(records, scores, strict=True)):
        problem, sample = plan.problem_and_sample(index)
        completion = plan.without_tags(record["completion"])
        text = control.sub("", completion) if control else completion
        solution = Solution(
            f"{plan.name}/{problem.id}.{sample}", plan.name, problem, sample, text, plan.requests[index].seed,
            record["finish_reason"], record["completion_tokens"], score["answer"], score["correct"],
        )  # fmt: skip
        result.append(solution)
    return result


def facts(session: Session, plans: list[Plan]) -> dict[str, Any]:
    """What made the solutions."""
    return {
        "model": session.config.model.path or session.engine_facts.get("model"),
        "weights_digest": session.folder.weights_digest,
        "tokenizer_digest": session.folder.tokenizer_digest,
        "engine": session.engine_facts,
        "sources": {
            p.name: {
                "questions": len(p.problems),
                "where": p.data_summary,
                "derived_from": p.benchmark.source.derived_from,
                "prompt": p.renderer.prompt.name,
                "prompt_text": p.renderer.prompt_text("{question}"),
                "solutions_digest": p.journal.finish(),
            }
            for p in plans
        },
    }
