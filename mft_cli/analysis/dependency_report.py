"""The numbers of `mft analyze dependency` as JSON, as a table, as plots and as a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mft_cli.analysis.page import publish
from mft_cli.analysis.regions import REGIONS
from mft_cli.analysis.subjects import Prepared
from mft_cli.files import JsonObject
from mft_cli.report.render.document import Picture, TextTable
from mft_cli.report.render.plots import Bar, bars
from mft_cli.report.wording import (
    decimal,
    digits_for,
    interval_text,
    one_line,
    percent,
    points,
    points_interval,
    signed,
)
from mft_cli.stats.intervals import interval_of_mean
from mft_cli.stats.significance import paired_difference

Values = dict[tuple[str, str], list[float]]  # (measure, region) -> a value for each example

MEASURES = {
    "drop": "fall of the true token's log-probability (nats)",
    "kl": "KL divergence of the clean from the corrupted prediction (nats)",
    "drop_per_token": "fall of the log-probability for each corrupted token (nats)",
    "share": "share of the three regions' KL divergence",
}
READING = [
    "A region is corrupted in the input alone; the token whose prediction is measured stays the same.",
    "question: the prompt without its first and its special tokens; near: the last response tokens; far: all earlier ones.",
    "The same share of each region is corrupted, so that the size of a region decides little; the fall for each "
    "corrupted token is shown as well.",
    "Intervals are 95 % bootstrap intervals over examples (Student's below 30); differences are taken example by example.",
    "A share of 0.6 for the question means: of the change that the three corruptions make, 60 % comes from the question.",
]


def write(ready: Prepared, records: list[list[JsonObject]], settings: JsonObject, out: Path) -> JsonObject:
    """Prints tables and writes dependency.json, .html and two PNG files into `out`. `records` [models][examples]."""
    result = as_json(ready, records, settings)
    source = f"{ready.source}; {result['examples']} of them with a far context, {result['targets']} targets"
    title = "Dependency on question, near and far context"
    return publish(out, "dependency", title, in_short(result), source, result, tables(result), plots(result), READING)


def as_json(ready: Prepared, records: list[list[JsonObject]], settings: JsonObject) -> JsonObject:
    used = [i for i, record in enumerate(records[0]) if record["targets"]]
    values = [values_of([model_values[i] for i in used]) for model_values in records]
    return {
        "data": ready.source,
        "settings": settings,
        "examples": len(used),
        "without_far_context": len(records[0]) - len(used),
        "targets": sum(records[0][i]["targets"] for i in used),
        "corrupted_tokens": {r: mean(values[0]["corrupted", r]) for r in REGIONS},
        "models": [
            {
                "label": subject.label,
                "path": subject.config.path,
                "weights_digest": subject.folder.weights_digest,
                **nested(model_values, lambda v: {"mean": mean(v), "interval": interval_of_mean(v)}),
            }
            for subject, model_values in zip(ready.subjects, values, strict=True)
        ],
        "differences": [
            {
                "first": ready.subjects[0].label,
                "second": subject.label,
                **nested_difference(values[0], model_values),
            }
            for subject, model_values in zip(ready.subjects[1:], values[1:], strict=True)
        ],
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def values_of(records: list[JsonObject]) -> Values:
    """(measure, region) -> a value for each example; whole-model measures have the region ''."""
    values: Values = {("logprob", ""): [r["logprob"] for r in records]}
    for name in ("drop", "kl", "drop_per_token", "corrupted"):
        for region in REGIONS:
            values[name, region] = [r["regions"][region][name] for r in records]
    totals = [sum(r["regions"][x]["kl"] for x in REGIONS) for r in records]
    for region in REGIONS:  # where nothing changes anything all shares are 0
        values["share", region] = [v / t if t else 0.0 for v, t in zip(values["kl", region], totals, strict=True)]
    far = [[r["regions"][x]["distance"] for x in REGIONS] for r in records]
    weights = [[values["share", x][i] for x in REGIONS] for i in range(len(records))]
    values["distance", ""] = [sum(w * d for w, d in zip(*both, strict=True)) for both in zip(weights, far, strict=True)]
    return values


def nested(values: Values, summarise: Callable[[list[float]], object]) -> JsonObject:
    """{measure: {region: summary}}, and {measure: summary} for those of the whole model."""
    result: JsonObject = {name: summarise(values[name, ""]) for name in ("logprob", "distance")}
    for name in MEASURES:
        result[name] = {region: summarise(values[name, region]) for region in REGIONS}
    return result


def nested_difference(first: Values, second: Values) -> JsonObject:
    pairs = {key: paired_difference(first[key], second[key]) for key in first}

    def mean_and_interval(key: tuple[str, str]) -> JsonObject:
        return {"mean": pairs[key].difference, "interval": pairs[key].interval}

    result: JsonObject = {name: mean_and_interval((name, "")) for name in ("logprob", "distance")}
    return result | {name: {region: mean_and_interval((name, region)) for region in REGIONS} for name in MEASURES}


# ---- shown ----------------------------------------------------------------------------------------------------------


def tables(result: JsonObject) -> list[TextTable]:
    """A table for each measure of the regions, one of whole-model numbers, and one of differences."""
    models, parts = result["models"], []
    for name, title in MEASURES.items():
        rows = [[one_line(m["label"]), *(shown(m[name][r]) for r in REGIONS)] for m in models]
        for pair in result["differences"]:
            rows.append(
                [one_line(f"{pair['second']} − {pair['first']}"), *(shown(pair[name][r], True) for r in REGIONS)]
            )
        parts.append(TextTable(f"{name}: {title}", ["model", *REGIONS], rows))
    rows = [[one_line(m["label"]), shown(m["logprob"]), shown(m["distance"], digits=1)] for m in models]
    for pair in result["differences"]:
        rows.append([one_line(f"{pair['second']} − {pair['first']}"), shown(pair["logprob"], True),
                     shown(pair["distance"], True, 1)])  # fmt: skip
    head = ["model", "clean log-likelihood of the true token", "mean distance, weighted by share (tokens)"]
    return [*parts, TextTable("whole model", head, rows)]


def in_short(result: JsonObject) -> list[str]:
    """What was found: on what each model's predictions depend, and in what the others differ from the first."""
    sentences = []
    for model in result["models"]:
        shares = ", ".join(f"{region} {percent(model['share'][region]['mean'])}" for region in REGIONS)
        sentences.append(f"{one_line(model['label'])}: of what the three corruptions change, {shares}.")
    for pair in result["differences"]:
        changes = ", ".join(f"{region} {points_of(pair['share'][region])}" for region in REGIONS)
        sentences.append(
            f"{one_line(pair['second'])} against {one_line(pair['first'])}, points of share [95 %]: {changes}."
        )
    return sentences


