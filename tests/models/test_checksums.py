"""SHA256SUMS of an export: sha256sum agrees with it, and damage is told before a model is used."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.errors import UserError
from mft_cli.models.checksums import SUMS, damage, digest, write_sums
from mft_cli.models.folder import open_model


@pytest.fixture
def export(tiny_model: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_model, tmp_path / "export")
    (folder / "head").mkdir()
    (folder / "head" / "config.json").write_text("{}")
    (folder / "README.md").write_text("the card")
    write_sums(folder)
    return folder


def test_sha256sum_agrees(export):
    done = subprocess.run(["sha256sum", "--strict", "-c", SUMS], cwd=export, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "head/config.json: OK" in done.stdout
    assert damage(export) is None
    (export / "README.md").write_text("the card, with scores")
    assert damage(export) is None


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("model.safetensors", b"?", "model.safetensors is not as it was exported"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("head/config.json", b"{ }", "head/config.json is not as it was exported"),
        ("more.safetensors", b"", "more.safetensors is not in SHA256SUMS"),
        (SUMS, b"", "SHA256SUMS is damaged"),
        (SUMS, b"\xff\xff", "SHA256SUMS is damaged"),
        (SUMS, b"0123  model.safetensors\n", "SHA256SUMS is damaged"),
    ],
)
def test_what_is_damaged_is_named(export, name, content, problem):
    if content is None:
        (export / name).unlink()
    else:
        (export / name).write_bytes(content)
    assert damage(export) == problem
    with pytest.raises(UserError, match=f"model.path={export}: {problem}: damaged or changed"):
        open_model(ModelConfig(path=str(export)))


def test_without_sums_a_folder_is_taken_as_it_is(export):
    (export / SUMS).unlink()
    (export / "tokenizer_config.json").write_text("{}")
    assert damage(export) is None


@pytest.mark.parametrize(
    "stored", ["", "{half", "[1]", '{"model.safetensors": 5}', '{"model.safetensors": [1, 2, "x"]}']
)
def test_damaged_remembered_digests_are_made_again(export, stored):
    whole = digest(export / "model.safetensors")
    (export / ".mft-digests.json").write_text(stored)
    assert digest(export / "model.safetensors") == whole
