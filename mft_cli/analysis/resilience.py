"""`mft analyze resilience`: a number of a solution's step is changed; does the model still reach the right answer?

Error resilience in the sense of masked thought (arXiv 2403.02178): a model that depends less on what was generated last
should recover more often. The same solutions, cut at the same places with the right number, are the comparison.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mft_cli.analysis.known_rows import known_rows, other_number, random_of
from mft_cli.analysis.page import publish
from mft_cli.analysis.settings import ResilienceSettings
from mft_cli.analysis.subjects import Subject, find_subjects
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.prompts import Renderer
from mft_cli.data.sources import Row
from mft_cli.errors import UserError
from mft_cli.eval.engines.base import Completion, Request, Sampling
from mft_cli.eval.engines.hf import HfEngine, load_model
from mft_cli.eval.grading.graders import grade
from mft_cli.files import JsonObject, digest_of
from mft_cli.methods import make
from mft_cli.models.device import set_up_device
from mft_cli.report.render.document import TextTable
from mft_cli.report.wording import percent, percent_interval
from mft_cli.stats.intervals import wilson

RESULT = re.compile(r"= ?\$?(\d+)(?![\d.,/*+=-]| [-+*/=])")  # a number that ends a calculation
READING = [
    "recovered: share of solutions that end in the right answer although the last number before the cut is wrong.",
    "undisturbed: the same solutions cut at the same place with the right number.",
]


@dataclass(frozen=True)
class Cut:
    """The beginning of a solution, up to a number that is right, and the same with another number."""

    row: Row
    right: str
    wrong: str


def resilience(config: TrainConfig, folders: list[str], names_a_model: bool, asked: ResilienceSettings) -> JsonObject:
    """Generate, print the table, write resilience.json and resilience.html, return the JSON. Raises UserError."""
    device = set_up_device(config.launch)
    subjects = find_subjects(config.model, folders, names_a_model)
    cuts = [c for row in known_rows(config, asked.examples, with_steps=False) if (c := cut(row, config.seed))]
    if not cuts:
        raise UserError(
            "no solution of these rows has a calculation (= and a number) before its last one: nothing can be disturbed"
        )
    out = Path(
        asked.out or f"outputs/resilience-{config.data.name or 'data'}-{digest_of([asdict(asked), config.seed])[:8]}"
    )
    out.mkdir(parents=True, exist_ok=True)
    result: JsonObject = {"examples": len(cuts), "seed": config.seed, "models": {}}
    for subject in subjects:
        renderer = Renderer(
            subject.tokenizer(), config.prompt, tuple(make(config.method, config.train.logits_chunk).new_tokens)
        )
        result["models"][subject.label] = measured(subject, renderer, cuts, asked, str(device))
    rows = [
        (label, *(text for kind in ("recovered", "undisturbed") for text in (percent(f[kind]), percent_interval(f[f"{kind}_interval"]))))
        for label, f in result["models"].items()
    ]  # fmt: skip
    table = TextTable(
        "Error resilience", ("model", "recovered", "interval", "undisturbed", "interval"), rows, "One number changed."
    )
    source = f"{len(cuts)} solutions of {config.data.name or 'the data'}, seed {config.seed}"
    return publish(out, "resilience", "Error resilience", in_short(rows), source, result, [table], {}, READING)


def in_short(rows: Sequence[Sequence[str]]) -> list[str]:
    """What was found, a sentence a model."""
    return [f"{label}: {row[0]} {row[1]} recovered, {row[2]} {row[3]} undisturbed." for label, *row in rows]


def cut(row: Row, seed: int) -> Cut | None:
    """A solution cut behind one of its results, by a seeded draw; None where the last one is the only one."""
    body = row.response.partition("####")[0]
    results = list(RESULT.finditer(body))[:-1]
    if not results:
        return None
    rng = random_of(row, "resilience", seed)
    match = rng.choice(results)
    return Cut(row, body[: match.end(1)], body[: match.start(1)] + other_number(rng, match[1]))


def measured(
    subject: Subject, renderer: Renderer, cuts: list[Cut], asked: ResilienceSettings, device: str
) -> JsonObject:
    """Shares of right answers behind wrong and right numbers, with Wilson intervals."""
    engine = HfEngine(
        load_model(subject.folder.path, "float32", device, subject.config.trust_remote_code),
        renderer.tokenizer,
        asked.batch_size,
    )
    facts: JsonObject = {}
    for kind, begun in (("recovered", [c.wrong for c in cuts]), ("undisturbed", [c.right for c in cuts])):
        right = sum(verdicts(engine, renderer, [c.row for c in cuts], begun, asked.max_new_tokens))
        facts |= {kind: right / len(cuts), f"{kind}_interval": list(wilson(right, len(cuts)))}
    engine.close()
    return facts


def verdicts(engine: HfEngine, renderer: Renderer, rows: list[Row], begun: list[str], most: int) -> list[bool]:
    """Whether each solution that is begun so ends in the row's answer. Greedy."""
    done: dict[int, Completion] = {}
    requests = [
        Request(
            (*renderer.prompt_ids(row.question), *renderer.tokenizer(text, add_special_tokens=False)["input_ids"]), most
        )
        for row, text in zip(rows, begun, strict=True)
    ]
    sampling = Sampling(0.0, 1.0, tuple(renderer.stop), tuple(renderer.end_ids))
    engine.generate(requests, set(), sampling, done.__setitem__, lambda tokens: None)
    records = [
        {
            "id": str(i),
            "completion": begun[i] + done[i].text,
            "gold": str(row.answer),
            "finish_reason": done[i].finish_reason,
        }
        for i, row in enumerate(rows)
    ]
    benchmark = BenchmarkConfig(markers=["####", "<answer>", "<ans>"], last_number=True)
    return [bool(score["correct"]) for score in grade(records, benchmark, EvalConfig())]
