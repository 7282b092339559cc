"""Steps, start, checkpoint and resume of one process, of several, and of DeepSpeed's stages, in turns in one run.

    python scripts/bench/ranks.py [width=256] [layers=4] [steps=8] [rounds=3] [cases=plain,ranks2,zero3-1,...]
                                  [sizes=256x4,512x8] [ranks=2] [threads=1]

The model is a random Llama of `width` and `layers` with a vocabulary of 4,096, in fp32; the data are generated problems,
packed into rows of 512 tokens, eight rows a step whatever the ranks. Every case is a fresh set of processes:

    start    from the command to the first optimizer step: interpreters, imports, rendezvous, data, model
    step     median seconds of a step, the first left out
    save     seconds of one checkpoint (weights, moments), and its size
    resume   seconds that reading it back takes, on fresh processes

The last part compares the start of `launch.processes=N` with torchrun's, for a program that joins the group and ends.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mft_cli.config import load, validate

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
CASES = {  # name -> (ranks as a share of ranks=, deepspeed preset)
    "plain": (1, "none"), "ranks": (0, "none"),
    "zero1 on one": (1, "zero1"), "zero3 on one": (1, "zero3"),
    "zero1": (0, "zero1"), "zero2": (0, "zero2"), "zero3": (0, "zero3"),
}  # fmt: skip


def make_model(folder: Path, width: int, layers: int) -> int:
    """A random Llama with a word tokenizer; returns its parameters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["a number and a sum"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=2048,
        bos_token_id=0, eos_token_id=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def settings(run: Path, model: Path, deepspeed: str) -> dict[str, Any]:
    import yaml

    from mft_cli.config.compose import CONF

    preset = yaml.safe_load((CONF / f"deepspeed/{deepspeed}.yaml").read_text())
    data = yaml.safe_load((CONF / "data/gsm_symbolic.yaml").read_text())
    data["sources"]["gsm_symbolic"]["rows"] = 600
    data |= {"max_length": 512, "validation": {"rows": 0}, "on_long": "drop"}
    prompt = {"name": "raw", "kind": "template", "template": "{question}\n"}
    return {
        "run_dir": str(run), "model": {"path": str(model)}, "data": data, "method": {"name": "sft"}, "prompt": prompt,
        "train": {"global_batch_size": 16, "max_steps": 1000, "precision": "fp32", "row_length": 512},
        "launch": {"device": "cpu"}, "deepspeed": preset,
    }  # fmt: skip


def rank_program(values: dict[str, Any], steps: int) -> None:
    """In every rank: assemble, time steps, save; rank 0 writes what it measured to run_dir/found-<time>.json."""
    from mft_cli.console import Log
    from mft_cli.distributed.ranks import join, leave
    from mft_cli.files import write_json
    from mft_cli.models.device import set_up_device
    from mft_cli.run_dir import RunDir
    from mft_cli.signals import StopSignal
    from mft_cli.train import checkpoint
    from mft_cli.train.setup import assemble

    asked = load.train_config(values)
    ranks = join(set_up_device(asked.launch))
    run = RunDir(Path(values["run_dir"]))
    run.root.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    read: list[float] = []
    original = checkpoint.Stored.__init__

    def timed(self: Any, *arguments: Any) -> None:
        read.append(time.perf_counter())
        original(self, *arguments)

    checkpoint.Stored.__init__ = timed  # type: ignore[method-assign]
    trainer = assemble(run, asked, StopSignal(), Log(), ranks).trainer
    ranks.barrier()
    found: dict[str, Any] = {"resume": time.perf_counter() - read[0] if read else None}
    found["assemble"], found["ready"] = time.perf_counter() - began, time.time()
    seconds, tokens = [], 0
    trainer.engine.model.train()
    for k in range(trainer.state.step, trainer.state.step + steps):
        start = time.perf_counter()
        result = trainer.step(k)
        ranks.barrier()
        seconds.append(time.perf_counter() - start)
        tokens = result.tokens
    if not read:
        trainer.state.step = steps
        start = time.perf_counter()
        trainer.save()
        ranks.barrier()
        found["save"] = time.perf_counter() - start
        folder = checkpoint.step_folder(run.checkpoints, steps)
        found["bytes"] = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        if ranks.rank == 0:
            run.config.write_text(validate.to_yaml(trainer.config))
    found |= {"step": statistics.median(seconds[1:]) if len(seconds) > 1 else None, "tokens": tokens}
    if ranks.rank == 0:
        write_json(run.root / ("again.json" if read else "first.json"), found)
    leave()


def start(values: dict[str, Any], ranks: int, steps: int, threads: int) -> dict[str, Any]:
    """One set of processes; what rank 0 measured, and the seconds from here to its first step."""
    from mft_cli.config.schema.launching import LaunchConfig
    from mft_cli.distributed.launch import start_ranks

    run = Path(values["run_dir"])
    run.mkdir(parents=True, exist_ok=True)
    task = run / "task.json"
    task.write_text(json.dumps([values, steps]))
    again = (run / "first.json").exists()
    began = time.time()
    launch = LaunchConfig(processes=ranks, threads=threads, device="cpu")
    with quiet():
        code = start_ranks([sys.executable, __file__, "--rank", str(task)], launch, run / "logs", lambda text: None)
    if code:
        raise SystemExit(f"exit code {code}: {(run / 'logs' / 'rank0.log').read_text()[-3000:]}")
    found: dict[str, Any] = json.loads((run / ("again.json" if again else "first.json")).read_text())
    return found | {"start": found["ready"] - began}


class quiet:
    """Rank 0 writes to this terminal; the table is enough."""

    def __enter__(self) -> None:
        sys.stdout.flush()
        self.saved = os.dup(1), os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)

    def __exit__(self, *_: object) -> None:
        for number, copy in zip((1, 2), self.saved, strict=True):
            os.dup2(copy, number)