def points_of(value: JsonObject) -> str:
    """A difference of shares, its interval, and whether that excludes 0."""
    decided = value["interval"] is not None and not value["interval"][0] <= 0 <= value["interval"][1]
    words = f"{points(value['mean'])} {points_interval(value['interval'])}"
    return words if decided else f"{words} (not decided)"


def shown(value: JsonObject, difference: bool = False, digits: int = 3) -> str:
    """Mean and interval, with as many decimals as its width has."""
    digits = digits_for(value["interval"], digits)
    write = signed if difference else decimal
    return f"{write(value['mean'], digits)} {interval_text(value['interval'], lambda number: write(number, digits))}"


def plots(result: JsonObject) -> dict[str, Picture]:
    titles = {"drop": "Fall of log-probability when a region is corrupted", "share": "Share of dependence by region"}
    units = {"drop": "fall (nats/token)", "share": "share of KL divergence"}
    pictures = {}
    for name, title in titles.items():
        series = [
            (
                m["label"],
                [Bar(m[name][r]["mean"], tuple(m[name][r]["interval"] or (m[name][r]["mean"],) * 2)) for r in REGIONS],
            )
            for m in result["models"]
        ]
        light, dark = (bars(title, units[name], list(REGIONS), series, dark) for dark in (False, True))
        pictures[f"dependency-{name}"] = Picture(title, light, dark)
    return pictures
