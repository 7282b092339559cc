"""The demo: times two steps, picks precision and preset, trains sft and masked_thought, evaluates all, reports.

Everything it does is a `mft` command that it prints; this script only chooses sizes and puts the table together.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

START = float(os.environ.get("MFT_DEMO_START", time.time()))
BUDGET_S = float(os.environ.get("MFT_DEMO_BUDGET_S", 15 * 60))
RESERVE_S = 90.0  # report, and what a noisy machine takes more
OUT = Path("outputs/demo")
EXAMPLES, PROBLEMS = (512, 256, 128), (100, 50)
EPOCHS, BATCH, RATE = 2, 16, "1e-4"
PROBE_BATCH = 4
# Measured on two AVX512-BF16 cores without AMX: seconds to start a process, and completion tokens a second of both
# benchmarks' evaluation with vLLM, eager, for a probe whose training step makes `tokens_per_s` tokens.
PROCESS_S, LOAD_S, TOKENS_PER_PROBLEM, EVAL_SPEED = 15.0, 45.0, 150, 0.9


def left() -> float:
    return BUDGET_S - (time.time() - START)


def say(line: str) -> None:
    print(f"[{int(time.time() - START) // 60}:{int(time.time() - START) % 60:02d}] {line}", flush=True)


def mft(*arguments: str) -> None:
    """Run a mft command, shown as one would type it. Ends the demo with its exit code if it fails."""
    say("mft " + shlex.join(arguments))
    done = subprocess.run([sys.executable, "-m", "mft_cli", *arguments], check=False)
    if done.returncode:
        say(f"stopped: that command failed with exit code {done.returncode}")
        sys.exit(done.returncode)


def training(method: str, examples: int, run: Path, *more: str) -> list[str]:
    return [
        "train", f"method={method}", f"data.sources.gsm_symbolic.rows={examples + 32}", f"train.epochs={EPOCHS}",
        f"train.global_batch_size={BATCH}", f"train.learning_rate={RATE}", f"run_dir={run}", *more,
    ]  # fmt: skip


def benchmarks(problems: int) -> list[str]:
    names = ("gsm_symbolic", "gsm_symbolic_heldout")
    return [
        f"eval=[{','.join(names)}]",
        f"eval.limit={problems}",
        *(f"eval.benchmarks.{n}.max_new_tokens=256" for n in names),
    ]


def probe() -> tuple[str, float, float]:
    """(precision, seconds a step, tokens a second) of the faster of bf16 and fp32: two small steps each, after a first."""
    found = {}
    for precision in ("bf16", "fp32"):
        run = OUT / f"probe-{precision}"
        steps = [
            "train.max_steps=3",
            f"train.precision={precision}",
            "data.validation.rows=0",
            "checkpoint.every_steps=9",
            f"train.global_batch_size={PROBE_BATCH}",
        ]
        mft(*training("masked_thought", 32, run, *steps))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").open()][1:]
        seconds = sum(r["step_s"] for r in rows) / len(rows)
        seconds *= BATCH / PROBE_BATCH
        found[precision] = (seconds, sum(r["tokens"] for r in rows) / sum(r["step_s"] for r in rows))
        shutil.rmtree(run)
        say(f"two steps in {precision}: {seconds:.1f} s for {BATCH} examples, {found[precision][1]:,.0f} tokens/s")
    best = min(found, key=lambda p: found[p][0])
    return best, *found[best]


def choose(seconds_a_step: float, tokens_per_s: float) -> tuple[int, int]:
    """The largest preset that fits into the time that is left: (examples, problems)."""
    for examples in EXAMPLES:
        for problems in PROBLEMS:
            if estimate(examples, problems, seconds_a_step, tokens_per_s) <= left() - RESERVE_S:
                return examples, problems
    return EXAMPLES[-1], PROBLEMS[-1]


def estimate(examples: int, problems: int, seconds_a_step: float, tokens_per_s: float) -> float:
    """Seconds for two trainings and three evaluations."""
    steps = EPOCHS * -(-examples // BATCH)
    train = PROCESS_S + 1.1 * steps * seconds_a_step
    evaluate = LOAD_S + 2 * problems * TOKENS_PER_PROBLEM / (EVAL_SPEED * tokens_per_s)
    return 2 * train + 3 * evaluate


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    say(
        f"at most {left() / 60:.0f} minutes left in all; first, two training steps are timed in each precision (2 minutes)"
    )
    precision, seconds, speed = probe()
    examples, problems = choose(seconds, speed)
    expected = estimate(examples, problems, seconds, speed)
    say(f"precision {precision}; preset: {examples} examples x {EPOCHS} epochs, {problems} problems a benchmark")
    say(f"about {expected / 60:.0f} minutes from here, of {left() / 60:.0f} left")
    tag = f"{examples}-{precision}"
    runs = {name: OUT / f"{name}-{tag}" for name in ("base", "sft", "masked_thought")}
    asked = benchmarks(problems)
    mft("eval", "model=smollm2_135m", *asked, f"run_dir={runs['base']}")
    for done, name in enumerate(("sft", "masked_thought")):
        say(f"about {(3 - 1.3 * done) / 4 * expected / 60:.0f} minutes left")
        mft(*training(name, examples, runs[name], f"train.precision={precision}", *asked))
    mft("report", *map(str, runs.values()), f"out={OUT / 'report'}")
    print()
    print(f"report page:     {(OUT / 'report' / 'report.html').resolve()}")
    for name in ("sft", "masked_thought"):
        print(f"exported model:  {(runs[name] / 'export').resolve()}")
    say(f"done in {(time.time() - START) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
