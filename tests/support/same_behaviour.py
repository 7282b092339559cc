"""Does another tree behave the same? Record what the commands of one tree write, and compare two such records.

    python tests/support/same_behaviour.py record --tree DIR --out SNAPSHOT [--only plain/sft,score]
    python tests/support/same_behaviour.py compare SNAPSHOT SNAPSHOT [--only ...] [--renamed 'OLD=NEW' ...]
    python tests/support/same_behaviour.py list

`record` runs every case below with `python -m mft_cli` of the tree DIR: it knows the command line and the keys of the
configuration, no module. A snapshot is `digests.json` (a sha256 of every file that the commands wrote and printed, and of
every tensor in it) and `texts/`, the text files after the rules DROPPED_KEYS, UNREAD and REPLACED took out what may vary:
each with its reason, all else is compared. What a training prints is compared as its train.log; warnings of libraries are not.
`compare` prints what differs and exits 1, or one line and 0. A name that was changed on purpose is declared:
`--renamed 'model-r*.safetensors=weights-r*.safetensors'` maps names of files and folders, keys of JSON files and names of
tensors of the first snapshot; `*` stands for any text.
All cases take six minutes of one core; `--only sft,score` takes some, with the cases that they need. From a test:

    assert not same_behaviour.record(tree, out, only=["plain/sft", "score"])
    assert not same_behaviour.compare(before, out, only=["plain/sft", "score"])
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import math
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it is run by its path

from tests.support.tiny_model import write_tiny_model

CUT = "step-00000002"  # the checkpoint that resumed runs go on from; runs end at step 4
SHOWN = 12  # differences of a file that are printed
PACKAGE = "mft_cli"
LIMIT = 900  # seconds that one command may take
GRACE = 150  # seconds for what it started to end, when it is told to
LARGEST_TEXT = 2**20  # bytes; of larger text files the digest alone is kept

# ---- what may vary between two records of the same tree: dropped or replaced by rule, with the reason --------------------

CLOCK = "the clock and the machine's load"
MACHINE = "what the machine is, not what the tree does"
TOGETHER = "which runs --only asks for: they are jobs of one sweep"
VERSION = "the version of the source and of the packages"

# (files, keys, reason): keys of JSON files that are left out. A dotted key names every part of the way to it but places in
# lists; `*` stands for any text, also across dots and folders.
DROPPED_KEYS = [
    ("*/metrics.jsonl", "tokens_per_s", CLOCK),
    ("*/metrics.jsonl", "step_s", CLOCK),
    ("*/metrics.jsonl", "memory_gb", "peak of the process, in which the runs before it in the sweep count, too"),
    ("*/trainer.json", "position.seconds", CLOCK),
    ("*/state.json", "time", CLOCK),
    ("*/state.json", "seconds", CLOCK),
    *[(file, key, "digests of what holds times or versions") for file, key in (
        ("*/state.json", "digest"), ("*/state.json", "logged"), ("*/run.json", "digest"), ("*/trainer.json", "logged"),
        ("sweep/outputs/*/sweep.json", "digest"), ("sweep/outputs/*/jobs/*.json", "digest"))],
    ("*/run.json", "started", CLOCK),
    ("*/run.json", "segments.started", CLOCK),
    ("*/run.json", "segments.command", TOGETHER),
    ("*/manifest.json", "digest", "of all files, of which trainer.json holds the clock"),
    ("*/provenance.json", "started", CLOCK),
    ("*/metrics.json", "seconds", CLOCK),
    ("check/check.json", "seconds", CLOCK),
    ("*/report.json", "runs.wall_seconds", CLOCK),
    ("*/report.json", "runs.seconds_in_steps", CLOCK),
    ("*/report.json", "runs.last_train_row.tokens_per_s", CLOCK),
    ("*/report.json", "runs.last_train_row.step_s", CLOCK),
    ("*/report.json", "runs.last_train_row.memory_gb", "as in metrics.jsonl"),
    ("*/report.json", "runs.evaluations.metrics.seconds", CLOCK),
    ("sweep/outputs/*/sweep.json", "time", CLOCK),
    ("sweep/outputs/*/jobs/*.json", "started", CLOCK),
    ("sweep/outputs/*/jobs/*.json", "ended", CLOCK),
    ("sweep/outputs/*/jobs/*.json", "where", "host, process and when it was made"),
    *[(file, f"hardware.{key}", MACHINE)
      for file in ("*/run.json", "*/provenance.json", "*/trainer.json")
      for key in ("machine", "cpu", "cores", "memory_gb", "instruction_set", "gpus")],
    *[(file, key, VERSION)
      for file in ("*/run.json", "*/provenance.json")
      for key in ("git", "python", "packages")],
    ("*/mft.json", "versions", VERSION),
    ("*/mft.json", "mft_version", VERSION),
]  # fmt: skip

# (files, reason): files of which only the presence is compared.
UNREAD = [
    ("*/SHA256SUMS", VERSION + ", which mft.json holds"),
    ("*/tokens-per-second.png", CLOCK),
]  # fmt: skip

# (files, pattern, text, reason): what is replaced in text files, JSON too, in this order.
REPLACED = [
    ("*/run.json", r"^  \"experiment=.*\",$", '  "experiment=<runs>",', TOGETHER),
    ("*/run.json", r"(hydra.sweep.dir='outputs/sweeps)/[^']+", r"\1/<runs>", TOGETHER),
    ("*/train.log", r"^\d\d:\d\d:\d\d ", "", CLOCK),
    ("*.log", r"\(cache [0-9a-f]{16}\)$", "(cache <code>)", "its key covers the code of data/"),
    ("*/printed-*.txt", r"\(cache [0-9a-f]{16}\)$", "(cache <code>)", "its key covers the code of data/"),
    ("*/train.log", r"^(evaluated in) \d+ s$", r"\1 <time>", CLOCK),
    ("*.log", r"^step \d+/\d+ .* left .*\n", "", CLOCK + ": told every ten seconds, with the speed"),
    ("*/logs/rank*.log", r"^\[\d{4}-\d\d-\d\d .*\n", "", "DeepSpeed's own lines: the clock, and names of our modules"),
    ("sweep/outputs/*/logs/*.log", r"^(-- job \d+), .*$", r"\1", CLOCK + ", and the process"),
    ("sweep/outputs/*/run.json", r"^  \"cores=[\d,-]+\"", '  "cores=<cores>"', MACHINE + ": which cores it may use"),
    ("sweep/printed-00.txt", r"^\d+ of \d+ jobs done, .*\n", "", CLOCK + ": told now and then"),
    ("sweep/printed-01.txt", r"\b\d+\.\d s *", "<time> ", CLOCK),
    ("sweep/printed-01.txt", r" {2,}", "  ", "columns are as wide as the times in them"),
    ("sweep/printed-01.txt", r"-{2,}", "--", "columns are as wide as the times in them"),
    ("check/printed-*.txt", r"in \d+\.\d s \([\d,]+ a second\)", "in <time>", CLOCK),
    ("help/printed-*.txt", r"^mft \d+\.\d+\.\d+\S*$", "mft <version>", VERSION),
    ("*/README.md", r"^(Made by mft) \S+:", r"\1 <version>:", VERSION),
    ("*/README.md", r"^torch \d.*, .*$", "<versions>", VERSION),
    ("*/.mft-digests.json", r"^  \d{19},$", '  "<when it was written>",', CLOCK),
    ("*.html", r"(written) \d{4}-\d\d-\d\d \d\d:\d\d UTC", r"\1 <time>", CLOCK),
    ("*/report.md", r"(· written) \d{4}-\d\d-\d\d \d\d:\d\d UTC", r"\1 <time>", CLOCK),
    ("*/report.html", r"(took) [\d.]+ s\b", r"\1 <time>", CLOCK),
    ("*/report.html", r"<bdi>[\d.]+ s</bdi>", "<bdi><time></bdi>", CLOCK),
    ("*/report.md", r"(took) [\d.]+ s\b", r"\1 <time>", CLOCK),
    ("*/report.md", r"\| [\d.]+ s (?=\|)", "| <time> ", CLOCK),
    ("*/report.md", r"^(!\[Throughput\].*\n\nLast values:).*$", r"\1 <speed>", CLOCK),
    ("*/report.html", r"( alt=\"Throughput .*\n.*\n.*Last values:)[^<]*", r"\1 <speed>", CLOCK),
    ("*/report.html", r"\w{64}(\"><img src=\S+,)\w{64}(\" alt=\"Throughput )", r"<picture>\1<picture>\2", CLOCK),
]


# ---- the cases -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """Runs of one folder, jobs of one sweep in one process: each a second, where a process of its own takes eight.

    `start`: the runs go on from step 2 of the same runs in that folder. `ranks`: two ranks of ZeRO-3.
    """

    runs: tuple[str, ...]
    start: str | None = None
    ranks: bool = False


@dataclass(frozen=True)
class Commands:
    """Lines for the command line, started one after the other in a folder of their own."""

    lines: tuple[str, ...]
    needs: tuple[str, ...] = ()
    code: int = 0


COMMON: dict[str, Any] = {
    "defaults": [{"override /model": "local"}, {"override /data": "local"}],
    "seed": 3,
    "model": {"path": "../inputs/model"},
    "data": {
        "sources": {"local": {"path": "../inputs/problems.jsonl", "response": "answer"}},
        "max_length": 256, "validation": {"rows": 4},
    },
    "train": {"global_batch_size": 8, "max_steps": 4, "learning_rate": 0.01, "precision": "fp32", "row_length": 256},
    "checkpoint": {"every_steps": 2, "keep_last": 9},
    "launch": {"threads": 1, "device": "cpu"},
    "eval": {"engine": "hf", "dtype": "float32", "batch_size": 4},
}  # fmt: skip
EVALUATED = {"defaults": [{"override /eval": "sums"}]}
CRITIQUES = {
    "data": {
        "sources": {
            "local": {
                "path": "../inputs/critiques.jsonl", "question": "prompt", "response": "critique",
                "keep_if": {"answer_match": True},
            }
        }
    }
}  # fmt: skip
HEAD = {"width": 32, "heads": 4, "layers": 1, "max_steps": 3, "chunk_size": 8}


def of(method: str, *more: dict[str, Any], peft: str = "none", **keys: Any) -> dict[str, Any]:
    """The keys of a run: COMMON, a method's preset with `keys`, and `more`."""
    chosen = {"defaults": [{"override /method": method}, {"override /peft": peft}], "method": keys}
    run = COMMON
    for values in (chosen, *more):
        run = merged(run, values)
    return run


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the values of `new`; lists are joined."""
    both = dict(old)
    for key, value in new.items():
        if isinstance(value, dict):
            both[key] = merged(both.get(key, {}), value)
        elif isinstance(value, list):
            both[key] = [*both.get(key, []), *value]
        else:
            both[key] = value
    return both


thought, critique = partial(of, "masked_thought"), partial(of, "masked_critique", CRITIQUES)
weights, chunks = partial(of, "mask_finetune"), partial(of, "chunk_refine")
LORA = {"peft": {"rank": 4, "dropout": 0.1}}
RUNS: dict[str, dict[str, Any]] = {
    "sft": of("sft", EVALUATED, {"train": {"max_grad_norm": 0.5, "weight_decay": 0.1}}),
    "sft_lora": of("sft", LORA, peft="lora"),
    "sft_bf16": of("sft", {"train": {"precision": "bf16", "gradient_checkpointing": True}}),
    "sft_padded": of("sft", {"train": {"packing": False, "micro_batch_size": 3, "logits_chunk": 7}}),
    "sft_watched": of(
        "sft", {"data": {"validation": {"every_steps": 1}}, "checkpoint": {"keep_best": True},
                "log": {"samples_every_steps": 2, "sample_tokens": 8}},
    ),
    "masked_thought": thought(EVALUATED),
    "masked_thought_dropout": of("masked_thought_dropout"),
    "masked_thought_neftune": of("masked_thought_neftune"),
    "masked_thought_model_sample": of("masked_thought_model_sample"),
    "masked_thought_mixup": of("masked_thought_mixup"),
    "masked_thought_lora": thought(LORA, peft="lora"),
    "masked_thought_span": thought(granularity="span", random_fraction=0.5),
    "masked_thought_step": thought(granularity="step", schedule="uniform"),
    "masked_thought_both": thought(target="both", schedule="constant", drop_attention=True),
    "masked_critique": critique(),
    "masked_critique_likelihood": critique(format_term="tag_likelihood", neftune_alpha=5.0),
    "masked_critique_think": critique(spans=["think"], redraw=False, mask_ratio=0.5, skip_first=0),
    "mask_finetune": weights(layers="0-1"),
    "mask_finetune_global": of("mask_finetune_global", layers=None),
    "mask_finetune_magnitude": weights(layers="0-1", scores="magnitude"),
    "chunk_refine": chunks(**HEAD),
    "chunk_refine_trained": chunks(
        backbone="trained", partial_fill=0.5, supervise="every_step", early_stop="never", **HEAD
    ),
    "chunk_refine_embedding": chunks(
        hidden="embedding", context="none", refine_low_confidence_only=True, early_stop="always", **HEAD
    ),
}  # fmt: skip
ON_RANKS = ("sft", "sft_lora", "masked_thought", "masked_critique", "mask_finetune", "chunk_refine")
RESUMED = (
    *ON_RANKS, "sft_watched", "masked_thought_model_sample", "masked_thought_mixup", "masked_critique_think",
    "chunk_refine_trained",
)  # fmt: skip
ZERO3 = (
    "deepspeed=zero3", "launch.processes=2",
    "deepspeed.config.zero_optimization.stage3_param_persistence_threshold=0",  # else all stays whole in a model so small
)  # fmt: skip

VERBS = (
    "train", "eval", "score", "report", "compare", "sweep", "data", "plan", "mask", "generate", "critique", "analyze",
)  # fmt: skip
OWN = "--config-dir=../inputs/conf"
MODEL = "model.path=../inputs/model"
HF = "eval.engine=hf eval.dtype=float32 eval.batch_size=4 launch.device=cpu launch.threads=1"
TWO_RUNS = ("plain/sft", "plain/masked_thought")
SHAPE = "arch='{model_type: llama, hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32, vocab_size: 32000, num_attention_heads: 32}'"  # noqa: E501

CASES: dict[str, Training | Commands] = {
    "plain": Training(tuple(RUNS)),
    "resumed": Training(RESUMED, start="plain"),
    "zero3": Training(ON_RANKS, ranks=True),
    "zero3_resumed": Training(("masked_thought",), start="zero3", ranks=True),
    "plain_from_zero3": Training(ON_RANKS, start="zero3"),
    "help": Commands(("--help", "--version", *(f"{verb} --help" for verb in VERBS))),
    "config": Commands(
        (
            "train --cfg job",
            *(f"train {OWN} experiment={name} --cfg job" for name in ("sft_lora", "mask_finetune", "chunk_refine")),
            "train experiment=paper_masked_thought_gsm8k deepspeed=zero3_offload eval=paper_masked_thought --cfg job",
            f"eval {OWN} {MODEL} eval=sums prompt=alpaca --cfg job",
            f"eval list {OWN}",
        )
    ),
    "mistakes": Commands(
        (
            "trian",
            "train method.mask_ratoi=0.2 method=masked_thought",
            "train method=masked_thought method.mask_ratio=2",
            "train method=masked_thougt",
            "train method=mask_finetune model=local",
            "eval model.path=nowhere eval=gsm8k",
            f"eval {OWN} {MODEL} eval=sums eval.benchmarks.sums.source.path=missing.jsonl",
            "score eval=gsm8k",
            "report nowhere",
            "mask diff one",
        ),
        code=2,
    ),
    "show": Commands(
        (
            f"data show {OWN} experiment=masked_critique rows=2 epoch=1",
            f"data show {OWN} experiment=chunk_refine rows=2 progress=0.5",
        )
    ),
    "check": Commands((f"data check {OWN} experiment=sft out=check.json",)),
    "plan": Commands(
        (
            f"plan {OWN} experiment=masked_thought_lora gpus=2 json=true",
            f"plan {OWN} experiment=chunk_refine {SHAPE} gpus=16 rows=1000 mean_tokens=300 mfu=0.4 peak_tflops=312",
        )
    ),
    "eval": Commands(
        (
            f"eval {OWN} {MODEL} eval=sums {HF} run_dir=two eval.benchmarks.sums.samples=2 "
            "eval.benchmarks.sums.temperature=0.8 eval.logprobs=true eval.token_logprobs=true",
        )
    ),
    "score": Commands(
        tuple(f"score {OWN} generations=../inputs/{name}.jsonl eval=sums out={name}" for name in ("good", "bad"))
    ),
    "compare": Commands(("compare ../score/bad ../score/good out=scores", "compare {runs} out=runs"), ("score", *TWO_RUNS)),
    "report": Commands(("report {runs} out=two",), TWO_RUNS),
    "mask": Commands(
        (
            "mask diff {masks}",
            "mask inspect ../plain/mask_finetune/export/masks.mft out=sparsity.png",
            "mask apply ../inputs/model ../plain/mask_finetune/export/masks.mft applied",
        ),
        ("plain/mask_finetune", "plain/mask_finetune_magnitude"),
    ),
    "generate": Commands(
        (
            "generate model.path=../plain/chunk_refine/export decode=refine file=../inputs/questions.txt out=answers.jsonl "
            f"max_new_tokens=12 {HF}",
        ),
        ("plain/chunk_refine",),
    ),
    "critique": Commands(
        (
            f"critique {OWN} data=local data.sources.local.path=../inputs/problems.jsonl data.sources.local.response=answer "
            f"{MODEL} {HF} solutions.samples=2 solutions.questions=4 solutions.max_new_tokens=8 run_dir=made "
            "teacher.model.path=../inputs/model teacher.eval.engine=hf teacher.eval.dtype=float32 teacher.retries=1 "
            "teacher.max_new_tokens=8",
        )
    ),
    "analyze": Commands(
        (
            f"analyze dependency {OWN} experiment=sft eval=none examples=6 near=4 positions=4 out=dependency",
            f"analyze landscape {OWN} experiment=sft eval=none examples=4 points=3 out=landscape",
        )
    ),
    "sweep": Commands(
        (
            f"train -m {OWN} experiment=masked_thought eval=none run_dir=null hydra/launcher=mft_local hydra.launcher.jobs=2 "
            "method.mask_ratio=0.1,0.4",
            "sweep status {sweep}",
            "sweep report {sweep}",
        )
    ),
}  # fmt: skip


def names() -> list[str]:
    """Every case: a run of a folder of training runs is one, a folder of commands is one."""
    found: list[str] = []
    for name, case in CASES.items():
        found += [f"{name}/{run}" for run in case.runs] if isinstance(case, Training) else [name]
    return found


def needs(name: str) -> Iterable[str]:
    """The cases whose files a case reads."""
    case = CASES[name.split("/")[0]]
    if isinstance(case, Commands):
        return case.needs
    return [f"{case.start}/{name.split('/')[1]}"] if case.start else []


def chosen(only: Sequence[str]) -> list[str]:
    """The cases that patterns name, by their whole name, or by that of a run or of its folder; all without a pattern."""
    if not only:
        return names()
    found = [n for n in names() if any(fnmatchcase(part, p) for p in only for part in (n, *n.split("/")))]
    if unknown := [p for p in only if not any(fnmatchcase(x, p) for n in found for x in (n, *n.split("/")))]:
        raise SystemExit(f"no case {', '.join(unknown)}; cases: {' '.join(names())}")
    return found


def with_needs(wanted: Iterable[str]) -> list[str]:
    """The cases and those that they read, in the order in which they can run."""
    found = set(wanted)
    while more := {n for name in found for n in needs(name)} - found:
        found |= more
    return [n for n in names() if n in found]


# ---- what the cases read ---------------------------------------------------------------------------------------------------


def make_inputs(folder: Path) -> None:
    """A tiny model, data, a benchmark, completions to score, and the runs' settings as experiments of a user's own."""
    folder.mkdir(parents=True)
    write_tiny_model(folder / "model")
    write_rows(folder / "problems.jsonl", problems(40))
    write_rows(folder / "critiques.jsonl", critiques(40))
    write_rows(folder / "sums.jsonl", [{"question": f"{i} + 1", "answer": f"#### {i + 1}"} for i in range(10)])
    write_rows(folder / "good.jsonl", completions(wrong=(3,)))
    write_rows(folder / "bad.jsonl", completions(wrong=(0, 4, 5, 6, 9)))
    (folder / "questions.txt").write_text("What is 2 + 3?\nHow many apples does he have?\n")
    write_yaml(
        folder / "conf" / "eval" / "sums.yaml", "eval.benchmarks.sums",
        {"source": {"path": "../inputs/sums.jsonl", "response": "answer"}, "gold_marker": "####", "max_new_tokens": 8},
    )  # fmt: skip
    for name, run in RUNS.items():
        write_yaml(folder / "conf" / "experiment" / f"{name}.yaml", "_global_", {**run, "run_dir": name})


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_yaml(file: Path, package: str, values: dict[str, Any]) -> None:
    """JSON is YAML."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# @package {package}\n{json.dumps(values, indent=1)}\n")


