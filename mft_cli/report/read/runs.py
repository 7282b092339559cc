"""Reads run folders in whatever state they were left. Imports no torch and computes no statistic.

A run that was killed leaves a torn last line; a resumed run leaves steps that are logged twice; an evaluation that was
cut short leaves completions without scores. All of that is read, and said in `notes`, never dropped in silence.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mft_cli.errors import UserError
from mft_cli.files import flatten, json_object, read_jsonl
from mft_cli.report.read import fields
from mft_cli.report.read.damage import file_notes, metrics_note, seal_note
from mft_cli.report.read.fields import Record
from mft_cli.report.wording import is_number

MARKS = ("config.yaml", "run.json", "state.json")  # a folder with one of these is a run folder
DEPTH = 3  # how deep a parent folder is searched: outputs/, outputs/<sweep>/, outputs/<sweep>/<number>/
STALE_S = 900  # a run that says "running" but wrote nothing for this long was probably killed


@dataclass
class Evaluation:
    """One model on one benchmark: the files of eval/<benchmark>/."""

    run: str  # the run's label
    label: str  # the same, with the checkpoint where it is not the last
    benchmark: str
    checkpoint: str  # "" for the last step, else "best" or "step-00000100"
    folder: Path
    metrics: Record | None
    generations: list[Record]
    scores: list[Record]
    gold: list[Record]
    notes: list[str] = field(default_factory=list)

    @property
    def generated(self) -> bool:
        """False where all completions are empty: texts were only read (perplexity)."""
        return not self.generations or any(row.get("completion") != "" for row in self.generations)

    def completions(self) -> dict[tuple[str, int], Record]:
        """Completions by problem and sample. A line written twice counts once: the later one."""
        return {(str(row.get("id")), int(row.get("sample") or 0)): row for row in self.generations}


@dataclass
class Run:
    """One run folder."""

    folder: Path
    label: str
    config: Record  # flattened: {"train.learning_rate": 2e-5}
    state: str  # done, running, stopped, failed; "" where there is no state.json
    step: int | None
    total_steps: int | None
    state_time: str  # when state.json was last written
    state_seconds: float | None  # the trainer's own count of the time in steps
    message: str
    provenance: Record
    training: list[Record]
    validation: list[Record]
    evaluations: list[Evaluation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scored: list[Record] = field(default_factory=list)  # benchmarks while it trained (eval.every_steps)

    @property
    def seconds_in_steps(self) -> float | None:
        """Time spent in optimizer steps: loading, saving and evaluation are not in it."""
        if self.state_seconds is not None:
            return self.state_seconds
        # Not every step need be logged (log.every_steps), so the sum of the log would be too small.
        times = [row["step_s"] for row in self.training if is_number(row.get("step_s"))]
        return sum(times) / len(times) * self.training[-1]["step"] if times else None

    @property
    def unfinished(self) -> bool:
        """Whether the run says of itself that it has not reached its end."""
        return self.state not in ("", "done")


# ---- files ----------------------------------------------------------------------------------------------------------


def read_lines(path: Path, notes: list[str]) -> list[Record]:
    """The objects of a .jsonl file; unreadable lines are counted in `notes`."""
    lines = list(read_jsonl(path, errors="replace"))
    damaged = [number for number, _, row in lines if row is None]
    if damaged and damaged == [lines[-1][0]] and not lines[-1][1].endswith(b"\n"):
        notes.append(f"{path.name}: the last line is torn (the writer was cut off) and is left out")
    elif damaged:
        notes.append(f"{path.name}: {len(damaged)} unreadable lines are left out, the first is line {damaged[0]}")
    return [row for _, _, row in lines if row is not None]


def read_object(path: Path, notes: list[str]) -> Record | None:
    """A JSON object, or None where the file is missing or broken (the latter is noted)."""
    if not path.is_file():
        return None
    value = json_object(path.read_bytes(), errors="replace")
    if value is None:
        notes.append(f"{path.name} cannot be read")
    return value


def read_config(path: Path, notes: list[str]) -> Record:
    """config.yaml, flattened. OmegaConf reads it as it was written: plain YAML 1.1 takes 1e-5 for a text."""
    if not path.is_file():
        return {}
    try:
        config = flatten(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, RecursionError):
        config = {}
    if not config:
        notes.append(f"{path.name} cannot be read: the run counts as one without settings")
    return config


# ---- run folders ----------------------------------------------------------------------------------------------------


def read_runs(folders: list[Path]) -> list[Run]:
    """The runs of the given folders, in the order given; a parent's runs by name, a run named twice once."""
    paths: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give run folders, or a folder that holds run folders.")
        inside = run_folders(folder)
        if not inside:
            raise UserError(
                f"{folder} is not a run folder and holds none: a run folder has a {', '.join(MARKS[:-1])} or {MARKS[-1]}."
            )
        paths += [path for path in inside if path.resolve() not in {known.resolve() for known in paths}]
    labels = short_labels(paths)
    return [read_run(path, label) for path, label in zip(paths, labels, strict=True)]


def run_folders(folder: Path, depth: int = DEPTH) -> list[Path]:
    """The folder itself if it is a run, else the runs below it."""
    if any((folder / mark).is_file() for mark in MARKS):
        return [folder]
    if depth == 0:
        return []
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    return [path for child in children for path in run_folders(child, depth - 1)]


