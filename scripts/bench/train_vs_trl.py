"""Training speed and memory of `mft train` against TRL's SFTTrainer: python scripts/bench/train_vs_trl.py MODEL

Both fine-tune MODEL on the same GSM8K training rows with the chat template, loss on the response, bf16, AdamW (fused),
constant learning rate, the same number of examples in an optimizer step. Every side runs in a process of its own, sides
take turns for several rounds. Printed: real tokens/s (padding does not count) as the median over rounds of the steps
after the first, peak resident memory, and the ratios. Goals: 3 times TRL's padded default, 2.5 times its packing, 0.7
of its memory. Read scripts/bench/README.md before quoting a number.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "RESULT "
# name -> (per-device batch, settings of SFTConfig). Packed rows are as long as ours: TRL's max_length is a row's length.
TRL_SIDES: dict[str, tuple[int, dict[str, Any]]] = {
    "trl padded (default)": (8, {}),
    "trl padded, no checkpointing": (8, {"gradient_checkpointing": False}),
    "trl packing": (2, {"packing": True}),
    "trl packing, no checkpointing": (2, {"packing": True, "gradient_checkpointing": False}),
}
OURS = "mft train"


def read_rows(data: Path, count: int) -> list[dict[str, str]]:
    with open(data / "gsm8k" / "train.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


# ---- one side, in a process of its own ------------------------------------------------------------------------------


def run_ours(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`mft train` as a user starts it. Its own metrics hold the tokens and seconds of every step."""
    run = folder / "run"
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(r) + "\n" for r in read_rows(arguments.data, arguments.rows)), encoding="utf-8")
    settings = [
        "method=sft", f"model.path={arguments.model}", "data=local", f"data.sources.local.path={rows}",
        "data.sources.local.response=answer", "data.validation.rows=0", "data.cache=false", f"run_dir={run}",
        f"train.global_batch_size={arguments.batch}", f"train.max_steps={arguments.steps}", "train.precision=bf16",
        "train.schedule=constant", "train.learning_rate=1e-5", "train.warmup_fraction=0", "train.max_grad_norm=1.0",
        f"train.row_length={arguments.row_length}", f"launch.device={arguments.device}", *arguments.mft,
    ]  # fmt: skip
    if arguments.threads:
        settings.append(f"launch.threads={arguments.threads}")
    code = "import sys; from mft_cli.cli.main import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", code, "train", *settings], cwd=ROOT, check=True, stdout=sys.stderr)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [s for s in steps if s["kind"] == "train"]
    return {"tokens": [s["tokens"] for s in steps], "seconds": [s["step_s"] for s in steps], "loss": steps[0]["loss"]}


def run_trl(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """SFTTrainer with prompt-completion rows, whose loss is on the completion by default."""
    import time

    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    batch, extra = TRL_SIDES[name]
    accumulate = 1 if extra.get("packing") else max(1, arguments.batch // batch)
    if extra.get("packing"):
        accumulate = max(1, round(arguments.batch * 200 / (batch * arguments.row_length)))
    config = SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate,
        max_steps=arguments.steps, max_length=arguments.row_length, bf16=True, use_cpu=arguments.device == "cpu",
        optim="adamw_torch_fused", learning_rate=1e-5, lr_scheduler_type="constant", logging_steps=1, report_to="none",
        save_strategy="no", disable_tqdm=True, **extra,
    )  # fmt: skip
    seconds: list[float] = []
    tokens: list[int] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seconds.append(-time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds[-1] += time.perf_counter()

    rows = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["question"]}],
                "completion": [{"role": "assistant", "content": row["answer"]}],
            }
            for row in read_rows(arguments.data, arguments.rows)
        ]
    )
    trainer = SFTTrainer(model=arguments.model, args=config, train_dataset=rows, callbacks=[Clock()])
    collate = trainer.data_collator

    def counting(features: list[dict[str, Any]]) -> Any:
        tokens.append(sum(len(f["input_ids"]) for f in features))
        return collate(features)

    trainer.data_collator = counting  # type: ignore[assignment]
    trainer.train()
    per_step = [sum(tokens[i * accumulate : (i + 1) * accumulate]) for i in range(len(seconds))]
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"tokens": per_step, "seconds": seconds, "loss": float(losses[0])}