def problems(n: int) -> list[dict[str, Any]]:
    """Small addition problems with worked answers of differing length."""
    rows = []
    for i in range(n):
        a, b = 3 + i % 17, 2 + (7 * i) % 23
        steps = "\n".join(f"Step {k + 1}: we look at {a} and {b}." for k in range(i % 3))
        answer = f"{steps}\nThat makes {a} + {b} = {a + b}.\n#### {a + b}".strip()
        rows.append({"question": f"Problem {i}: what is {a} plus {b}?", "answer": answer})
    return rows


def critiques(n: int) -> list[dict[str, Any]]:
    """Rows for masked critique: a prompt, a tagged response, a verdict."""
    rows = []
    for i, row in enumerate(problems(n)):
        right = row["answer"].rpartition("#### ")[2]
        words = " ".join(f"Step {k} of the solution adds the two numbers as it should." for k in range(1 + i % 3))
        response = (
            f"<think><critique>{words} The answer is {'right' if i % 2 else 'wrong'}.</critique>"
            f"<reasoning>{row['answer'].splitlines()[-2]}</reasoning></think><ans>\\boxed{{{right}}}</ans>"
        )
        rows.append({"prompt": row["question"], "critique": response, "answer_match": str(i % 5 != 4)})
    return rows


def completions(wrong: Sequence[int]) -> list[dict[str, Any]]:
    """Completions of the ten sums: some wrong, one cut off, one without an answer."""
    rows = []
    for i in range(10):
        text = f"{i} + 1 is {i + 1}.\n#### {i + 1 + (i in wrong)}"
        text = {7: "I do not know.", 8: f"{i} + 1 = {i + 1} and"}.get(i, text)
        rows.append({"id": i, "sample": 0, "completion": text, "finish_reason": "length" if i == 8 else "stop"})
    return rows


