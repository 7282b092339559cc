"""What a user does wrong with `mft eval`: exit code 2 and one sentence, nothing of a traceback."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mft_cli.cli.eval import main as eval_verb
from mft_cli.cli.main import run
from mft_cli.errors import EXIT_USER
from tests.support.tiny import ROOT


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def half_written(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_facts(folder: Path) -> None:
    (folder / "mft.json").write_text('{"derived_from": [')


def one_shard_missing(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def nothing(folder: Path) -> None:
    pass


def adapter_without_settings(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_model.safetensors").touch()


HF = "eval.engine=hf"
API = ["eval.engine=api", "eval.api.base_url=http://127.0.0.1:9/v1"]


@pytest.mark.parametrize(
    ("damage", "arguments", "says"),
    [
        (nothing, ["model.path={here}/nowhere", HF], "no such file or folder"),
        (nothing, ["model.path={here}", HF], "without config.json is not a model"),
        (adapter_without_settings, [HF], "a folder without adapter_config.json is not a model"),
        (half_written, [HF], "cut off or damaged"),
        (no_weights, [HF], "no .safetensors file"),
        (one_shard_missing, [HF], "model-2.safetensors is missing"),
        (half_facts, [HF], "half-written export"),
        (nothing, ["eval=gsm9k"], "eval=gsm9k: no such benchmark"),
        (nothing, ["gsm8k"], "'gsm8k' is not a setting: expected key=value"),
        (nothing, ["eval.max_model_len=4096", HF], "but the model has 512 positions"),
        (nothing, ["eval=none", HF], "no benchmark"),
        (nothing, ["eval.benchmarks.gsm8k.source.path={here}/none.jsonl", HF], "none.jsonl: no such file"),
        (nothing, ["eval.engine=hf", "eval.tensor_parallel=2"], "needs eval.engine=vllm"),
        (nothing, ["eval.engine=api"], "eval.api.base_url is empty"),
        (nothing, [*API, "eval.api.model=m", "eval.api.key_env=sk-1234-secret"], "NAME of an environment variable"),
        (nothing, [*API, "eval.api.model=m", "eval.replicas=2"], "eval.api.concurrency"),
    ],
)
def test_one_sentence_and_exit_code_2(model, tmp_path, capsys, monkeypatch, damage, arguments, says) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MFT_DATA_DIR", raising=False)
    rows = [{"question": f"{i} + 1", "answer": f"#### {i + 1}"} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    damage(model)
    given = [a.format(here=tmp_path) for a in arguments]
    chosen = [] if any(a.startswith("eval=") for a in given) else ["eval=gsm8k"]
    if chosen and not any("source.path" in a for a in given):
        chosen += [f"eval.benchmarks.gsm8k.source.path={tmp_path}/rows.jsonl"]
        chosen += ["eval.benchmarks.gsm8k.source.local=[]"]
    path = [] if any(a.startswith("model.path") for a in given) else [f"model.path={model}"]
    code = run(lambda: eval_verb([*path, *chosen, *given, f"run_dir={tmp_path}/run"]))
    error = capsys.readouterr().err
    assert code == EXIT_USER
    assert says in error
    told = [line for line in error.splitlines() if not line.startswith("warning: ")]  # of settings without an effect
    assert len(told) == 1
    assert told[0].startswith("mft: ")
    assert "secret" not in error


def test_told_before_torch_is_imported(model: Path, tmp_path: Path) -> None:
    half = shutil.copytree(model, tmp_path / "half")
    half_written(half)
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1", "answer": "#### 2"}\n' * 3)
    few = [f"eval.benchmarks.gsm8k.source.path={tmp_path}/rows.jsonl", "eval.benchmarks.gsm8k.limit=4"]
    offline = "Idavidrein/gpqa: is not in the hub's cache, and HF_HUB_OFFLINE is set"
    asked = (
        (["eval", "eval=gsm8k", f"model.path={half}"], "cut off or damaged"),
        (["eval", "eval=gsm8k", f"model.path={tmp_path}/empty"], "without config.json is not a model"),
        (["eval", "eval=gsm8k", f"model.path={model}/config.json"], "is a file; name the folder"),
        (["eval", "eval=gsm8k", f"model.path={model}", *few], "limit=4: there are only 3 problems"),
        (["eval", "eval=gpqa_diamond", f"model.path={model}"], offline),
        (["train", "eval=gpqa_diamond", f"model.path={model}"], offline),
    )
    for arguments, says in asked:
        command = [sys.executable, "-X", "importtime", "-m", "mft_cli", *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(tmp_path), "MFT_DATA_DIR": ""},
        )
        assert done.returncode == EXIT_USER
        assert says in done.stderr
        assert not re.search(r"\|\s+torch$", done.stderr, re.MULTILINE), arguments


def test_list_refuses_what_it_does_not_know(capsys) -> None:
    assert run(lambda: eval_verb(["list", "gsm8k"])) == EXIT_USER
    assert "not gsm8k" in capsys.readouterr().err