# ---- all sides, in turns --------------------------------------------------------------------------------------------


def measure(name: str) -> dict[str, Any]:
    """One side in a fresh process; its peak memory is that of the process tree's largest member."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", name]
    # RUSAGE_CHILDREN is a maximum over all children so far: a process in between keeps the sides apart
    probe = (
        "import resource, subprocess, sys; p = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True);"
        "print(p.stdout, end=''); print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss);"
        "sys.exit(p.returncode)"
    )
    log = Path(tempfile.gettempdir()) / "train_vs_trl.log"
    with open(log, "a", encoding="utf-8") as errors:
        done = subprocess.run([sys.executable, "-c", probe, *command], stdout=subprocess.PIPE, stderr=errors, text=True)
    if done.returncode:
        sys.exit(f"{name} failed; see the end of {log}")
    lines = done.stdout.splitlines()
    result: dict[str, Any] = json.loads(next(x for x in lines if x.startswith(MARK)).removeprefix(MARK))
    result["peak_gib"] = int(next(x for x in lines if x.startswith("PEAK")).split()[1]) / 2**20
    result["rate"] = sum(result["tokens"][1:]) / sum(result["seconds"][1:])
    return result


def compare(arguments: argparse.Namespace) -> None:
    names = [OURS, *(n for n in TRL_SIDES if not arguments.only or any(o in n for o in arguments.only))]
    print({p: version(p) for p in ("torch", "transformers", "trl", "accelerate")}, platform.processor() or "cpu")
    print({k: str(v) for k, v in vars(arguments).items() if k != "side"}, f"{os.cpu_count()} cores", flush=True)
    found: dict[str, list[dict[str, Any]]] = {n: [] for n in names}
    for turn in range(arguments.rounds):
        for name in names:
            result = measure(name)
            found[name].append(result)
            print(
                f"round {turn + 1}  {name:30s} {result['rate']:7.1f} tokens/s  {result['peak_gib']:.2f} GiB  "
                f"first loss {result['loss']:.4f}  tokens {result['tokens']}",
                flush=True,
            )
    ours = {k: statistics.median(r[k] for r in found[OURS]) for k in ("rate", "peak_gib")}
    print(f"\n{OURS:31s} {ours['rate']:7.1f} tokens/s  {ours['peak_gib']:.2f} GiB")
    for name in names[1:]:
        rate, peak = (statistics.median(r[k] for r in found[name]) for k in ("rate", "peak_gib"))
        speed, memory = ours["rate"] / rate, ours["peak_gib"] / peak
        print(
            f"{name:31s} {rate:7.1f} tokens/s  {peak:.2f} GiB   mft: {speed:.2f} x the speed, {memory:.2f} x the memory"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or hub id, e.g. HuggingFaceTB/SmolLM2-135M-Instruct")
    default = os.environ.get("MFT_DATA_DIR", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="folder that holds gsm8k/train.jsonl")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16, help="examples in an optimizer step")
    parser.add_argument("--row-length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of TRL's sides to run")
    parser.add_argument("--mft", nargs="*", default=[], help="more settings for mft train")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        sys.exit("TRL is not installed: pip install --no-deps -r requirements/bench.txt")
    if not arguments.side:
        return compare(arguments)
    with tempfile.TemporaryDirectory() as folder:
        side = arguments.side
        result = run_ours(arguments, Path(folder)) if side == OURS else run_trl(side, arguments, Path(folder))
    print(MARK + json.dumps(result), flush=True)
    return None


if __name__ == "__main__":
    main()
