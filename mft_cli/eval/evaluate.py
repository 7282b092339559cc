"""`mft eval`: an evaluation from its settings to its result."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.config.validate import to_plain, to_yaml
from mft_cli.eval.grading.graders import check_needs
from mft_cli.eval.grading.preferences import ANNOTATIONS
from mft_cli.eval.metrics_file import Metrics, read_metrics
from mft_cli.eval.plan import Plan
from mft_cli.eval.score import summary
from mft_cli.eval.session import Session
from mft_cli.files import digest_of, file_digest, locked, remove_leftovers, write_atomically, write_sealed
from mft_cli.provenance import provenance
from mft_cli.run_dir import RunDir
from mft_cli.signals import stoppable


def evaluate(config: EvalRunConfig, out: Path) -> dict[str, Metrics]:
    """Evaluate a model on `config.eval.benchmarks` into out/<benchmark>/; returns each one's metrics.

    Raises UserError for a folder that is not a whole model, missing data, a prompt that does not fit the tokenizer, or
    a folder `out` that another process evaluates into: two writers would tear each other's journals.
    """
    with locked(
        out, f"{out} is in use by another evaluation; wait until it has ended, then start the same command again"
    ):
        return evaluate_session(Session(config, out), out)


def evaluate_session(session: Session, out: Path) -> dict[str, Metrics]:
    """See `evaluate`; the folder is this process's."""
    plans = session.plans(out)
    for plan in plans:
        remove_leftovers(plan.out)
    last = {plan.name: session.last_pass(plan) for plan in plans}
    metrics = {name: done for name, plan in last.items() if plan is not None and (done := finished(plan)) is not None}
    todo = [plan.name for plan in plans if plan.name not in metrics]
    for plan in plans:
        if plan.name in todo:
            check_needs(plan.benchmark, session.config.eval)
    try:
        for plan in plans:
            if plan.name in todo:
                last[plan.name] = session.complete(plan, plans)
    finally:
        session.close_engine()
    for name in todo:
        metrics[name] = session.score(last[name])  # type: ignore[arg-type]
    for plan in plans:
        say_result(metrics[plan.name], reused=plan.name not in todo)
    return {plan.name: metrics[plan.name] for plan in plans}


def say_result(metrics: Metrics, reused: bool) -> None:
    """The benchmark's last lines."""
    print(summary(metrics, reused=reused), flush=True)
    if first := metrics.get("first_pass"):
        print(
            f"{metrics['benchmark']}: first pass {100 * first['accuracy']:.1f} %; the second corrected {first['corrected']} "
            f"answers and broke {first['broken']}",
            flush=True,
        )


def finished(plan: Plan) -> Metrics | None:
    """The metrics of an evaluation that was done before with the same settings and whose files are untouched."""
    metrics = read_metrics(plan.out)
    if isinstance(metrics, str):
        if metrics:
            print(f"{plan.out / metrics} is damaged or was changed: {plan.name} is scored again", flush=True)
        return None
    same = not plan.journal.missing() and metrics.get("settings_digest") == plan.settings_digest
    same = same and ("first_pass" in metrics) == plan.two_passes
    same = same and (plan.benchmark.answer_type != "judged" or (plan.out / ANNOTATIONS).is_file())
    if not same or metrics.get("generations_digest") == file_digest(plan.journal.path):
        return metrics if same else None
    print(f"{plan.journal.path} is not as it was when it was scored: {plan.name} is scored again", flush=True)
    return None


def eval_folder(config: EvalRunConfig) -> Path:
    """run_dir, else a name that model, benchmarks and settings decide: the same command goes on where it was."""
    if config.run_dir:
        return Path(os.path.expanduser(config.run_dir))
    path = Path(config.model.path)
    exported = path.name.startswith(("export", "adapter"))
    while path.name.startswith(("export", "adapter")):  # outputs/<run>/export/adapter
        path = path.parent
    model = path.name if exported else path.stem
    if config.eval.engine == "api":
        model = re.sub(r"[^A-Za-z0-9._-]+", "-", config.eval.api.model)
    digest = digest_of({k: v for k, v in to_plain(config).items() if k != "run_dir"})[:8]
    return Path("outputs") / f"eval-{model[:48]}-{'+'.join(config.eval.benchmarks)[:48]}-{digest}"


def evaluate_run(config: EvalRunConfig) -> Path:
    """Evaluate; the folder gets the configuration, provenance and state, too. Returns it. Raises UserError, Stopped."""
    run = RunDir(eval_folder(config))
    with run.lock():
        run.refuse_training()
        write_atomically(run.config, to_yaml(config))
        data = {name: {"where": b.source.path, "split": b.source.split} for name, b in config.eval.benchmarks.items()}
        facts = provenance({"seed": config.eval.seed}, data, digest_of(to_plain(config)))
        write_sealed(run.provenance, {**facts, "config_digest": file_digest(run.config)})
        with run.recording_state(), stoppable():
            evaluate(config, run.root / "eval")
        run.set_state("done")
        print(f"results in {run.root}")
    return run.root
