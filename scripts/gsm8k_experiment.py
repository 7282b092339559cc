"""SmolLM2-135M on real GSM8K: sft against masked_thought, same seeds and budget, scored on GSM8K test through vLLM.

    MFT_DATA_DIR=<folder with gsm8k/> python scripts/gsm8k_experiment.py            what two cores do in an hour
    python scripts/gsm8k_experiment.py --full                                       a GPU: all rows, 3 and 10 epochs, 3 seeds

Prints what difference the design can detect before it starts. Killed and started again it goes on. Writes docs/log/gsm8k.md.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

OUT = Path("outputs/gsm8k")
PAGE = Path("docs/log/gsm8k.md")
METHODS = ("sft", "masked_thought")
DISCORDANT = 0.1  # guess of the share of problems on which two such models differ, before anything is known
TEST_PROBLEMS = 1319


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=256, help="GSM8K train rows (seeded draw); 0: all")
    parser.add_argument("--epochs", type=int, nargs="+", default=[2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--problems", type=int, default=100, help="GSM8K test problems (the same for all); 0: all 1,319"
    )
    parser.add_argument("--learning-rate", default="1e-4")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--full", action="store_true", help="all rows and problems, 3 and 10 epochs, seeds 1 2 3, batch 64"
    )
    asked = parser.parse_args()
    if asked.full:
        asked.examples, asked.problems, asked.epochs, asked.seeds, asked.batch = 0, 0, [3, 10], [1, 2, 3], 64
    return asked


def mft(*words: str) -> float:
    """Run a mft command; seconds that it took. Ends the script if it fails."""
    print("mft " + shlex.join(words), flush=True)
    start = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "mft_cli", *words], check=False).returncode
    if code:
        sys.exit(code)
    return time.monotonic() - start


def evaluation(asked: argparse.Namespace) -> list[str]:
    limit = [f"eval.limit={asked.problems}"] if asked.problems else []
    return ["eval=gsm8k", "eval.engine=vllm", "eval.benchmarks.gsm8k.max_new_tokens=320", *limit]


def design(asked: argparse.Namespace) -> str:
    """What the design can detect, computed before any training."""
    from mft_cli.stats.significance import minimum_detectable_effect

    n, seeds = asked.problems or TEST_PROBLEMS, len(asked.seeds)
    one, all_seeds = (minimum_detectable_effect(k, DISCORDANT) for k in (n, n * seeds))
    return (
        f"{n} problems, {seeds} seeds. With {DISCORDANT:.0%} of problems answered differently, a paired test finds a true "
        f"difference of {percent(one)} with one seed in 80 % of cases, and at best of {percent(all_seeds)} with all seeds "
        f"together (two-sided, 5 %)."
    )


def percent(share: float) -> str:
    return "(none is large enough)" if math.isinf(share) else f"{100 * share:.1f} points"


def run_folder(method: str, epochs: int, seed: int, asked: argparse.Namespace) -> Path:
    return OUT / f"{method}-n{asked.examples or 'all'}-e{epochs}-s{seed}"


def main() -> None:
    asked = arguments()
    print(planned := design(asked), flush=True)
    scored = evaluation(asked)
    base = OUT / f"base-p{asked.problems or 'all'}"
    mft("eval", "model=smollm2_135m", *scored, f"run_dir={base}")
    folders = [base]
    for epochs in asked.epochs:
        for seed in asked.seeds:
            for method in METHODS:
                run = run_folder(method, epochs, seed, asked)
                rows = [f"data.sources.gsm8k.rows={asked.examples + 64}"] if asked.examples else []
                mft(
                    "train", f"method={method}", "data=gsm8k", "data.validation.rows=64",
                    "data.validation.every_steps=100000", *rows, f"seed={seed}",
                    f"train.epochs={epochs}", f"train.global_batch_size={asked.batch}",
                    f"train.learning_rate={asked.learning_rate}", "train.precision=bf16", *scored, f"run_dir={run}",
                )  # fmt: skip
                folders.append(run)
    mft("report", *map(str, folders), f"out={OUT / 'report'}")
    PAGE.write_text(page(asked, planned, folders))
    print(f"wrote {PAGE}")


def page(asked: argparse.Namespace, planned: str, folders: list[Path]) -> str:
    """docs/log/gsm8k.md: the design, every run's numbers, and the paired differences."""
    machine = json.loads((folders[-1] / "run.json").read_text())["hardware"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads" + "".join(
        f", {g}" for g in machine["gpus"]
    )
    rows = [run_row(f) for f in folders]
    table = "\n".join("| " + " | ".join(r) + " |" for r in rows)
    command = "python scripts/gsm8k_experiment.py " + " ".join(sys.argv[1:])
    return f"""# SmolLM2-135M on GSM8K: sft and masked_thought

> A diary of one run, not a result: nothing between the methods is decided here. What was decided is in [results.md](../results.md).

Made by `{command.strip()}` (rerun it to make this page again). Machine: {where}.
Training: {asked.examples or "all"} rows of GSM8K train, global batch {asked.batch}, learning rate {asked.learning_rate}, bf16 with fp32
masters; the same seeds, rows, order and budget for both methods. Scores: GSM8K test through the vLLM engine, greedy.

**Before the run:** {planned}

| run | accuracy | 95 % interval | truncated | gold log-prob a token | validation loss | training | memory |
|---|---|---|---|---|---|---|---|
{table}

## masked_thought minus sft, paired

{differences(asked)}
"""


