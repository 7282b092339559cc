"""What scripts/gpu_check.py works with: its table and clock, random models, made-up rows, runs."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import yaml

from mft_cli.config.compose import CONF
from mft_cli.config.load import train_config
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.console import Log
from mft_cli.run_dir import RunDir
from mft_cli.signals import StopSignal
from mft_cli.train.fit import Fits
from mft_cli.train.loop import Trainer
from mft_cli.train.setup import assemble

METHODS: dict[str, dict[str, Any]] = {
    "sft": {}, "masked_thought": {"schedule": "constant"}, "mask_finetune": {"layers": "0-1"},
    "masked_critique": {"format_term": "tag_likelihood"},
    "chunk_refine": {"width": 32, "heads": 4, "layers": 1, "max_steps": 3, "chunk_size": 8},
}  # fmt: skip
SHAPES = {  # width, feed-forward width, layers, heads, key heads, vocabulary
    "tiny": (32, 64, 2, 4, 2, 0),
    "135M": (576, 1536, 30, 9, 3, 49152),
    "1B": (2048, 8192, 16, 32, 8, 128256),
}


@dataclass
class Row:
    part: str
    name: str
    measured: str
    limit: str = ""
    passed: bool | None = None  # None: a figure without a limit, or left out


@dataclass
class Check:
    """Where the rows go, and the clock."""

    out: Path
    device: torch.device
    tiny: bool
    end: float
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        (self.out / "rows.json").write_text(json.dumps([asdict(r) for r in self.rows], indent=1))
        (self.out / "table.txt").write_text("".join(line(r) + "\n" for r in self.rows))
        print(line(row), flush=True)

    def limited(self, part: str, name: str, value: float, limit: float) -> None:
        """A row that passes up to its limit."""
        self.add(Row(part, name, f"{value:.3g}", f"<= {limit:g}", value <= limit))

    def run(self, part: str, needs_s: float, task: Callable[[Check], None]) -> None:
        """One part; its failure is a row, and the next one runs."""
        if time.monotonic() + (0 if self.tiny else needs_s) > self.end:
            self.add(Row(part, "-", f"left out: {self.end - time.monotonic():.0f} s left, needs {needs_s:.0f}"))
            return
        try:
            task(self)
        except Exception as error:  # every other row is still wanted
            traceback.print_exc()
            self.add(Row(part, "-", f"{type(error).__name__}: {str(error).splitlines()[0][:200]}", "runs", False))


def line(row: Row) -> str:
    verdict = {None: "", True: "pass", False: "FAIL"}[row.passed]
    return f"{row.part:11s} {row.name:44s} {row.measured:>34s} {row.limit:>12s} {verdict}"


# ---- models, rows, runs ---------------------------------------------------------------------------------------------


def make_model(folder: Path, shape: str) -> Path:
    """A random Llama in bf16 with a byte-level tokenizer of few words; the table has the shape's whole vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    width, inner, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator([], trainers.BpeTrainer(special_tokens=["<s>", "</s>"], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary or len(tokenizer), hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=8192, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_rows(file: Path) -> Path:
    """Sums, and critiques of them with masked_critique's tags."""
    rows = []
    for i in range(64):
        steps = " ".join(f"Step {k}: {i} and {k} make {i + k}." for k in range(2 + i % 5))
        critique = f"<think><critique>{steps}</critique><reasoning>{steps}</reasoning></think><ans>\\boxed{{{i}}}</ans>"
        rows.append(
            {"question": f"Problem {i}: what is {i} plus 0?", "answer": f"{steps}\n#### {i}", "critique": critique}
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def settings(check: Check, name: str, method: str = "sft", shape: str = "tiny", **more: Any) -> TrainConfig:
    """A run in a folder of its own; `more` are sections laid over it."""
    preset = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text())
    response = "critique" if method == "masked_critique" else "answer"
    source = {"path": str(check.out / "rows.jsonl"), "response": response}
    values: dict[str, Any] = {
        "seed": 3, "run_dir": str(check.out / "runs" / name), "model": {"path": str(check.out / shape)},
        "method": {**preset, **METHODS[method]},
        "data": {"name": "made_up", "sources": {"made_up": source}, "max_length": 1024, "validation": {"rows": 0}},
        "train": {"global_batch_size": 8, "max_steps": 6, "learning_rate": 1e-3,
            "warmup_fraction": 0.0, "precision": "fp32", "micro_batch_size": 2},
        "launch": {"device": check.device.type}, "prompt": {"kind": "template", "template": "{question}\n"},
    }  # fmt: skip
    for section, keys in more.items():
        values[section] = {**values.get(section, {}), **keys}
    return train_config(values)


def start(config: TrainConfig, should_fit: Fits | None = None) -> Trainer:
    run = RunDir(Path(config.run_dir or ""))
    run.root.mkdir(parents=True, exist_ok=True)
    trainer = assemble(run, config, StopSignal(), Log(run.log), should_fit=should_fit).trainer
    trainer.engine.model.train()
    return trainer


def apart(losses: list[float], expected: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))


def on(device: str) -> dict[str, str]:
    return {"device": device}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