def launchers(ranks: int, folder: Path) -> None:
    """Seconds until a program that joins the group has ended: ours, and torchrun's."""
    from mft_cli.config.schema.launching import LaunchConfig
    from mft_cli.distributed.launch import start_ranks

    program = folder / "join.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import torch\nfrom mft_cli.distributed.ranks import join, leave\n"
        "r = join(torch.device('cpu')); r.barrier(); leave()\n"
    )
    ours, theirs = [], []
    for i in range(5):
        began = time.perf_counter()
        with quiet():
            start_ranks([sys.executable, str(program)], LaunchConfig(processes=ranks), folder / f"l{i}", lambda t: None)
        ours.append(time.perf_counter() - began)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        began = time.perf_counter()
        subprocess.run([*command, str(program)], check=True, capture_output=True)
        theirs.append(time.perf_counter() - began)
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"\nstart of {ranks} ranks that join and end: mft {a:.1f} s, torchrun {b:.1f} s, mft/torchrun {a / b:.2f}")


def main() -> None:
    own = dict(a.split("=", 1) for a in sys.argv[1:])
    ranks, threads = int(own.get("ranks", 2)), int(own.get("threads", 1))
    steps, rounds = int(own.get("steps", 8)), int(own.get("rounds", 3))
    names = own["cases"].split(",") if "cases" in own else list(CASES)
    sizes = own.get("sizes", f"{own.get('width', 256)}x{own.get('layers', 4)}").split(",")
    print(f"{ranks} ranks, {threads} threads a rank, {len(os.sched_getaffinity(0))} cores, {rounds} rounds in turns")
    with tempfile.TemporaryDirectory() as temporary:
        os.environ.setdefault("MFT_CACHE_DIR", f"{temporary}/cache")
        for size in sizes:
            width, layers = map(int, size.split("x"))
            model = Path(temporary) / size
            count = make_model(model, width, layers)
            print(f"\nwidth {width}, {layers} layers, {count / 1e6:.1f} M parameters")
            print(
                "case          ranks   step s  x plain  tokens/s  start s  save s  resume s  checkpoint MB", flush=True
            )
            measured: dict[str, list[dict[str, Any]]] = {n: [] for n in names}
            for turn in range(rounds):
                for name in names:
                    asked, preset = CASES[name]
                    values = settings(Path(temporary) / f"{size}-{name}-{turn}".replace(" ", "-"), model, preset)
                    first = start(values, asked or ranks, steps, threads)
                    again = start(values, asked or ranks, 0, threads)
                    measured[name].append(first | {"resume": again["resume"]})
            middle = {
                n: {
                    k: statistics.median(r[k] for r in rows)
                    for k in ("step", "tokens", "start", "save", "resume", "bytes")
                }
                for n, rows in measured.items()
            }
            for name, m in middle.items():
                ratio = m["step"] / middle["plain"]["step"] if "plain" in middle else float("nan")
                print(
                    f"{name:13s} {CASES[name][0] or ranks:5d} {m['step']:8.3f} {ratio:8.2f} {m['tokens'] / m['step']:9,.0f} "
                    f"{m['start']:8.1f} {m['save']:7.2f} {m['resume']:9.2f} {m['bytes'] / 1e6:14,.0f}",
                    flush=True,
                )
        launchers(ranks, Path(temporary))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank_program(*json.loads(Path(sys.argv[2]).read_text()))
    else:
        main()
