"""Who is told what a run writes into metrics.jsonl: Weights & Biases, TensorBoard, MLflow, trackio. They may fail, the run may not."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from mft_cli import report
from mft_cli.config.schema.training import LogConfig
from mft_cli.console import Logger
from mft_cli.files import JsonObject, digest_of, flatten, read_object, write_json
from mft_cli.run_dir import RunDir

Row = dict[str, Any]  # a line of metrics.jsonl: numbers, but for "kind"
Follower = Callable[[Row], None]


def followers(run: RunDir, config: LogConfig, settings: JsonObject, log: Logger) -> list[Follower]:
    """Those that are asked for; one that cannot start is logged and left out."""
    made: list[Follower] = []
    kinds: list[tuple[bool, Callable[..., Follower]]] = [
        (config.wandb != "off", WandbFollower),
        (config.tensorboard, TensorboardFollower),
        (config.mlflow, MlflowFollower),
        (config.trackio, TrackioFollower),
    ]
    for on, kind in kinds:
        if on:
            try:
                made.append(kind(run, config, settings))
            except Exception as error:
                log(f"{getattr(kind, '__name__', kind)} cannot start and is left out: {error}")
    return made


def close(made: list[Follower], log: Logger) -> None:
    """What they still hold is sent; one that cannot is logged."""
    for follower in made:
        try:
            getattr(follower, "close", lambda: None)()
        except Exception as error:
            log(f"{type(follower).__name__} could not end well; its last numbers may be missing there: {error}")


PACKAGES = {"tensorboard", "wandb", "mlflow", "trackio"}


@contextlib.contextmanager
def telling_of_threads(log: Logger) -> Iterator[None]:
    """Inside, a thread of a follower's package that fails is a line of the log; of others it is a traceback, as ever."""
    before = threading.excepthook

    def tell(failed: threading.ExceptHookArgs) -> None:
        modules = {str(f.f_globals.get("__name__")).split(".")[0] for f, _ in traceback.walk_tb(failed.exc_traceback)}
        if package := next(iter(sorted(PACKAGES & modules)), None):
            log(f"{package} has failed; its last numbers may be missing there: {failed.exc_value}")
        else:
            before(failed)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = before


class TensorboardFollower:
    def __init__(self, run: RunDir, config: LogConfig, settings: JsonObject):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.root / "tensorboard"))

    def __call__(self, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self.writer.add_scalar(f"{row['kind']}/{name}", value, int(row["step"]))
        self.writer.flush()  # a step that is saved does not come again

    def close(self) -> None:
        self.writer.close()


def numbers_in(row: Row) -> dict[str, float]:
    """kind/name -> number, of a line of metrics.jsonl."""
    return {
        f"{row['kind']}/{name}": float(value)
        for name, value in row.items()
        if isinstance(value, (int, float)) and name != "step"
    }


class MlflowFollower:
    """A run of the experiment log.project, where MLFLOW_TRACKING_URI says; a resume goes on with it."""

    def __init__(self, run: RunDir, config: LogConfig, settings: JsonObject):
        import mlflow

        self.client = mlflow.MlflowClient()
        known = self.client.get_experiment_by_name(config.project)
        experiment = known.experiment_id if known is not None else self.client.create_experiment(config.project)
        tag = tracker_id(run)
        runs = self.client.search_runs([experiment], f"tags.mft_id = '{tag}'")
        if runs:
            self.id = runs[0].info.run_id
            return
        self.id = self.client.create_run(experiment, tags={"mft_id": tag}, run_name=run.root.name).info.run_id
        for name, value in flatten(settings).items():
            self.client.log_param(self.id, name, str(value)[:500])  # a longer one is refused

    def __call__(self, row: Row) -> None:
        for name, value in numbers_in(row).items():
            kind, _, metric = name.partition("/")
            # a file store has a folder for each slash: loss and loss/ce cannot stand side by side
            self.client.log_metric(self.id, f"{kind}/{metric.replace('/', '.')}", value, step=int(row["step"]))

    def close(self) -> None:
        self.client.set_terminated(self.id)


class TrackioFollower:
    """A run of trackio's project log.project, kept where TRACKIO_DIR says; a resume goes on with it."""

    def __init__(self, run: RunDir, config: LogConfig, settings: JsonObject):
        import trackio

        name = f"{run.root.name}-{tracker_id(run)[:8]}"  # runs of one name are one run there
        self.run = trackio.init(project=config.project, name=name, config=settings, resume="allow", embed=False)

    def __call__(self, row: Row) -> None:
        self.run.log(numbers_in(row), step=int(row["step"]))

    def close(self) -> None:
        self.run.finish()


# ---- Weights & Biases -----------------------------------------------------------------------------------------------


class WandbFollower:
    def __init__(self, run: RunDir, config: LogConfig, settings: JsonObject):
        self.run = open_wandb(run, config, settings)

    def __call__(self, row: Row) -> None:
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
    """To Weights & Biases, where it is on: each evaluation's numbers, and the run's report; once for the same scores.

    `scores`: what the numbers are called there, such as eval/gsm8k -> its metrics.json.
    """
    digest = digest_of({name: metrics.get("digest") for name, metrics in scores.items()})
    if config.wandb == "off" or not scores or stored_wandb(run).get("sent_scores") == digest:
        return
    try:
        with telling_of_threads(log):
            opened = open_wandb(run, config, None)
            for name, metrics in scores.items():
                opened.summary.update({f"{name}/{key}": value for key, value in numbers_of(metrics).items()})
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
