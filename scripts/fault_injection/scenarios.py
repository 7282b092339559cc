"""The commands that faults are aimed at, on a tiny model, and what their results are compared by."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mft_cli.files import file_digest, read_json
from mft_cli.sweep.claims import design
from scripts.fault_injection.forks import Ended, Fault, import_all, run_mft
from tests.support.tiny import data_of, problems, tiny_overrides
from tests.support.tiny_model import write_tiny_model

TIMINGS = ("tokens_per_s", "step_s", "memory_gb", "mfu")
COMPARED = (
    "export*/**/*.safetensors", "export*/**/*.mft", "export*/**/training_questions.bin", "export*/**/*token*.json",
    "export*/**/config.json", "eval*/*/*.jsonl", "*.safetensors", "masks.mft", "train.jsonl", "malformed.jsonl", "critiques.jsonl",
    "solutions/*.jsonl", "examples.jsonl", "points.jsonl",
)  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """A command, as words after `mft`; `after` names the scenario whose finished folder it begins in, or reads.

    Of other verbs than train and eval `words` are all words, with {model}, {data}, {mine} and {after} for paths. `told`: what the
    command may be refused with when it has been done already.
    """

    name: str
    settings: dict[str, object] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    after: str = ""
    verb: str = "train"
    told: str = ""


TRAINED = {"train.max_steps": 6, "checkpoint.every_steps": 2, "data.validation.rows": 4}
SWEPT = {**TRAINED, "run_dir": "run/seed-${seed}", "hydra.sweep.dir": "run"}
EVALUATED = {"eval": "sums", "eval.engine": "hf", "eval.dtype": "float32"}
ROWS = ("data=local", "data.sources.local.path={data}", "data.sources.local.response=answer")
SCENARIOS = [
    Scenario("plain", TRAINED, ("method=masked_thought",)),
    Scenario("saves", {**TRAINED, "checkpoint.every_steps": 1, "checkpoint.keep_best": True, "log.samples_every_steps": 1,
                       "log.sample_tokens": 4, "log.tensorboard": True}),
    Scenario("exports", {**TRAINED, **EVALUATED, "checkpoint.keep_last": 3, "eval.checkpoints": "all"}),
    Scenario("lora", TRAINED, ("peft=lora", "method=masked_thought")),
    Scenario("weight masks", {**TRAINED, "method.layers": "0-1"}, ("method=mask_finetune",)),
    Scenario("refine", {**TRAINED, "method.chunk_size": 8, "method.width": 32, "method.heads": 4, "method.layers": 1,
                        "method.max_steps": 3}, ("method=chunk_refine",)),
    Scenario("critique", TRAINED, ("method=masked_critique",)),
    Scenario("again", {**TRAINED, **EVALUATED, "checkpoint.resume": False}, after="evaluated"),
    Scenario("evaluated", {**TRAINED, **EVALUATED}),
    Scenario("evaluation", EVALUATED, after="evaluated", verb="eval"),
    Scenario("two ranks", {**TRAINED, "launch.processes": 2}, ("method=masked_thought",)),
    Scenario("zero3", {**TRAINED, "launch.processes": 2}, ("deepspeed=zero3",)),
    Scenario("sweep", {**SWEPT, "seed": "1,2"}, ("-m",)),
    Scenario("parallel sweep", {**SWEPT, "seed": "1,2", "hydra/launcher": "mft_local"}, ("-m",)),
    Scenario("critiques", verb="critique", words=(
        "critique", "--config-dir", "{mine}", "model.path={model}", *ROWS, "solutions.questions=3", "solutions.max_new_tokens=6",
        "eval.engine=hf", "eval.dtype=float32", "teacher.model.path={model}", "teacher.eval.engine=hf",
        "teacher.eval.dtype=float32", "teacher.max_new_tokens=6", "launch.threads=1", "run_dir=run")),
    Scenario("dependency", after="plain", verb="analyze",
             words=("analyze", "dependency", *ROWS, "launch.threads=1", "{after}", "examples=6", "near=4", "out=run")),
    Scenario("landscape", after="plain", verb="analyze",
             words=("analyze", "landscape", *ROWS, "launch.threads=1", "{after}", "examples=4", "points=3", "out=run")),
    Scenario("mask", after="weight masks", verb="mask", words=("mask", "apply", "{model}", "{after}/export/masks.mft", "run"),
             told="exists already"),
    Scenario("claim", verb="claims", words=("claims", "run", "tiny", "runs=run")),
]  # fmt: skip
BY_NAME = {s.name: s for s in SCENARIOS}
BENCHMARK = """# @package eval.benchmarks.sums
source: {{path: {path}, response: answer}}
gold_marker: "####"
max_new_tokens: 6
"""
CLAIM = """claim: The last step is worth nothing.
source: {{document: "000", section: none, published: none}}
common: [{common}]
arms: {{whole: [train.max_steps=3], short: [train.max_steps=2]}}
contrasts: {{gain: {{whole/gsm8k: 1, short/gsm8k: -1}}}}
seeds: [1]
benchmarks: [gsm8k]
problems: 5
smallest: 0.02
budget_minutes: 1
"""


class Workshop:
    """The inputs of all scenarios, and what each writes undisturbed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = write_tiny_model(folder / "model")
        self.data = folder / "problems.jsonl"
        self.data.write_text("".join(json.dumps(row) + "\n" for row in problems(40)))
        sums = folder / "sums.jsonl"
        sums.write_text(
            "".join(json.dumps({"question": f"{i} + 1", "answer": f"#### {i + 1}"}) + "\n" for i in range(5))
        )
        (folder / "mine" / "eval").mkdir(parents=True)
        (folder / "mine" / "eval" / "sums.yaml").write_text(BENCHMARK.format(path=sums))
        common = [*tiny_overrides(self.model, self.data), "eval.engine=hf", "eval.dtype=float32", "eval.benchmarks.gsm8k.max_new_tokens=6",
                  f"eval.benchmarks.gsm8k.source={{path: {sums}, response: answer}}"]  # fmt: skip
        design.FOLDER = folder / "mine" / "claims"  # instead of the package's
        design.FOLDER.mkdir()
        (design.FOLDER / "tiny.yaml").write_text(CLAIM.format(common=", ".join(map(json.dumps, common))))
        self.references: dict[str, Path] = {}
        self.operations: dict[str, dict[str, int]] = {}
        self.seconds: dict[str, float] = {}

    def words(self, scenario: Scenario) -> list[str]:
        """The whole command line after `mft`, run in a folder whose subfolder `run` it writes."""
        config_dir = ["--config-dir", str(self.folder / "mine")]
        if scenario.verb == "eval":
            more = {**scenario.settings, "model.path": self.references[scenario.after] / "run" / "export"}
            return ["eval", *config_dir, *(f"{k}={v}" for k, v in more.items()), "run_dir=run", "launch.threads=1"]
        if scenario.verb != "train":
            after = self.references[scenario.after] / "run" if scenario.after else ""
            places = {"model": self.model, "data": self.data, "mine": self.folder / "mine", "after": after}
            return [word.format(**places) for word in scenario.words]
        method = next((w.partition("=")[2] for w in scenario.words if w.startswith("method=")), "sft")
        source = {f"data.sources.local.{k}": v for k, v in data_of(method, self.data).items()}
        if "keep_if" in str(source):
            source["data.sources.local.keep_if"] = "{answer_match: True}"
        settings = {**tiny_overrides_of(self.model, self.data), **source, "run_dir": "run", **scenario.settings}
        return ["train", *config_dir, *scenario.words, *(f"{k}={v}" for k, v in settings.items())]

    def fresh(self, scenario: Scenario, name: str) -> Path:
        """A folder to run the scenario in."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if scenario.after and scenario.verb == "train":
            shutil.copytree(self.reference(BY_NAME[scenario.after]) / "run", folder / "run")
        return folder

    def reference(self, scenario: Scenario) -> Path:
        """The folder of an undisturbed run. Raises RuntimeError where it fails."""
        if scenario.name not in self.references:
            if scenario.after:
                self.reference(BY_NAME[scenario.after])
            folder = self.fresh(scenario, f"reference-{scenario.name.replace(' ', '-')}")
            start = time.monotonic()
            done = run_mft(self.words(scenario), folder)
            self.seconds[scenario.name] = time.monotonic() - start
            if done.code or done.hung:
                raise RuntimeError(f"{scenario.name}: exit code {done.code} {done.hung}\n{done.output}")
            self.references[scenario.name] = folder
            self.operations[scenario.name] = done.operations()
            import_all(done.imported())
        return self.references[scenario.name]

    def killed(self, scenario: Scenario) -> Path:
        """The folder of a command that was killed in the middle of its file operations."""
        folder = self.folder / f"killed-{scenario.name.replace(' ', '-')}"
        if not folder.exists():
            self.reference(scenario)
            middle = max(1, self.operations[scenario.name]["driver"] // 2)
            self.fresh(scenario, folder.name)
            self.run(scenario, folder, fault=Fault(lambda _: os.kill(os.getpid(), signal.SIGKILL), middle))
        return folder

    def run(self, scenario: Scenario, folder: Path, **faults: Any) -> Ended:
        return run_mft(self.words(scenario), folder, **faults)


def tiny_overrides_of(model: Path, data: Path) -> dict[str, object]:
    return dict(word.split("=", 1) for word in tiny_overrides(model, data))


def result(run: Path, reference: Path) -> dict[str, str]:
    """Name -> digest of what a user keeps of a run, or of the runs of a sweep or claim: exports, the last checkpoint, curves, scores,
    jobs' states."""
    kept = {}
    for folder in (run, *run.glob("seed-*"), *run.glob("runs/*")):
        name = folder.relative_to(run)
        kept |= {f"{name}/{k}".removeprefix("./"): v for k, v in result_of_run(folder, reference / name).items()}
    return kept | {"jobs": str(sorted(read_json(record)["state"] for record in run.rglob("jobs/????.json")))}


