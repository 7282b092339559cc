"""The demo: trains sft and masked_thought on the embedded model, evaluates both and the base, reports what was decided.

Everything it does is a `mft` command that it prints; this script only chooses sizes that fit the time, and says how much is
left. Nothing is tried in a precision that the processor emulates: the precision is the one that `auto` takes.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

START = float(os.environ.get("MFT_DEMO_START", time.time()))
BUDGET_S = float(os.environ.get("MFT_DEMO_BUDGET_S", 6 * 60))
OUT = Path("outputs/demo")
BATCH, RATE = 8, "1e-4"
TOKENS_PER_EXAMPLE, NEW_TOKENS = 170, 128
PARAMETERS = 134_515_008  # of SmolLM2-135M
# Shares of the matrix products' speed that a training step, the scoring of gold solutions and batched generation reach, and
# the seconds that a process needs before its first step: measured with scripts/demo.py on two cores, rounded down and up.
TRAINING_SHARE, SCORING_SHARE, GENERATION_SHARE, PROCESS_S = 0.5, 0.4, 0.25, 36.0


@dataclass(frozen=True)
class Preset:
    """How much is trained and evaluated: examples (one epoch), problems of each of two benchmarks."""

    examples: int
    problems: int

    def seconds(self, flops_per_s: float) -> float:
        """Expected duration of two trainings and three evaluations."""
        train = self.examples * TOKENS_PER_EXAMPLE * 6 * PARAMETERS / (TRAINING_SHARE * flops_per_s)
        problems = 2 * self.problems
        score = problems * TOKENS_PER_EXAMPLE * 2 * PARAMETERS / (SCORING_SHARE * flops_per_s)
        generate = problems * NEW_TOKENS * 2 * PARAMETERS / (GENERATION_SHARE * flops_per_s)
        return 2 * (PROCESS_S + train) + 3 * (PROCESS_S + score + generate)


PRESETS = [Preset(512, 100), Preset(256, 60), Preset(128, 40), Preset(64, 24), Preset(32, 16), Preset(16, 8)]


def elapsed() -> float:
    return time.time() - START


def log(line: str) -> None:
    print(f"[{int(elapsed()) // 60}:{int(elapsed()) % 60:02d}] {line}", flush=True)


def mft(*arguments: str) -> None:
    """Run a mft command, shown as one would type it. Ends the demo with its exit code if it fails."""
    log("mft " + shlex.join(arguments))
    done = subprocess.run([sys.executable, "-m", "mft_cli", *arguments], check=False)
    if done.returncode:
        log(f"stopped: that command failed with exit code {done.returncode}")
        sys.exit(done.returncode)


def matrix_product_speed(precision: str, seconds: float = 1.0) -> float:
    """Floating-point operations a second of this machine in the precision that training will use."""
    import torch

    from mft_cli.models.device import DTYPES

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.ones(1024, 1024, dtype=DTYPES[precision], device=device)
    (a @ a).sum().item()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        (a @ a)[0, 0].item()
        count += 1
    return count * 2 * 1024**3 / (time.perf_counter() - start)


def pick_precision() -> str:
    import torch

    from mft_cli.models.device import choose_precision, hardware_of

    return choose_precision("auto", hardware_of(torch.device("cuda" if torch.cuda.is_available() else "cpu")))


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    precision = pick_precision()
    speed = matrix_product_speed(precision)
    budget = BUDGET_S - elapsed()
    preset = next((p for p in PRESETS if p.seconds(speed) <= budget), PRESETS[-1])
    expected = preset.seconds(speed)
    log(
        f"{precision}, {speed / 1e9:,.0f} GFLOP/s in matrix products: {preset.examples} examples, {preset.problems} problems of each "
        f"benchmark; about {expected / 60:.1f} minutes (MFT_DEMO_BUDGET_S=1800 allows more)"
    )
    runs = {name: OUT / f"{name}-{preset.examples}-{precision}" for name in ("base", "sft", "masked_thought")}
    names = ("gsm_symbolic", "gsm_symbolic_heldout")
    evaluation = [
        f"eval=[{','.join(names)}]", f"eval.limit={preset.problems}",
        *(f"eval.benchmarks.{name}.max_new_tokens={NEW_TOKENS}" for name in names),
    ]  # fmt: skip
    training = [
        f"data.sources.gsm_symbolic.rows={preset.examples + 16}", "data.validation.rows=16", "train.epochs=1",
        f"train.global_batch_size={BATCH}", f"train.learning_rate={RATE}",
    ]  # fmt: skip
    begun = time.time()
    mft("eval", "model=smollm2_135m", *evaluation, f"run_dir={runs['base']}")
    for share, name in ((0.2, "sft"), (0.6, "masked_thought")):
        log(f"about {max(0.0, (1 - share) * expected) / 60:.1f} minutes left")
        mft("train", f"method={name}", *training, f"run_dir={runs[name]}", *evaluation)
    log("about 10 seconds left")
    mft("report", *map(str, runs.values()), f"out={OUT / 'report'}")
    print(f"\nreport page:     {(OUT / 'report' / 'report.html').resolve()}")
    print(f"exported models: {(OUT / 'sft*' / 'export').resolve()}, {(OUT / 'masked_thought*' / 'export').resolve()}")
    print("Next:            mft data show method=masked_thought      (what is masked, in colour)")
    print("                 mft train method=masked_thought data=local data.sources.local.path=my.jsonl")
    print("                 mft claims list      (what so few steps of a real model cannot decide: docs/laboratory.md)")
    log(f"done; {time.time() - begun:.0f} s of {expected:.0f} s expected")


if __name__ == "__main__":
    main()
