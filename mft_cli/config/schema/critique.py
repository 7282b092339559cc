"""The data pipeline of masked critique: `mft critique`."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import STRICT, AtLeastOne, Count, NonNegative, Share, key
from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.config.schema.inputs import DataConfig, ModelConfig, PromptConfig
from mft_cli.config.schema.runs import RunConfig


@dataclass(config=STRICT)
class SolutionsConfig:
    """What the base model (model.path, by eval.engine) is asked for."""

    samples: AtLeastOne = key(4, "Solutions a question.")
    questions: AtLeastOne | None = key(None, "Take this many questions of each source (seeded draw); null: all.")
    temperature: NonNegative = key(0.7, "Sampling temperature; 0 is greedy, for samples=1 only.")
    top_p: Share = key(1.0, "Nucleus sampling.")
    max_new_tokens: AtLeastOne = key(512, "Longest solution in tokens.")
    answer_type: Literal["number", "math"] = key("number", "How answers are compared with the gold answer.")


@dataclass(config=STRICT)
class TeacherConfig:
    """The model that criticises the solutions: a local one, or an endpoint (teacher.eval.engine=api)."""

    model: ModelConfig = key(ModelConfig, "The teacher's folder or hub id; not needed for an endpoint.")
    eval: EvalConfig = key(EvalConfig, "The teacher's engine; the same keys as eval (engine, api, batch_size, ...).")
    prompt: PromptConfig = key(PromptConfig, "What the teacher is asked; {question} and {solution} go into it.")
    temperature: NonNegative = key(0.7, "Sampling temperature.")
    top_p: Share = key(1.0, "Nucleus sampling.")
    max_new_tokens: AtLeastOne = key(1024, "Longest critique with reasoning and answer, in tokens.")
    retries: Count = key(2, "Further tries, each with another seed, of a critique that lacks the format.")


@dataclass(config=STRICT)
class BudgetConfig:
    """Most that the teacher may be asked for in this run folder, all starts together."""

    requests: Count | None = key(None, "Requests to the teacher that were answered; null: no limit.")
    tokens: Count | None = key(None, "Tokens that the teacher generated; null: no limit.")


@dataclass(config=STRICT)
class CritiqueRunConfig(RunConfig):
    """`mft critique`: solutions by model.path, critiques by a teacher; prompt=<name> sets eval.prompt."""

    data: DataConfig = key(DataConfig, "The questions with gold answers: data=<name>.")
    solutions: SolutionsConfig = key(SolutionsConfig, "The base model's solutions.")
    teacher: TeacherConfig = key(TeacherConfig, "The teacher.")
    row_prompt: PromptConfig = key(PromptConfig, "The prompt of a training row; its template takes both texts.")
    budget: BudgetConfig = key(BudgetConfig, "The budget.")
    strict_format: bool = key(False, "Accept only integers in the box, as the published regular expression does.")
    csv: bool = key(False, "Also write the rows as train.csv.")