def result_of_run(run: Path, reference: Path) -> dict[str, str]:
    """Of exports of single steps, and their scores, those that the reference has: a stop by a signal saves, exports and
    evaluates one more."""
    kept = {}
    for pattern in (*COMPARED, "eval*/*/metrics.json"):
        for path in run.glob(pattern):
            name = path.relative_to(run).as_posix()
            if "-step-" not in name or (reference / name).exists():
                kept[name] = str(read_json(path)["digest"]) if path.name == "metrics.json" else file_digest(path)
    last = max(run.glob("checkpoints/step-*"), default=None)
    for path in last.glob("*.safetensors") if last else ():
        kept[path.relative_to(run).as_posix()] = file_digest(path)
    for name in ("metrics.jsonl", "samples.jsonl"):
        if (run / name).exists():
            kept[name] = repr(list(rows(run / name)))
    return kept


def rows(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(errors="replace").splitlines():
        try:
            yield {k: v for k, v in json.loads(line).items() if k not in TIMINGS}
        except (ValueError, AttributeError):  # a damaged line that a command has left
            yield {"damaged": line}


def differences(run: Path, reference: Path) -> list[str]:
    """Names of what differs from the undisturbed run's result, and temporary files that are left."""
    here, there = result(run, reference), result(reference, reference)
    differing = sorted(name for name in here | there if here.get(name) != there.get(name))
    left = [p for p in run.rglob(".*") if p.name not in (".lock", ".mft-digests.json")]
    return differing + [p.relative_to(run.parent).as_posix() for p in [*left, *run.parent.glob(".*")]]
