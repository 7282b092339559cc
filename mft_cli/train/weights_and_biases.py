"""Weights & Biases: the rows of a run, then its scores, completions, report and the small parts of its export."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any, cast

from mft_cli import report
from mft_cli.config.schema.training import LogConfig
from mft_cli.console import Logger
from mft_cli.files import JsonObject, digest_of, read_jsonl, read_object, write_json
from mft_cli.run_dir import RunDir
from mft_cli.train.follower_threads import telling_of_threads

COLUMNS = ("id", "sample", "prompt", "completion", "answer", "gold", "correct")


class WandbFollower:
    def __init__(self, run: RunDir, config: LogConfig, settings: JsonObject):
        self.run = open_wandb(run, config, settings)

    def __call__(self, row: JsonObject) -> None:
        numbers = {f"{row['kind']}/{k}": v for k, v in row.items() if isinstance(v, (int, float))}
        self.run.log(numbers, step=int(row["step"]))

    def close(self) -> None:
        self.run.finish()


def open_wandb(run: RunDir, config: LogConfig, settings: JsonObject | None) -> Any:
    """The folder's run there, begun or gone on with."""
    import wandb

    return wandb.init(
        id=tracker_id(run), resume="allow", name=run.root.name, dir=str(run.root), config=settings,
        mode=cast("Any", config.wandb), project=config.wandb_project, entity=config.wandb_entity, group=config.wandb_group,
        tags=config.wandb_tags or None, job_type=config.wandb_job_type,
    )  # fmt: skip


def tracker_id(run: RunDir) -> str:
    """Made of settings, folder and time, and kept in the folder: a resume is the same run there, a retraining another one,
    which moves the file away; so are two folders of one name."""
    known = stored_wandb(run).get("id")
    if isinstance(known, str):
        return known
    made = digest_of([run.get_provenance().get("settings_digest"), str(run.root.resolve()), time.time_ns()])
    write_json(run.wandb, {"id": made})
    return made


def stored_wandb(run: RunDir) -> JsonObject:
    """Empty without the file and for a damaged one: another run is begun there."""
    try:
        return read_object(run.wandb)
    except (OSError, ValueError):
        return {}


def send_scores(run: RunDir, config: LogConfig, scores: dict[str, JsonObject], log: Logger) -> None:
    """Where it is on: each evaluation's numbers and completions, the report, parts of the export; once for the same scores.

    `scores`: what the numbers are called there, such as eval/gsm8k -> its metrics.json.
    """
    digest = digest_of({name: metrics.get("digest") for name, metrics in scores.items()})
    parts = parts_of(run.export) if config.wandb_artifacts else {}
    if config.wandb == "off" or not (scores or parts) or stored_wandb(run).get("sent_scores") == digest:
        return
    try:
        with telling_of_threads(log):
            opened = open_wandb(run, config, None)
            for name, metrics in scores.items():
                opened.summary.update({f"{name}/{key}": value for key, value in numbers_of(metrics).items()})
                if config.wandb_completions and (rows := completions_in(run.root / name, config.wandb_completions)):
                    opened.log({f"{name}/completions": table_of(rows)})
            if parts:
                opened.log_artifact(artifact_of(f"{run.root.name}-parts", parts))
            page = report.build([run.root], run.root / "report").html
            opened.log({"report": html_of(page)})
            opened.finish()
        write_json(run.wandb, {**stored_wandb(run), "sent_scores": digest})
    except Exception as error:  # the scores are in the folder
        log(f"the scores could not be sent to Weights & Biases: {error}")


def numbers_of(metrics: JsonObject) -> dict[str, float]:
    low, high = metrics["interval"]
    numbers = {"accuracy": metrics["accuracy"], "interval_low": low, "interval_high": high, "problems": metrics["n"]}
    if gold := metrics.get("gold_logprob"):
        numbers["gold_logprob"] = gold["mean"]
    if read := metrics.get("perplexity"):
        numbers["perplexity"] = read["token"]["perplexity"]
    return numbers


def html_of(page: Path) -> object:
    import wandb

    return wandb.Html(page.read_text(encoding="utf-8"), inject=False)


def completions_in(folder: Path, most: int) -> list[list[object]]:
    """The first completions of an evaluation with their scores, a row of COLUMNS each."""
    made = (record for _, _, record in read_jsonl(folder / "generations.jsonl") if record is not None)
    scores = {
        (score.get("id"), score.get("sample")): score
        for _, _, score in read_jsonl(folder / "scores.jsonl")
        if score is not None
    }
    rows = [{**record, **scores.get((record.get("id"), record.get("sample")), {})} for record in made]
    order = {key: place for place, key in enumerate(scores)}
    rows.sort(key=lambda row: order.get((row.get("id"), row.get("sample")), len(order)))
    return [[row.get(column) for column in COLUMNS] for row in itertools.islice(rows, most)]


def parts_of(export: Path) -> dict[str, Path]:
    """name -> file of what an export holds besides a model: adapter, masks, head."""
    if not export.is_dir():
        return {}
    files = sorted(file for file in export.rglob("*") if file.is_file())
    return {
        name: file
        for file in files
        if "/" in (name := file.relative_to(export).as_posix()) or file.suffix == ".mft"
    }  # fmt: skip


def table_of(rows: list[list[object]]) -> object:
    import wandb

    return wandb.Table(columns=list(COLUMNS), data=rows)


def artifact_of(name: str, parts: dict[str, Path]) -> object:
    import wandb

    artifact = wandb.Artifact(name, type="model-parts")
    for inside, file in parts.items():
        artifact.add_file(str(file), name=inside)
    return artifact
