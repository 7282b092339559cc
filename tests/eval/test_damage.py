"""Damaged files of an evaluation: what they held is made again, and told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mft_cli.errors import UserError
from mft_cli.eval import session
from mft_cli.eval.evaluate import evaluate, evaluate_run
from mft_cli.eval.journal import read_lines
from tests.support.sums import on_model, sums, write_sums

FILES = ("generations.jsonl", "scores.jsonl", "gold.jsonl", "metrics.json")
TIMES = ("seconds",)


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """A finished evaluation, and its settings."""
    folder = tmp_path_factory.mktemp("whole")
    asked = on_model(tiny_model, sums(write_sums(folder, 3)))
    evaluate(asked, folder / "eval")
    return asked, folder / "eval"


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    place = data.index(b'"id"' if b'"id"' in data else b'"n"') + 6
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES = {
    "cut": cut,
    "empty": lambda data: b"",
    "a flipped bit": flipped,
    "no text": lambda data: b"\xff\xfe\x00" * 50,
    "another type": lambda data: b"[1, 2]\n",
    "nested for ever": lambda data: b"[" * 200_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage(whole, tmp_path: Path, name: str, damage: str) -> None:
    asked, folder = whole
    torn = shutil.copytree(folder, tmp_path / "eval")
    file = torn / "sums" / name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    metrics = evaluate(asked, torn)["sums"]
    expected = json.loads((folder / "sums" / "metrics.json").read_text())
    assert {k: v for k, v in metrics.items() if k not in TIMES} == {k: v for k, v in expected.items() if k not in TIMES}
    for other in FILES[:3]:
        assert (torn / "sums" / other).read_bytes() == (folder / "sums" / other).read_bytes()


def test_what_is_damaged_is_told(whole, tmp_path: Path, capsys) -> None:
    asked, folder = whole
    torn = shutil.copytree(folder, tmp_path / "eval")
    (torn / "sums" / "scores.jsonl").write_text("{}\n")
    evaluate(asked, torn)
    assert (
        f"{torn / 'sums' / 'scores.jsonl'} is damaged or was changed: sums is scored again" in capsys.readouterr().out
    )


def test_a_record_that_lost_a_field_is_made_again(whole, tmp_path: Path, capsys) -> None:
    asked, folder = whole
    torn = shutil.copytree(folder, tmp_path / "eval")
    file = torn / "sums" / "generations.jsonl"
    lines = read_lines(file)[0]
    del lines[1]["completion"]
    lines[2]["sample"] = "zero"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluate(asked, torn)
    assert "2 damaged records are made again" in capsys.readouterr().out
    assert file.read_bytes() == (folder / "sums" / "generations.jsonl").read_bytes()


def test_a_changed_completion_is_made_again_and_told(whole, tmp_path: Path, capsys) -> None:
    """The line is a JSON object still, with all its fields."""
    asked, folder = whole
    torn = shutil.copytree(folder, tmp_path / "eval")
    file = torn / "sums" / "generations.jsonl"
    file.write_text(file.read_text().replace('"completion": "', '"completion": "A', 1))
    evaluate(asked, torn)
    printed = capsys.readouterr().out
    assert "1 damaged records are made again" in printed
    assert file.read_bytes() == (folder / "sums" / "generations.jsonl").read_bytes()


def test_the_digest_of_the_weights_is_in_the_metrics(whole) -> None:
    _, folder = whole
    model = json.loads((folder / "sums" / "metrics.json").read_text())["model"]
    assert len(model["weights_digest"]) == len(model["tokenizer_digest"]) == 16


def test_temporary_files_of_a_killed_evaluation_are_removed(whole, tmp_path: Path) -> None:
    asked, folder = whole
    torn = shutil.copytree(folder, tmp_path / "eval")
    (torn / "sums" / "metrics.json").unlink()
    (torn / "sums" / ".gold.jsonl.123.tmp").write_text("half")
    evaluate(asked, torn)
    assert not list(torn.rglob(".*.tmp"))


def test_a_model_that_is_replaced_while_it_is_evaluated_is_told(whole, tmp_path: Path, monkeypatch) -> None:
    """Its scores would be kept under the digest of the weights before."""
    asked, _ = whole
    model = shutil.copytree(asked.model.path, tmp_path / "model")

    def load_after_an_export(*arguments: object) -> object:
        for file in ("config.json", "model.safetensors"):
            (model / file).with_name("new").write_bytes((model / file).read_bytes())
            (model / "new").replace(model / file)
        return load_engine(*arguments)

    load_engine = session.load_engine
    monkeypatch.setattr(session, "load_engine", load_after_an_export)
    with pytest.raises(UserError, match="was replaced or changed while it was evaluated"):
        evaluate(replace(asked, model=replace(asked.model, path=str(model))), tmp_path / "eval")
    assert not (tmp_path / "eval" / "sums" / "metrics.json").exists()


def test_the_folder_of_a_training_is_not_overwritten(whole, tmp_path: Path) -> None:
    """Its own command would then be refused: the settings were those of the evaluation."""
    asked, _ = whole
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("method: {name: sft}\n")
    with pytest.raises(UserError, match="run holds a training run, whose settings and state would be overwritten"):
        evaluate_run(replace(asked, run_dir=str(tmp_path / "run")))
    assert (tmp_path / "run" / "config.yaml").read_text() == "method: {name: sft}\n"