def short_labels(paths: list[Path]) -> list[str]:
    """The folders' names, with as many parents as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max((len(part) for part in parts), default=1) + 1):
        labels = ["/".join(part[-length:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]


def read_run(folder: Path, label: str) -> Run:
    """One run folder."""
    notes: list[str] = []
    stored_state, provenance = (read_object(folder / name, notes) or {} for name in ("state.json", "run.json"))
    notes += [*seal_note("state.json", stored_state), *seal_note("run.json", provenance)]
    state = fields.checked(stored_state, fields.STATE, "state.json", notes)
    written = {"config.yaml": provenance["config_digest"]} if "config_digest" in provenance else {}
    notes += file_notes(folder, {**written, **(state.get("logged") or {})})
    rows = read_lines(folder / "metrics.jsonl", notes)
    run = Run(
        folder=folder,
        label=label,
        config=read_config(folder / "config.yaml", notes),
        state=str(state.get("state") or ""),
        step=state.get("step"),
        total_steps=state.get("total_steps"),
        state_time=str(state.get("time") or ""),
        state_seconds=state.get("seconds"),
        message=str(state.get("message") or ""),
        provenance=fields.checked(provenance, fields.PROVENANCE, "run.json", notes),
        training=by_step(rows, "train", notes),
        validation=by_step(rows, "validation", notes),
        scored=by_step(rows, "evaluation", notes),
        notes=notes,
    )
    notes += missing(run)
    if run.step is None and run.training:  # a stopped or failed run's state has no step
        run.step = run.training[-1]["step"]
    if run.state == "running":
        age = time.time() - (folder / "state.json").stat().st_mtime
        if age > STALE_S:
            notes.append(f"says it is running, but state.json is {age / 60:.0f} minutes old: it may have been killed")
    for evaluation_folder in sorted(path for path in folder.glob("eval*") if path.is_dir()):
        run.evaluations += read_evaluations(run, evaluation_folder)
    return run


def missing(run: Run) -> list[str]:
    """What a training must have written and is not there."""
    gone = [name for name in ("run.json", "state.json") if run.training and not (run.folder / name).is_file()]
    notes = [f"{name} is missing, although this was a training: what it tells is not shown" for name in gone]
    damaged = not run.config and (run.folder / "config.yaml").is_file()  # reported when it was read
    if "method.name" not in run.config and run.training and not damaged:
        problem = "does not say method.name" if run.config else "is missing"
        notes.append(
            f"config.yaml {problem}, although this was a training: it counts as a model that was only evaluated"
        )
    if "method.name" in run.config and run.step and not run.training:
        notes.append(
            f"metrics.jsonl has no row of training that can be read, although the run is at step {run.step}: no curves"
        )
    return notes


def by_step(rows: list[Record], kind: str, notes: list[str]) -> list[Record]:
    """Rows of one kind by step. A resumed run logs some steps twice; the later row is the one that counted."""
    rows = [row for row in rows if row.get("kind") == kind]
    # A skipped step has a loss of NaN, which is no defect of the file: only the step must be right.
    kept = {row["step"]: row for row in fields.checked_lines(rows, fields.STEP, ("step",), "metrics.jsonl", notes)}
    return [kept[step] for step in sorted(kept)]


def read_metrics(path: Path, notes: list[str]) -> Record | None:
    """metrics.json of one benchmark."""
    metrics = read_object(path, notes)
    if metrics is None:
        return None
    notes += metrics_note(metrics)
    metrics = fields.checked(metrics, fields.METRICS, path.name, notes)
    if "gold_logprob" in metrics:
        metrics["gold_logprob"] = fields.checked(metrics["gold_logprob"], fields.GOLD, "gold_logprob", notes)
    if "failure_detection" in metrics:
        detection = fields.checked(metrics["failure_detection"], fields.FAILURE, "failure_detection", notes)
        if "agreement" in detection:
            detection["agreement"] = fields.checked(detection["agreement"], fields.AGREEMENT, "agreement", notes)
        metrics["failure_detection"] = detection
    return metrics


def read_rows(path: Path, checks: dict[str, fields.Check], needed: tuple[str, ...], notes: list[str]) -> list[Record]:
    """The lines of one file whose fields hold what they should."""
    return fields.checked_lines(read_lines(path, notes), checks, needed, path.name, notes)


def read_evaluations(run: Run, folder: Path) -> list[Evaluation]:
    """The benchmarks under eval/, eval-best/ or eval-step-.../."""
    checkpoint = folder.name.removeprefix("eval").removeprefix("-")
    label = f"{run.label} @ {checkpoint}" if checkpoint else run.label
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    evaluations = [read_evaluation(run.label, label, checkpoint, path) for path in folders]
    return [e for e in evaluations if e.metrics or e.generations or e.scores or e.gold or e.notes]


def read_evaluation(run: str, label: str, checkpoint: str, folder: Path) -> Evaluation:
    """One benchmark's folder, which has its name."""
    notes: list[str] = []
    return Evaluation(
        run=run,
        label=label,
        benchmark=folder.name,
        checkpoint=checkpoint,
        folder=folder,
        metrics=read_metrics(folder / "metrics.json", notes),
        generations=read_rows(folder / "generations.jsonl", fields.COMPLETION, ("id",), notes),
        scores=read_rows(folder / "scores.jsonl", fields.SCORE, ("id",), notes),
        gold=read_rows(folder / "gold.jsonl", fields.GOLD_LINE, ("id", "logprob_sum", "tokens"), notes),
        notes=notes,
    )
