"""`mft analyze graph`: does a model's prediction of a step depend on what the step needs, and on nothing else?

The graph of a generated world says what each step needs: its own definition in the question, and the stated values of
earlier steps. Every definition and every earlier value is corrupted by itself; the area under the ROC curve is the
probability that the step's log-probability falls further for a thing that it needs than for one that it does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mft_cli.analysis.known_rows import known_rows, other_number, random_of
from mft_cli.analysis.page import publish
from mft_cli.analysis.settings import GraphSettings
from mft_cli.analysis.subjects import find_subjects
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.prompts import Renderer
from mft_cli.data.sources import Row
from mft_cli.eval.engines.hf import load_model
from mft_cli.files import JsonObject, digest_of
from mft_cli.methods import make
from mft_cli.models.device import set_up_device
from mft_cli.report.render.document import TextTable
from mft_cli.report.wording import decimal
from mft_cli.stats.failure_detection import auroc, auroc_interval

Span = tuple[int, int]
READING = [
    "AUROC: probability that a step's log-probability falls further for something that it needs than for something it does not; "
    "0.5 is chance, 1 is the true graph.",
    "drop: mean fall of the log-probability of a step (nats, summed over its tokens behind the name).",
]


@dataclass(frozen=True)
class Corrupted:
    """A row with one thing changed: a definition of the question (`value` None), or the stated value of the step `value`."""

    question: str
    response: str
    span: Span  # of the definition, in the question
    value: int | None


def graph(config: TrainConfig, folders: list[str], names_a_model: bool, asked: GraphSettings) -> JsonObject:
    """Measure, print the table, write graph.json and graph.html, return the JSON. Raises UserError."""
    device = set_up_device(config.launch)
    subjects = find_subjects(config.model, folders, names_a_model)
    rows = known_rows(config, asked.examples, with_steps=True)
    out = Path(asked.out or f"outputs/graph-{config.data.name or 'data'}-{digest_of([asdict(asked), config.seed])[:8]}")
    out.mkdir(parents=True, exist_ok=True)
    result: JsonObject = {"examples": len(rows), "seed": config.seed, "models": {}}
    for subject in subjects:
        renderer = Renderer(
            subject.tokenizer(), config.prompt, tuple(make(config.method, config.train.logits_chunk).new_tokens)
        )
        model = load_model(subject.folder.path, "float32", str(device), config.model.trust_remote_code)
        result["models"][subject.label] = measured(model, renderer, rows, config.seed, device)
    table = TextTable(
        "Dependence on the true graph", ("model", "AUROC", "95 % interval", "drop, needed", "drop, not needed", "pairs"),
        [line(label, facts) for label, facts in result["models"].items()], "Pairs of a step and something that it may need.",
    )  # fmt: skip
    source = f"{len(rows)} rows of {config.data.name or 'the data'}, seed {config.seed}"
    return publish(
        out, "graph", "Dependence on the true graph", in_short(table.rows), source, result, [table], {}, READING
    )


def in_short(rows: Sequence[Sequence[str]]) -> list[str]:
    """What was found, a sentence a model."""
    return [f"{label}: AUROC {auroc} {interval}." for label, auroc, interval, *_ in rows]


def line(label: str, facts: JsonObject) -> tuple[str, ...]:
    low, high = facts["interval"]
    drops = (decimal(facts["needed"]), decimal(facts["not_needed"]))
    return label, decimal(facts["auroc"]), f"[{decimal(low)}, {decimal(high)}]", *drops, str(facts["pairs"])


def measured(model: nn.Module, renderer: Renderer, rows: list[Row], seed: int, device: torch.device) -> JsonObject:
    """AUROC and mean drops of one model. The interval takes pairs for independent, which they are not quite."""
    drops: list[float] = []
    needed: list[bool] = []
    for row in rows:
        variants = list(corruptions(row, seed))
        scores = step_scores(
            model, renderer, row, [Corrupted(row.question, row.response, (0, 0), None), *variants], device
        )
        for variant, after in zip(variants, scores[1:], strict=True):
            for k, step in enumerate(row.meta["steps"]):
                if variant.value is not None and variant.value >= k:
                    continue  # said later
                drops.append(float(scores[0, k] - after[k]))
                own = list(variant.span) == step["definition"]
                needed.append(own if variant.value is None else variant.value in step["needs"])
    values, truth = torch.tensor(drops), torch.tensor(needed)
    return {
        "auroc": auroc(drops, needed), "interval": list(auroc_interval(drops, needed)), "pairs": len(drops),
        "needed": float(values[truth].mean()), "not_needed": float(values[~truth].mean()),
    }  # fmt: skip


def corruptions(row: Row, seed: int) -> Iterator[Corrupted]:
    """Every definition with other names and numbers behind its own name, and every stated value but the last with another."""
    rng = random_of(row, "graph", seed)
    steps = row.meta["steps"]
    names = [*(step["name"] for step in steps), *row.meta["distractors"]]
    definition = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b(?: =| has)[^;.]*")

    def other(match: re.Match[str]) -> str:
        text = match[0]
        return (
            other_number(rng, text)
            if text.isdigit()
            else rng.choice([n for n in names if n != text])
            if text in names
            else text
        )

    for match in definition.finditer(row.question):
        behind = match.end(1)
        changed = re.sub(r"\w+", other, row.question[behind : match.end()])
        text = row.question[:behind] + changed + row.question[match.end() :]
        yield Corrupted(text, row.response, whole(match.span(), steps), None)
    for k, step in enumerate(steps[:-1]):
        start, end = step["value_at"]
        value = other_number(rng, row.response[start:end])
        yield Corrupted(row.question, row.response[:start] + value + row.response[end:], (0, 0), k)


def whole(span: Span, steps: list[JsonObject]) -> Span:
    """The step's own span of this definition, which may hold a final full stop; of a distractor the span itself."""
    return next(((a, b) for a, b in (s["definition"] for s in steps) if a == span[0]), span)