# ---- record --------------------------------------------------------------------------------------------------------------


def record(tree: Path, out: Path, only: Sequence[str] = (), scratch: Path | None = None) -> list[str]:
    """Run the cases with the tree and write the snapshot into `out`. Returns the commands that failed.

    `scratch`: a new folder for what the commands write, which stays; without it a temporary one is used and removed.
    """
    tree, cases = tree.resolve(), with_needs(chosen(only))
    with tempfile.TemporaryDirectory(prefix="same-behaviour-") as temporary:
        work = (scratch or Path(temporary) / "work").resolve()
        make_inputs(work / "inputs")
        mft = Runner(tree, work)
        mft.check()
        for name, case in CASES.items():
            wanted = [n for n in cases if n.split("/")[0] == name]
            start, used = time.monotonic(), used_by_commands()
            if wanted and isinstance(case, Training):
                run_training(mft, name, case, [n.split("/")[1] for n in wanted])
            elif wanted:
                run_commands(mft, name, case)
            if wanted:
                print(
                    f"{name}: {len(wanted)} recorded in {time.monotonic() - start:.0f} s, "
                    f"{used_by_commands() - used:.0f} s of a processor",
                    flush=True,
                )
        write_snapshot(out, tree, work, cases)
    return mft.failed


def used_by_commands() -> float:
    """Seconds of a processor; what a loaded machine needs for them is another matter."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Runner:
    """Starts the tree's command line in folders of `work`."""

    def __init__(self, tree: Path, work: Path):
        self.tree, self.work = tree, work
        self.failed: list[str] = []
        kept = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME")
        self.environment = {k: os.environ[k] for k in kept if k in os.environ} | {
            "PYTHONPATH": str(tree), "MFT_CACHE_DIR": str(work / "cache"), "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "COLUMNS": "120",
            "NO_COLOR": "1", "TERM": "dumb",
        }  # fmt: skip

    def start(self, folder: str, *words: str) -> subprocess.CompletedProcess[str]:
        """A Python process in a folder of `work`, told to stop when it takes too long."""
        command = [sys.executable, *words]
        process = subprocess.Popen(
            command, cwd=self.work / folder, env=self.environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            printed, said = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.terminate()  # mft hands it on to its ranks and jobs
            try:
                printed, said = process.communicate(timeout=GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                printed, said = "", "killed: it did not end when it was told to"
        return subprocess.CompletedProcess(command, process.returncode, printed, said)

    def check(self) -> None:
        """The tree's package is the one that is imported, whatever is installed."""
        found = self.start("inputs", "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)").stdout.strip()
        if self.tree not in Path(found or "none").resolve().parents:
            raise SystemExit(f"{self.tree}: `import {PACKAGE}` finds {found or 'nothing'}")

    def __call__(self, folder: str, words: Sequence[str], code: int = 0) -> subprocess.CompletedProcess[str]:
        """One command. Another exit code than `code` is said and kept among the failed."""
        done = self.start(folder, "-m", PACKAGE, *words)
        if done.returncode != code:
            line = f"{folder}: mft {shlex.join(words)}: exit code {done.returncode}, expected {code}"
            print(f"{line}\n{(done.stdout + done.stderr)[-3000:]}", file=sys.stderr, flush=True)
            self.failed.append(line)
        return done


def run_training(mft: Runner, name: str, case: Training, runs: Sequence[str]) -> None:
    """The runs as one sweep. Those that go on from others find all that a kill behind step 2 would have left."""
    folder = mft.work / name
    folder.mkdir()
    for run in runs if case.start else ():
        whole = mft.work / str(case.start) / run
        try:
            shutil.copytree(whole / "checkpoints" / CUT, folder / run / "checkpoints" / CUT)
            for file in ("config.yaml", "run.json", "metrics.jsonl"):
                shutil.copy(whole / file, folder / run / file)
        except FileNotFoundError as error:
            mft.failed.append(f"{name}/{run}: cannot go on from {case.start}/{run}: {error}")
    more = [*(ZERO3 if case.ranks else ()), *([] if name == "plain" else ["eval=none"])]
    mft(name, ["train", "-m", *shlex.split(OWN), f"experiment={','.join(runs)}", *more])


def run_commands(mft: Runner, name: str, case: Commands) -> None:
    """The lines one after the other; what each printed is kept in a file."""
    folder = mft.work / name
    folder.mkdir()
    for number, line in enumerate(case.lines):
        sweeps = sorted(folder.glob("outputs/sweeps/*"))
        places = {
            "runs": " ".join(f"../{run}" for run in TWO_RUNS),
            "masks": "../plain/mask_finetune/export/masks.mft ../plain/mask_finetune_magnitude/export",
            "sweep": str(sweeps[0].relative_to(folder)) if sweeps else "no-sweep",
        }
        for place, text in places.items():
            line = line.replace("{" + place + "}", text)
        done = mft(name, shlex.split(line), case.code)
        said = [error for error in done.stderr.splitlines() if error.startswith("mft: ")]
        text = "\n".join([f"$ mft {line}", done.stdout.rstrip("\n"), *said, f"exit code {done.returncode}"])
        (folder / f"printed-{number:02d}.txt").write_text(text + "\n")


# ---- the snapshot --------------------------------------------------------------------------------------------------------


def write_snapshot(out: Path, tree: Path, work: Path, cases: Sequence[str]) -> None:
    """digests.json and texts/ of all files that belong to the cases."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    files: dict[str, Any] = {}
    for top in ("inputs", *cases):
        for path in files_of(work / top):
            name = path.relative_to(work).as_posix()
            text = normalised(path, name, {str(work): "<work>", str(tree): "<tree>"})
            files[name] = facts_of(path, name, text)
            if text is not None and len(text) <= LARGEST_TEXT:
                kept = out / "texts" / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(text)
    snapshot = {"tree": str(tree), "commit": commit_of(tree), "cases": list(cases), "files": files}
    (out / "digests.json").write_text(json.dumps(snapshot, indent=1, ensure_ascii=False) + "\n")


def files_of(folder: Path) -> list[Path]:
    """All files; of the inputs those that were made here, without what a command keeps beside a model."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return [p for p in found if not p.name.startswith(".")] if folder.name == "inputs" else found


def commit_of(tree: Path) -> str:
    """For the reader of a snapshot; not compared."""
    done = subprocess.run(["git", "-C", str(tree), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip()


def facts_of(path: Path, name: str, text: str | None) -> dict[str, Any]:
    """The digest that is compared: of the normalised text, or of the bytes; of a file of tensors that of each, too."""
    if any(fnmatchcase(name, files) for files, _ in UNREAD):
        return {"sha256": "not read"}
    if path.suffix in TENSORS:
        return tensors_in(path.read_bytes())
    return {"sha256": sha256(path.read_bytes() if text is None else text.encode())}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


TENSORS = (".safetensors", ".mft")  # the same format


def tensors_in(content: bytes) -> dict[str, Any]:
    """Digests of a safetensors file and of its tensors: 8 bytes length, a JSON header, the data.

    The library writes the entries of the metadata in an order that is drawn anew in every process: they are sorted.
    """
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    metadata = dict(sorted(header.pop("__metadata__", {}).items()))
    tensors = {
        name: f"{t['dtype']} {t['shape']} {sha256(data[slice(*t['data_offsets'])])}" for name, t in header.items()
    }
    return {"sha256": sha256(json.dumps([metadata, header]).encode() + data), "metadata": metadata, "tensors": tensors}


TEXTS = (".json", ".jsonl", ".yaml", ".md", ".txt", ".log", ".html", ".jinja", ".csv")


def normalised(path: Path, name: str, folders: dict[str, str]) -> str | None:
    """A text file after the rules; None for other files."""
    if path.suffix not in TEXTS:
        return None
    text = path.read_text(encoding="utf-8")
    for folder, word in folders.items():
        text = text.replace(folder, word)
    if path.suffix == ".html":
        text = re.sub(r"(?<=data:image/png;base64,)[\w+/=]+", lambda picture: sha256(picture[0].encode()), text)
    if path.suffix in (".json", ".jsonl"):
        drop = partial(without, [keys for files, keys, _ in DROPPED_KEYS if fnmatchcase(name, files)])
        text = rendered(path.suffix, [drop(v) for v in checked(parsed(path.suffix, text), path.parent)])
    for files, pattern, new, _ in REPLACED:
        if fnmatchcase(name, files):
            text = re.sub(pattern, new, text, flags=re.MULTILINE)
    return text


def parsed(suffix: str, text: str) -> list[Any]:
    """The rows of a .jsonl file; a .json file is one row."""
    return [json.loads(part) for part in (text.strip("\n").split("\n") if suffix == ".jsonl" else [text]) if part]


def rendered(suffix: str, rows: Sequence[Any]) -> str:
    indent = None if suffix == ".jsonl" else 1
    return "".join(json.dumps(row, indent=indent, ensure_ascii=False) + "\n" for row in rows)


def without(patterns: Sequence[str], value: Any, key: str = "") -> Any:
    """`value` without the entries whose dotted key a pattern matches."""
    if isinstance(value, list):
        return [without(patterns, inner, key) for inner in value]
    if not isinstance(value, dict):
        return value
    inside = {name: f"{key}.{name}".lstrip(".") for name in value}
    kept = {n: v for n, v in value.items() if not any(fnmatchcase(inside[n], p) for p in patterns)}
    return {name: without(patterns, inner, inside[name]) for name, inner in kept.items()}


def checked(rows: list[Any], folder: Path) -> list[Any]:
    """A manifest's digest and size of a file beside it, if they are true, become words: the file itself is compared."""

    def words(value: Any) -> Any:
        if isinstance(value, list):
            return [words(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        return {
            name: true_facts(folder / name, inner)
            if isinstance(inner, dict) and name and (folder / name).is_file()
            else words(inner)
            for name, inner in value.items()
        }

    return [words(row) for row in rows]


def true_facts(file: Path, facts: dict[str, Any]) -> dict[str, Any]:
    true = {sha256(file.read_bytes()): "<its sha256>", file.stat().st_size: "<its size>"}
    return {k: true.get(v, v) if isinstance(v, (str, int)) else v for k, v in facts.items()}


# ---- compare -------------------------------------------------------------------------------------------------------------

Rename = Callable[[str], str]


def compare(first: Path, second: Path, only: Sequence[str] = (), renamed: Sequence[str] = ()) -> list[str]:
    """What differs between two snapshots, a line each. `renamed`: OLD=NEW, names of the first and what became of them."""
    a, b = (json.loads((folder / "digests.json").read_text()) for folder in (first, second))
    rename = renaming(renamed)
    recorded = {*a["cases"], *b["cases"]}
    wanted = [n for n in chosen(only) if n in recorded] if only else sorted(recorded)
    if not wanted:
        raise SystemExit(f"neither {first} nor {second} has a case of {','.join(only)}")
    found = []
    for case in wanted:
        missing = [str(folder) for folder, s in ((first, a), (second, b)) if case not in s["cases"]]
        found += [f"{case}: not in {' and '.join(missing)}"] if missing else []
    whole = {"inputs", *wanted} & {"inputs", *a["cases"]} & {"inputs", *b["cases"]}
    old = {path_renamed(name, rename): name for name in a["files"] if case_of(name) in whole}
    new = [name for name in b["files"] if case_of(name) in whole]
    for name in sorted({*old, *new}, key=lambda name: (case_of(name) != "inputs", name)):
        if name not in old:
            found.append(f"{name}: only in {second}")
        elif name not in new:
            found.append(f"{old[name]}: only in {first}")
        else:
            sides = (first / "texts" / old[name], second / "texts" / name)
            drop = partial(without, dropped(name, rename))
            differences = list(file_differences(a["files"][old[name]], b["files"][name], *sides, rename, drop))
            found += [f"{name}: {line}" for line in shortened(differences)]
    return found


def files_in(folder: Path, only: Sequence[str] = ()) -> int:
    """How many files of a snapshot belong to the cases."""
    wanted = {"inputs", *chosen(only)}
    return sum(case_of(name) in wanted for name in json.loads((folder / "digests.json").read_text())["files"])


def case_of(name: str) -> str:
    """The case that a file belongs to."""
    parts = name.split("/")
    return "/".join(parts[:2]) if isinstance(CASES.get(parts[0]), Training) else parts[0]


def renaming(rules: Sequence[str]) -> Rename:
    """A function that gives a name's new one, or the name itself."""
    pairs = []
    for rule in rules:
        old, sign, new = rule.partition("=")
        if not (old and sign and new) or old.count("*") != new.count("*"):
            raise SystemExit(f"--renamed {rule}: expected OLD=NEW with as many * in NEW as in OLD")
        pattern = re.compile("(.*)".join(map(re.escape, old.split("*"))), re.DOTALL)
        pairs.append((pattern, new.split("*")))

    def rename(name: str) -> str:
        for pattern, pieces in pairs:
            if match := pattern.fullmatch(name):
                return pieces[0] + "".join(m + p for m, p in zip(match.groups(), pieces[1:], strict=True))
        return name

    return rename


def path_renamed(path: str, rename: Rename) -> str:
    """A path is mapped part by part."""
    return "/".join(rename(part) for part in path.split("/"))


def keys_renamed(value: Any, rename: Rename) -> Any:
    if isinstance(value, dict):
        return {rename(k): keys_renamed(v, rename) for k, v in value.items()}
    return [keys_renamed(v, rename) for v in value] if isinstance(value, list) else value


def shortened(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more]


def dropped(name: str, rename: Rename) -> list[str]:
    """The rules' keys of a file of the second snapshot, whose recorder did not know that they are renamed."""
    rules = [(path_renamed(files, rename), keys.split(".")) for files, keys, _ in DROPPED_KEYS]
    return [".".join(map(rename, parts)) for files, parts in rules if fnmatchcase(name, files)]


def file_differences(
    a: dict[str, Any], b: dict[str, Any], old: Path, new: Path, rename: Rename, drop: Callable[[Any], Any]
) -> Iterator[str]:
    """What differs between two files: tensors, keys, lines, or just the bytes."""
    if a["sha256"] == b["sha256"]:
        return
    if "tensors" in a and "tensors" in b:
        yield from tensor_differences(a, b, rename)
    elif not (old.exists() and new.exists()):
        yield "other bytes"
    elif new.suffix in (".json", ".jsonl"):
        rows = [keys_renamed(row, rename) for row in parsed(old.suffix, old.read_text())]
        yield from json_differences(rows, [drop(row) for row in parsed(new.suffix, new.read_text())])
    else:
        lines = difflib.unified_diff(old.read_text().splitlines(), new.read_text().splitlines(), n=0, lineterm="")
        yield from (line for line in lines if not line.startswith(("---", "+++", "@@")))


def tensor_differences(a: dict[str, Any], b: dict[str, Any], rename: Rename) -> Iterator[str]:
    """Tensor by tensor. Where all are the same, the header differs, which is right only if names were changed on purpose."""
    old = {rename(name): digest for name, digest in a["tensors"].items()}
    differences = [
        f"tensor {name}: {side(old, name)} -> {side(b['tensors'], name)}"
        for name in sorted({*old, *b["tensors"]})
        if old.get(name) != b["tensors"].get(name)
    ]
    if a["metadata"] != b["metadata"]:
        differences.append(f"metadata: {a['metadata']} -> {b['metadata']}")
    if not differences and old.keys() == a["tensors"].keys():
        differences.append("the same tensors in another order")
    yield from differences


def side(tensors: dict[str, str], name: str) -> str:
    """A tensor's type and shape, and the start of its digest."""
    return tensors[name][:-56] if name in tensors else "none"


def json_differences(old: list[Any], new: list[Any]) -> Iterator[str]:
    """Row by row and key by key; numbers with how far they are apart."""
    if old == new and json.dumps(old) != json.dumps(new):
        yield "the same values in another order"
    elif len(old) != len(new):
        yield f"{len(old)} rows -> {len(new)} rows"
    for number, (a, b) in enumerate(zip_longest(old, new), start=1):
        where = f"row {number}, " if len(old) > 1 or len(new) > 1 else ""
        before, after = dict(flat(a)), dict(flat(b))
        for key in dict.fromkeys([*before, *after]):
            x, y = before.get(key, "none"), after.get(key, "none")
            if x != y or type(x) is not type(y):
                yield f"{where}{key}: {cut(x)} -> {cut(y)}{distance(x, y)}"


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with plain values; empty objects and lists are values."""
    if isinstance(value, (dict, list)) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def cut(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def distance(a: Any, b: Any) -> str:
    numbers = [x for x in (a, b) if isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)]
    return f" ({b - a:+.3g})" if len(numbers) == 2 else ""


# ---- command line --------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the cases")
    recording = verbs.add_parser("record", help="run the cases with a tree, write a snapshot")
    recording.add_argument("--tree", type=Path, required=True, help="checkout with the package mft_cli")
    recording.add_argument("--out", type=Path, required=True, help="folder of the snapshot; replaced")
    recording.add_argument("--scratch", type=Path, help="new folder that keeps all files that the commands write")
    comparing = verbs.add_parser("compare", help="what differs between two snapshots")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    comparing.add_argument("--renamed", action="append", default=[], metavar="OLD=NEW", help="a name that was changed")
    for each in (recording, comparing):
        each.add_argument("--only", type=lambda text: text.split(","), default=[], help="cases, separated by commas")
    asked = parser.parse_args(arguments)
    if asked.verb == "list":
        print("\n".join(names()))
        return 0
    if asked.verb == "record":
        failed = record(asked.tree, asked.out, asked.only, asked.scratch)
        print("\n".join([*failed, f"{files_in(asked.out)} files in {asked.out}"]))
        return int(bool(failed))
    found = compare(asked.first, asked.second, asked.only, asked.renamed)
    touched = {line.split(": ")[0] for line in found}
    files = files_in(asked.second, asked.only)
    if found:
        print("\n".join(found))
    print(f"{len(found)} differences in {len(touched)} of {files} files" if found else f"the same: {files} files")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
