"""A method is one file, a class of keys, a YAML and a name in the registry: nothing else knows any method by name."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mft_cli.config.schema.methods import method_classes
from tests.support.tiny import ROOT, tiny_overrides

# A second forward pass over the clean rows, in front of the training's own; the labels that it predicts well are dropped.
METHOD = '''
"""Labels of which the model is sure are not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from mft_cli.data.pack import IGNORE, Batch
from mft_cli.methods.base import Corrupted, Losses, Method, label_count, model_inputs
from mft_cli.methods.cost import ExtraPass
from mft_cli.models.kernels.cross_entropy import hidden_states
from mft_cli.rng import Draw, bernoulli


class LabelDrop(Method):
    drops_labels = True

    def corrupt(self, batch: Batch, progress: float, draw: Draw) -> Corrupted:
        kept = batch.labels != IGNORE
        dropped = kept & bernoulli(draw("label_drop", batch.epoch, batch.example, batch.positions), self.config.mask_ratio)
        corrupted = replace(batch, labels=torch.where(dropped, IGNORE, batch.labels))
        return Corrupted(corrupted, {"ce": label_count(corrupted)}, {"masked_share": (int(dropped.sum()), int(kept.sum()))})

    def extra_passes(self, label_share: float, ratios: Sequence[float | None]) -> tuple[ExtraPass, ...]:
        return (ExtraPass("first look"),)

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        with torch.no_grad():
            size = hidden_states(model, **model_inputs(batch)).norm(dim=-1)[batch.real].sum()
        losses = super().loss(model, batch)
        return Losses(losses.sums, {**losses.metrics, "first_look": (size, "ce")})
'''
KEYS = '''
@dataclass(config=STRICT)
class LabelDropConfig(MethodConfig):
    """Labels of random response tokens are not trained on."""

    implementation: ClassVar[str] = "mft_cli.methods.label_drop:LabelDrop"
    monitors: ClassVar[tuple[Monitor, ...]] = (Monitor("first-look", "First look", "norm", "first_look"),)
    name: Literal["label_drop"] = key("label_drop", "The method's name.")
    mask_ratio: Fraction = key(0.2, "Fraction of the labels that is not trained on.")

    def check(self, model: ModelConfig) -> None:
        if self.mask_ratio == 1:
            raise UserError("method.mask_ratio=1 leaves no label; set it below 1")


'''


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one more method, as someone would add it."""
    root = tmp_path_factory.mktemp("house")
    for folder in ("mft_cli", "conf"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "mft_cli/methods/label_drop.py").write_text(METHOD.lstrip())
    keys = root / "mft_cli/config/schema/methods.py"
    text = keys.read_text().replace("AnyMethod = ", KEYS.lstrip() + "AnyMethod = ", 1)
    keys.write_text(text.replace("    SftConfig | ", "    SftConfig | LabelDropConfig | ", 1))
    (root / "mine/method").mkdir(parents=True)
    (root / "mine/method/label_drop.yaml").write_text("name: label_drop\n")
    return root


def mft(house: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mft_cli", *arguments, "method=label_drop", "--config-dir", str(house / "mine")],
        cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(house)},
    )  # fmt: skip


def test_it_trains_is_shown_planned_and_reported(house: Path, tmp_path: Path, tiny_model: Path, problem_file: Path):
    overrides = tiny_overrides(tiny_model, problem_file)
    done = mft(house, tmp_path, "train", *overrides, "train.max_steps=2", "run_dir=run", "eval=none")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert len(steps) == 2
    assert all(0.1 < step["masked_share"] < 0.3 and step["first_look"] > 0 for step in steps)
    shown = mft(house, tmp_path, "data", "show", *overrides, "rows=1")
    assert shown.returncode == 0, shown.stderr
    assert "label dropped" in shown.stdout
    planned = mft(house, tmp_path, "plan", *overrides, "json=true")
    assert planned.returncode == 0, planned.stderr
    work = json.loads(planned.stdout)["work"]
    (extra,) = work["extra"]
    assert extra["name"] == "first look"
    assert work["flops"] == pytest.approx(work["tokens"] * (work["flops_per_token"] + extra["flops_per_token"]))
    code = "from mft_cli.report.render.plots import CURVES; print([c.field for c in CURVES])"
    listed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(house)},
    )  # fmt: skip
    assert "first_look" in listed.stdout


def test_its_own_check_of_its_keys_is_asked(house: Path, tmp_path: Path, tiny_model: Path, problem_file: Path):
    done = mft(house, tmp_path, "train", *tiny_overrides(tiny_model, problem_file), "method.mask_ratio=1.0")
    assert done.returncode == 2
    assert "method.mask_ratio=1 leaves no label" in done.stderr


# ---- nobody else knows their names ----------------------------------------------------------------------------------

PLACES = ("mft_cli/methods/", "mft_cli/config/schema/methods.py", "mft_cli/__init__.py")  # the last: public names


def names_of_methods() -> list[str]:
    """chunk_refine, ChunkRefine, ChunkRefineConfig, ...; sft is a word of the field and has no special code."""
    names = [str(cls.name) for cls in method_classes() if cls.name != "sft"]
    return [*names, *(cls.implementation.split(":")[1] for cls in method_classes() if cls.name in names)]


def code_words(path: Path) -> Iterator[tuple[int, str]]:
    """Identifiers, imports and constants without a blank: prose, such as a verb's help, may name a method."""
    for node in ast.walk(ast.parse(path.read_text())):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name):
            yield line, node.id
        elif isinstance(node, ast.Attribute):
            yield line, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((line, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield line, node.value


def test_no_other_module_knows_a_method_by_name():
    names = names_of_methods()
    assert len(names) == 8
    for path in sorted((ROOT / "mft_cli").rglob("*.py")):
        if str(path.relative_to(ROOT)).startswith(PLACES):
            continue
        for line, word in code_words(path):
            assert not any(name in word for name in names), f"{path}:{line}: {word}"
