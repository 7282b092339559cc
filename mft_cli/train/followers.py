"""Who is told what a run writes into metrics.jsonl: Weights & Biases, TensorBoard, MLflow, trackio. They may fail, the run may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mft_cli.config.schema.training import LogConfig
from mft_cli.console import Logger
from mft_cli.files import JsonObject, flatten
from mft_cli.run_dir import RunDir
from mft_cli.train.weights_and_biases import WandbFollower, tracker_id

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
