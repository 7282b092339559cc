"""Evaluations after a training: which exports, and the process that does it."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from mft_cli.config.schema.runs import EvalRunConfig, TrainConfig
from mft_cli.config.validate import to_plain
from mft_cli.console import Log
from mft_cli.errors import EXIT_STOPPED, EXIT_USER, RankFailed, Stopped, UserError
from mft_cli.eval.evaluate import evaluate
from mft_cli.export.card import add_scores_to_card
from mft_cli.files import JsonObject, read_json, read_object, write_json
from mft_cli.models.folder import read_export_facts
from mft_cli.run_dir import RunDir
from mft_cli.signals import run_forwarding, stoppable
from mft_cli.train.restart import move_evaluations_away
from mft_cli.train.weights_and_biases import send_scores


def evaluate_exports(run: RunDir, config: TrainConfig, log: Log) -> None:
    """`mft eval` on the exports, by default in a process of its own: the trainer's memory is free by then on a GPU, too."""
    move_stale_evaluations(run, config.eval.checkpoints, log)
    all_scores: dict[str, JsonObject] = {}
    evaluated = exports_to_evaluate(run, config.eval.checkpoints) if config.eval.benchmarks else []
    for folder, out in evaluated:
        exported = replace(config.model, path=str(folder), revision=None)
        asked = EvalRunConfig(model=exported, eval=config.eval, launch=config.launch)
        write_json(run.root / f"{out.name}.json", to_plain(asked))
        log(f"evaluating {folder}")
        start = time.monotonic()
        if config.eval.own_process:
            evaluate_apart(run.root / f"{out.name}.json", folder, out)
        else:
            with stoppable():
                evaluate(asked, out)
        scores = {p.parent.name: read_json(p) for p in sorted(out.glob("*/metrics.json"))}
        add_scores_to_card(folder, scores)
        log(f"evaluated in {time.monotonic() - start:.0f} s")
        all_scores |= {f"{out.name}/{name}": metrics for name, metrics in scores.items()}
    send_scores(run, config.log, all_scores, log)


def evaluate_apart(frozen: Path, folder: Path, out: Path) -> None:
    """In a process of its own, by the settings in `frozen`. Raises what `failure_of` says."""
    code = run_forwarding([sys.executable, "-m", "mft_cli", "eval", f"--frozen={frozen}", f"--out={out}"])
    if code:
        raise failure_of(code, folder)


def failure_of(code: int, folder: Path) -> Exception:
    """What the evaluating process has not said itself, by its exit code (negative: the signal that ended it)."""
    if code == EXIT_STOPPED:
        return Stopped(f"the evaluation of {folder} was stopped by a signal; the completions that it has are kept")
    kind = UserError if code == EXIT_USER else RankFailed
    return kind(
        f"the evaluation of {folder} {how_it_ended(code)}; the trained model is safe, the completions that it has are kept: the same "
        f"command goes on with them"
    )


def how_it_ended(code: int) -> str:
    """A child's exit code in words (negative: the signal that ended it)."""
    if code > 0:
        return f"failed (exit code {code})"
    return f"was ended by {signal.Signals(-code).name}" + " (out of memory?)" * (code == -signal.SIGKILL)


def move_stale_evaluations(run: RunDir, which: str, log: Log) -> None:
    """Scores of other weights than an export now has, after a retraining or more steps, go where no report looks."""
    for folder, out in exports_to_evaluate(run, which):
        exported = read_export_facts(folder).get("weights_digest")
        scored = {scored_weights(path) for path in out.glob("*/metrics.json")}
        if exported and scored - {None, exported}:
            move_evaluations_away(run, [out])
            log(f"{out} held scores of other weights than {folder} has now: moved into {run.root / 'replaced'}")


def scored_weights(metrics: Path) -> str | None:
    """Digest of the weights whose scores these are; None of a damaged file, which the evaluation writes again."""
    try:
        model = read_object(metrics).get("model")
    except ValueError:
        return None
    return model.get("weights_digest") if isinstance(model, dict) else None


def exports_to_evaluate(run: RunDir, which: str) -> list[tuple[Path, Path]]:
    """(export, evaluation folder) pairs that eval.checkpoints asks for."""
    pairs = {"last": [(run.export, run.root / "eval")], "best": [(run.root / "export-best", run.root / "eval-best")]}
    if which != "all":
        return pairs[which]
    steps = sorted(run.root.glob("export-step-*"))
    return [(p, run.root / p.name.replace("export", "eval")) for p in steps] + pairs["last"]
