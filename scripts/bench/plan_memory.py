"""`mft plan` against measured peak memory, one fresh process a setting.

    python scripts/bench/plan_memory.py [model=smollm2_135m] [lengths=512,1024,2048] [steps=2] [documents=short,long]
                                        [precision=bf16,fp32] [allocator=exact] [method=sft|mask_finetune]
                                        [checkpointing=off,on]

Each process trains a few optimizer steps of several micro-batches (method, default sft; one process, plain torch) and reports the peak
less what it held before the model was loaded. On a CPU that is the resident set (VmHWM, reset before the steps); on a GPU
torch.cuda.max_memory_allocated. `load` and `save` are the peaks of loading and of writing a checkpoint.
documents=short packs generated problems into rows, long has one document a row.
allocator=exact gives every freed block back to the kernel at once, so that the resident set is what lives; allocator=own
is as `mft train` runs (mft_cli/models/device.py): freed memory stays, and its gaps count.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mft_cli.models import device

MIB = 2**20
METHODS = {"sft": {"name": "sft"}, "mask_finetune": {"name": "mask_finetune", "layers": "all"}}
EXACT = "MALLOC_MMAP_THRESHOLD_"  # glibc: blocks from this size on are mapped, and unmapped when they are freed


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status: VmRSS, VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


class Meter:
    """Bytes in use and their peak since the last reset: of the GPU if there is one, else of this process."""

    def __init__(self) -> None:
        import torch

        self.cuda = torch.cuda if torch.cuda.is_available() else None

    def now(self) -> int:
        return self.cuda.memory_allocated() if self.cuda else status("VmRSS")

    def reset(self) -> None:
        if self.cuda:
            self.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        return self.cuda.max_memory_allocated() if self.cuda else status("VmHWM")


def settings(
    folder: Path, model: str, precision: str, checkpointing: bool, length: int, documents: str, method: str
) -> dict[str, Any]:
    """The configuration as nested values. A step has two or three rows."""
    import yaml

    from mft_cli.config.compose import CONF

    data: dict[str, Any]
    if documents == "long":
        file = folder / "long.jsonl"
        text = "We add one and one, and we have two. "
        repeats = (length - 80) // 11  # 11 tokens a sentence; the prompt takes some forty
        rows = [{"question": f"Number {i}?", "response": text * repeats} for i in range(8)]
        file.write_text("".join(json.dumps(r) + "\n" for r in rows))
        data = {"name": "long", "sources": {"long": {"path": str(file)}}, "max_length": length}
        batch = 2
    else:
        data = yaml.safe_load((CONF / "data/gsm_symbolic.yaml").read_text())
        data["sources"]["gsm_symbolic"]["rows"] = 400
        data |= {"max_length": min(512, length), "validation": {"rows": 0}}
        batch = max(4, 23 * length // 1900)  # about 2.3 rows
    train = {
        "global_batch_size": batch, "max_steps": 50, "precision": precision, "gradient_checkpointing": checkpointing,
        "row_length": length,
    }  # fmt: skip
    read = yaml.safe_load((CONF / f"model/{model}.yaml").read_text())
    return {"run_dir": str(folder / "run"), "model": read, "data": data, "method": METHODS[method], "train": train}


def one(values: dict[str, Any], steps: int) -> dict[str, float]:
    """In a process of its own: train, and compare with the plan of the same configuration."""
    import torch

    from mft_cli.config.load import train_config
    from mft_cli.console import Log
    from mft_cli.plan.estimate import make_plan
    from mft_cli.plan.settings import Settings
    from mft_cli.run_dir import RunDir
    from mft_cli.signals import StopSignal
    from mft_cli.train import setup as assembly

    meter = Meter()
    values["launch"] = {"device": "cuda" if meter.cuda else "cpu"}
    config = train_config(values)
    made = make_plan(config, Settings())
    planned = next(
        s for s in made.stages if s.stage == "none" and s.checkpointing == config.train.gradient_checkpointing
    )
    load, found = assembly.load_model, {}
    if EXACT in os.environ:
        device.keep_freed_memory = lambda: False

    def load_and_note(*arguments: Any, **more: Any) -> Any:
        gc.collect()
        found["baseline"] = meter.now()
        meter.reset()
        return load(*arguments, **more)

    assembly.load_model = load_and_note
    run = RunDir(Path(config.run_dir or ""))
    run.root.mkdir(parents=True)
    trainer = assembly.assemble(run, config, StopSignal(), Log(run.log)).trainer
    trainer.engine.model.train()
    found["load"] = meter.peak() - found["baseline"]
    meter.reset()
    found["before"] = meter.now() - found["baseline"]
    results = [trainer.step(k) for k in range(steps)]
    found["peak"] = meter.peak() - found["baseline"]
    meter.reset()
    trainer.state.step = steps
    trainer.save()
    found["save"] = meter.peak() - found["baseline"]
    widest = max(r.padded_tokens for r in results)
    found |= {"plan": planned.total, "positions": widest, "threads": torch.get_num_threads()}
    found |= {f"plan {i.name}": i.bytes for i in (*planned.items, *planned.work)}
    return found


def measure(folder: Path, steps: int, exact: bool, *setting: Any) -> dict[str, float]:
    values = settings(folder, *setting)
    task = json.dumps([values, steps])
    env = {**os.environ, **({EXACT: "65536"} if exact else {})}
    done = subprocess.run([sys.executable, __file__, "--one"], input=task, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{setting}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    own = dict(a.split("=", 1) for a in sys.argv[1:])
    model, steps = own.get("model", "smollm2_135m"), int(own.get("steps", 2))
    lengths = [int(x) for x in own.get("lengths", "512,1024,2048").split(",")]
    exact = own.get("allocator", "exact") == "exact"
    print("documents precision checkpointing row  measured MiB  plan MiB  plan/measured   load   save", flush=True)
    for documents in own.get("documents", "short,long").split(","):
        for precision in own.get("precision", "bf16,fp32").split(","):
            for checkpointing in [v == "on" for v in own.get("checkpointing", "off,on").split(",")]:
                for length in lengths:
                    with tempfile.TemporaryDirectory() as temporary:
                        setting = (model, precision, checkpointing, length, documents, own.get("method", "sft"))
                        f = measure(Path(temporary), steps, exact, *setting)
                    print(
                        f"{documents:9s} {precision:9s} {'on' if checkpointing else 'off':13s} {length:4d} "
                        f"{f['peak'] / MIB:13,.0f} {f['plan'] / MIB:9,.0f} {f['plan'] / f['peak']:14.3f} "
                        f"{f['load'] / MIB:6,.0f} {f['save'] / MIB:6,.0f}",
                        flush=True,
                    )
                    if "verbose" in own:
                        print("   ", {k: round(v / MIB) if v > 1e4 else v for k, v in f.items()}, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--one"]:
        print(json.dumps(one(*json.loads(sys.stdin.read()))))
    else:
        main()