@torch.inference_mode()
def step_scores(
    model: nn.Module, renderer: Renderer, row: Row, variants: list[Corrupted], device: torch.device
) -> Tensor:
    """float64 [variants, steps]: log-probability of each step's tokens behind its name."""
    encoded = [encode(renderer, v) for v in variants]
    longest = max(len(ids) for ids, _, _ in encoded)
    ids = torch.zeros(len(encoded), longest, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for i, (tokens, _, _) in enumerate(encoded):
        ids[i, : len(tokens)] = torch.tensor(tokens, device=device)
        mask[i, : len(tokens)] = 1
    logits = model(input_ids=ids, attention_mask=mask).logits.double().log_softmax(-1)
    picked = logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]  # of token t at t - 1
    scores = torch.zeros(len(encoded), len(row.meta["steps"]), dtype=torch.float64)
    for i, (_, start, offsets) in enumerate(encoded):
        for k, (low, high) in enumerate(behind_names(row)):
            inside = [start + t - 1 for t, (a, b) in enumerate(offsets) if a >= low and b <= high]
            scores[i, k] = picked[i, inside].sum()
    return scores


def encode(renderer: Renderer, variant: Corrupted) -> tuple[list[int], int, list[Span]]:
    """(ids of prompt and response, where the response starts, characters of its tokens in the response)."""
    prompt = renderer.prompt_ids(variant.question)
    response = renderer.tokenizer(variant.response, add_special_tokens=False, return_offsets_mapping=True)
    return prompt + list(response["input_ids"]), len(prompt), list(response["offset_mapping"])


def behind_names(row: Row) -> list[Span]:
    """Characters of the response from behind each step's name up to its value's end."""
    ends = [step["value_at"][1] for step in row.meta["steps"]]
    starts = [
        row.response.index(step["name"], start) for step, start in zip(row.meta["steps"], [0, *ends[:-1]], strict=True)
    ]
    return [(s + len(step["name"]), end) for s, end, step in zip(starts, ends, row.meta["steps"], strict=True)]
