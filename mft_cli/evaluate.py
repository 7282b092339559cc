"""`mft eval`: a run folder around the evaluation of one model; and the evaluation of a training run's exports."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from mft_cli.config import to_plain, to_yaml
from mft_cli.errors import EXIT_USER, STOP_SIGNALS, Stopped, UserError
from mft_cli.export import add_scores_to_card
from mft_cli.metrics import Say
from mft_cli.rerun import exports_to_evaluate
from mft_cli.run_dir import RunDir, digest_of, provenance, read_json, write_atomically, write_json
from mft_cli.schema import EvalRunConfig, TrainConfig


def eval_folder(config: EvalRunConfig) -> Path:
    """run_dir, else a name that model, benchmarks and settings decide: the same command goes on where it was."""
    if config.run_dir:
        return Path(config.run_dir)
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
    """Evaluate and keep configuration, provenance and state beside the results. Returns the folder."""
    from mft_cli.eval.run import evaluate

    run = RunDir(eval_folder(config))
    with run.lock():
        write_atomically(run.config, to_yaml(config))
        data = {name: {"where": b.source.path, "split": b.source.split} for name, b in config.eval.benchmarks.items()}
        write_json(run.provenance, provenance({"seed": config.eval.seed}, data, digest_of(to_plain(config))))
        with run.told(), stoppable():
            evaluate(config, run.root / "eval")
        run.set_state("done")
        print(f"results in {run.root}")
    return run.root


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """TERM and USR1 (a SLURM job's end) end an evaluation with Stopped: what is generated is in its journal."""
    numbers = [s for s in STOP_SIGNALS if s != signal.SIGINT]

    def stop(number: int, frame: FrameType | None) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        name = signal.Signals(number).name
        raise Stopped(f"stopped by {name} during the evaluation; the completions that it has are kept", name)

    before = {s: signal.signal(s, stop) for s in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- exports of a training run --------------------------------------------------------------------------------------


def run_forwarding(command: list[str]) -> int:
    """The exit code of a child process. TERM, USR1 and INT end it; then Stopped is raised: its journal is kept."""
    caught: list[str] = []
    children: list[subprocess.Popen[bytes]] = []

    def end_child(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number).name)
        for child in children:
            child.terminate()

    before = {s: signal.signal(s, end_child) for s in STOP_SIGNALS}  # before the child: it would be left behind
    try:
        children.append(subprocess.Popen(command))
        if caught:
            children[0].terminate()
        code = children[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise Stopped(f"stopped by {caught[0]} during the evaluation; the completions that it has are kept", caught[0])
    return code


def evaluate_exports(run: RunDir, config: TrainConfig, say: Say) -> None:
    """`mft eval` on the exports, in a process of its own: the trainer's memory is free by then on a GPU, too."""
    if not config.eval.benchmarks:
        return
    for folder, out in exports_to_evaluate(run, config):
        asked = EvalRunConfig(model=config.model, eval=config.eval, launch=config.launch)
        plain = to_plain(asked)
        plain["model"] = {**plain["model"], "path": str(folder), "revision": None}
        frozen = run.root / f"{out.name}.json"
        write_json(frozen, plain)
        say(f"evaluating {folder}")
        start = time.monotonic()
        command = [sys.executable, "-m", "mft_cli", "eval", f"--frozen={frozen}", f"--out={out}"]
        code = run_forwarding(command)
        if code:
            kind = UserError if code == EXIT_USER else RuntimeError
            raise kind(
                f"the evaluation of {folder} failed (exit code {code}); the trained model is safe. "
                f"Again: {' '.join(command)}"
            )
        scores = {p.parent.name: read_json(p) for p in sorted(out.glob("*/metrics.json"))}
        add_scores_to_card(folder, scores)
        say(f"evaluated in {time.monotonic() - start:.0f} s")