def scores_of(folder: Path) -> dict:
    return json.loads((folder / "eval" / "gsm8k" / "metrics.json").read_text())


def run_row(folder: Path) -> list[str]:
    s = scores_of(folder)
    low, high = s["interval"]
    row = [
        folder.name, f"{100 * s['accuracy']:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %", f"{s['truncated']} of {s['n']}",
        f"{s['gold_logprob']['mean']:.4f}",
    ]  # fmt: skip
    if not (folder / "metrics.jsonl").exists():
        return [*row, "", "", ""]
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    validation = [r["loss"] for r in logged if r["kind"] == "validation"]
    train = [r for r in logged if r["kind"] == "train"]
    seconds, speed = sum(r["step_s"] for r in train), sum(r["tokens"] for r in train) / sum(r["step_s"] for r in train)
    memory = max(r["memory_gb"] for r in train)
    return [*row, f"{validation[-1]:.4f}", f"{seconds / 60:.1f} min, {speed:,.0f} tokens/s", f"{memory:.1f} GiB"]


def differences(asked: argparse.Namespace) -> str:
    """Paired differences for each seed, and their mean over seeds."""
    from mft_cli.stats.significance import mcnemar, paired_difference

    lines = []
    for epochs in asked.epochs:
        found: dict[str, list[float]] = {"accuracy": [], "gold": []}
        for seed in asked.seeds:
            sft, masked = (answers(run_folder(m, epochs, seed, asked)) for m in METHODS)
            ids = sorted(sft["correct"])
            right = [[float(side["correct"][i]) for i in ids] for side in (sft, masked)]
            gold = [[side["gold"][i] for i in ids] for side in (sft, masked)]
            a, g = paired_difference(*right), paired_difference(*gold)
            lost = sum(x > y for x, y in zip(*right, strict=True))
            won = sum(x < y for x, y in zip(*right, strict=True))
            p = mcnemar(lost, won)
            found["accuracy"].append(a.difference)
            found["gold"].append(g.difference)
            lines.append(
                f"- {epochs} epochs, seed {seed}: accuracy {100 * a.difference:+.1f} points "
                f"[{100 * a.interval[0]:+.1f}, {100 * a.interval[1]:+.1f}], {won} won, {lost} lost, exact McNemar p = {p:.3f}"
                f"{'' if p < 0.05 else ' (not decided)'}; gold log-probability a token {g.difference:+.4f} "
                f"[{g.interval[0]:+.4f}, {g.interval[1]:+.4f}]"
            )
        if len(asked.seeds) > 1:
            spread = {k: f"{mean(v):+.4f} (standard deviation over seeds {stdev(v):.4f})" for k, v in found.items()}
            lines.append(f"- {epochs} epochs, mean over seeds: accuracy {spread['accuracy']}; gold {spread['gold']}")
    return "\n".join(lines)


def answers(folder: Path) -> dict[str, dict[str, float]]:
    files = folder / "eval" / "gsm8k"
    scores = [json.loads(line) for line in (files / "scores.jsonl").open()]
    gold = [json.loads(line) for line in (files / "gold.jsonl").open()]
    return {
        "correct": {s["id"]: float(s["correct"]) for s in scores},
        "gold": {g["id"]: g["logprob_sum"] / g["tokens"] for g in gold},
    }


if __name__ == "__main__":
    main()
