"""Hydra's habits: what has no effect here, what its grammar misreads, YAML that cannot be read: one sentence each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mft_cli.config import compose
from mft_cli.config.load import train_config
from mft_cli.errors import UserError
from tests.support.tiny import mft


def composed(*words: str) -> dict:
    """What `mft train WORDS` composes."""
    seen: list[dict] = []
    compose.run_with_hydra("train", list(words), seen.append)
    return seen[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/launcher=joblib"], "this launcher runs no job of mft; choose mft_local"),
        (["hydra/launcher=submitit_local"], "this launcher runs no job of mft; choose mft_local"),
        (["hydra/launcher=submitit_slurm"], "or mft_slurm (a SLURM array)"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: mft does not use hydra.run.dir; set run_dir=x"),
        (["hydra.job.name=x"], "mft does not use hydra.job.name"),
        (["hydra.job.chdir=true"], "paths are relative to the folder in which mft is started"),
        (["hydra.sweep.subdir=x"], "set run_dir='runs/${hydra:job.num}'"),
        (["hydra.output_subdir=x"], "a run folder holds its configuration in config.yaml"),
        (["method=[sft,masked_thought]"], "for a run with each of them: mft train -m method=sft,masked_thought"),
        (["seed=1,2"], "seed=1,2: several values are a sweep: add -m"),
        (["method=sft,masked_thought"], "method=sft,masked_thought: several values are a sweep: add -m"),
        (["run_dir=übung"], "run_dir=übung: Hydra takes letters beyond a to z in quotes alone"),
        (["note=lr=1e-4"], "note=lr=1e-4: Hydra reads"),
        (["seed=3", "data.sources.a.path=/x/[1]/y"], "data.sources.a.path=/x/[1]/y: Hydra reads"),
        (["run_dir=a b(c)"], "give such a text in quotes: 'run_dir=\"a b(c)\"'"),
        (["eval=[gsm8k,svamp"], "eval=[gsm8k,svamp: [ has no partner; write both"),
        (["seed=3", "method={name:sft"], "method={name:sft: { has no partner"),
        (["note='a"], "note='a: ' has no partner"),
        (["--resolve"], "--resolve: goes with --cfg job"),
        (["--experimental-rerun", "x"], "mft keeps no job files of Hydra"),
        (["--multirun=3"], "--multirun=3: --multirun takes no value"),
        (["data=null"], "data=null: expected the name of an option; choose one of chains"),
        (["eval=null"], "eval=null: expected the name of an option; write eval=none"),
        (["deepspeed="], "write deepspeed=none"),
        (["model=Qwen/Qwen3-8B"], "for a folder, file or hub id write model=local model.path=Qwen/Qwen3-8B"),
        (["data=my.jsonl"], "write data=local data.sources.local.path=my.jsonl"),
        (["train.epochs=${nowhere}"], "train.epochs: Interpolation key 'nowhere' not found"),
    ],
)  # fmt: skip
def test_words_that_hydra_would_ignore_or_misread(words: list[str], message: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        composed(*words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "++" not in str(error.value)


def test_hydras_own_values_and_merged_groups_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = composed("hydra.job.chdir=false", "hydra.run.dir=.", "eval=[gsm8k,svamp]", "~peft")
    assert set(values["eval"]["benchmarks"]) == {"gsm8k", "svamp"}


YAMLS = {
    "tabs": (
        "name: t\nsources:\n\ta: {path: x}\n",
        "tabs.yaml, line 3: not YAML that can be read: found character '\\t'",
    ),
    "twice": ("name: d\nname: e\n", "twice.yaml, line 2: not YAML that can be read: found duplicate key name"),
    "open": ("name: [a\n", "open.yaml, line 2: not YAML that can be read"),
    "itself": ("name: ${data.name}\n", "data.name: Recursive interpolation detected"),
    "wide": ("name: w\n", "wide.yaml: not YAML that can be read: 'utf-8' codec can't decode"),
    "a_set": ("name: !!set {a, b}\n", "set"),
    "a_list": ("- a\n- b\n", 'data=["a", "b"]: expected a section with the keys name'),
}


@pytest.mark.parametrize("name", YAMLS)
def test_damaged_yaml_of_ones_own_is_one_sentence_with_the_file(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, message = YAMLS[name]
    file = tmp_path / "mine" / "data" / f"{name}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-16" if name == "wide" else "utf-8")
    (tmp_path / "mine" / "data" / "good.yaml").write_text("name: good\n")
    with pytest.raises(UserError) as error:
        train_config(composed("--config-dir", "mine", f"data={name}"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 2}\n", "experiment=<name>: its YAML file has to start with the line # @package _global_"),
        ("# @package _global_\ntrain.epochs: 2\n", "in a YAML file write it as sections, train: {epochs: 2}"),
        ("# @package _global_\ntrain:\n  adam.eps: 2\n", "in a YAML file write it as sections, adam: {eps: 2}"),
    ],
)
def test_experiments_of_ones_own_get_the_true_hint(text: str, message: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine" / "experiment" / "own.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(UserError) as error:
        train_config(composed("--config-dir", "mine", "experiment=own"))
    assert message in str(error.value)


def test_interpolations_see_the_schemas_defaults_and_add_no_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = composed("method=masked_thought")
    assert "learning_rate" not in plain.get("train", {})
    words = ("train.epochs=${seed}", "note=${train.learning_rate} ${method.name} ${method.span_mean}", "train.eps=1e-7")
    values = composed("method=masked_thought", *words)
    assert values["train"] == {"epochs": 1, "eps": 1e-7}
    assert values["note"] == "2e-05 masked_thought 3.0"
    assert values["method"] == plain["method"]
    assert train_config(values).train.epochs == 1.0


def test_a_run_sees_the_words_as_they_were_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mft", "train", "seed=3"])
    seen: list[list[str]] = []
    compose.run_with_hydra("train", ["seed=3"], lambda values: seen.append(list(sys.argv)))
    assert seen == [["mft", "train", "seed=3"]]


def test_a_key_that_no_job_of_a_sweep_has_is_told_once_before_anything_starts(tmp_path: Path):
    words = ("-m", "hydra/launcher=mft_local", "method.mask_ratio=0.1,0.2,0.4", "seed=1,2,3")
    done = mft("train", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "unknown key method.mask_ratio (value 0.1); it is a key of method=masked_thought" in done.stderr
    assert "so in all 9 jobs; none was started" in done.stderr
    assert not list(tmp_path.rglob("logs"))


@pytest.mark.parametrize(
    ("verb", "word", "message"),
    [
        ("train", "mine.yaml", "a file of settings is named with --config mine.yaml"),
        ("train", "config=mine.yaml", "a file of settings is named with a flag, --config mine.yaml"),
        ("train", "--confg", "did you mean --config?"),
        ("eval", "method=sft", "method: this command has no such setting; mft train"),
    ],
)
def test_words_that_mean_a_file_or_another_command(verb: str, word: str, message: str):
    with pytest.raises(UserError) as raised:
        compose.run_with_hydra(verb, [word], lambda values: None)
    assert message in str(raised.value)
