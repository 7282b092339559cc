"""--config FILE: lines are words of the command line, words win over it, a run's config.yaml is one, mistakes are a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mft_cli.config.compose import run_with_hydra
from mft_cli.config.load import eval_config, train_config
from mft_cli.config.schema import TrainConfig
from mft_cli.config.validate import to_yaml
from mft_cli.errors import UserError

MINE = """
method: masked_thought
method.mask_ratio: 0.3
eval: [gsm8k, svamp]
eval.limit: 10
data:
  name: mine
  sources: {mine: {path: "generated:gsm_symbolic", rows: 8}}
data.max_length: 512
train: {learning_rate: 1e-4, epochs: 2}
note: lr ${train.learning_rate}, seed ${seed}
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(MINE)
    return str(tmp_path / "mine.yaml")


def composed(*words: str) -> TrainConfig:
    configs: list[TrainConfig] = []
    run_with_hydra("train", list(words), lambda values: configs.append(train_config(values)))
    return configs[0]


def test_a_line_is_a_word_of_the_command_line(mine: str):
    config = composed("--config", mine)
    words = ["method=masked_thought", "method.mask_ratio=0.3", "eval=[gsm8k,svamp]", "eval.limit=10", "data=local",
             "data.max_length=512", "train.learning_rate=1e-4", "train.epochs=2", "data.name=mine", "note='lr 0.0001, seed 1'",
             "~data.sources.local", "+data.sources.mine={path: generated:gsm_symbolic, rows: 8}"]  # fmt: skip
    assert config == composed(*words)
    assert list(config.data.sources) == ["mine"], "the default preset's rows are not mixed in"


def test_words_win_and_a_chosen_group_replaces_the_files_section(mine: str):
    config = composed("--config", mine, "data=gsm8k", "method=sft", "train.epochs=5", "seed=4")
    assert (list(config.data.sources), config.method.name, config.train.epochs) == (["gsm8k"], "sft", 5)
    assert config.train.learning_rate == 1e-4
    assert config.note == "lr 0.0001, seed 4"


def test_a_runs_own_configuration_gives_it_again(mine: str, tmp_path: Path):
    config = composed("--config", mine)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(config))
    assert composed(f"--config={tmp_path}/run/config.yaml") == config
    assert composed("--config", f"{tmp_path}/run") == config


def test_sweeps_and_evaluations_take_it(mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seeds = []
    words = ["-m", "--config", mine, "seed=1,2", f"hydra.sweep.dir={tmp_path}"]
    run_with_hydra("train", words, lambda values: seeds.append(train_config(values).seed))
    assert seeds == [1, 2]
    (tmp_path / "eval.yaml").write_text("model.path: some/model\neval: gsm8k\neval.limit: 3\n")
    limits = []
    run_with_hydra(
        "eval", ["--config", str(tmp_path / "eval.yaml")], lambda v: limits.append(eval_config(v).eval.limit)
    )
    assert limits == [3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2: not YAML that can be read: found duplicate key a"),
        ("train:\n\tepochs: 1\n", "indent with blanks"),
        ("- 1\n", "expected lines of the form key: value"),
        ("a: &x [*x]\n", "refers to itself"),
        ("a: !!set {b}\n", "not settings that can be read"),
        ("defaults: [x]\n", "defaults is Hydra's"),
        ("hydra/launcher: mft_local\n", "hydra/launcher is Hydra's"),
        ("train: 1\ntrain.epochs: 2\n", "train.epochs and train contradict each other"),
        ("train: {epochs: 1}\ntrain.epochs: 2\n", "train.epochs is set twice"),
        ("data: my.jsonl\n", "data=local data.sources.local.path=my.jsonl"),
        ("method: masked_thuoght\n", "did you mean masked_thought?"),
        ("lr: 2\n", "did you mean train.learning_rate?"),
        ("train.epochs: many\n", "train.epochs=\"many\": expected a number"),
    ],
)  # fmt: skip
def test_mistakes_in_it_are_one_sentence(text: str, message: str, tmp_path: Path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        composed("--config", str(tmp_path / "x.yaml"))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path):
    (tmp_path / "x.yaml").write_text("seed: 1\n", encoding="utf-16")
    for words, message in (
        (["--config", str(tmp_path / "x.yaml")], "save it as UTF-8"),
        (["--config", str(tmp_path / "y.yaml")], "no such file; mft init writes one"),
        (["--config"], "expected a YAML file after it"),
        (["--config", "a", "--config=b"], "is given 2 times"),
    ):
        with pytest.raises(UserError, match=message):
            composed(*words)


def test_what_is_recorded_is_what_was_typed(mine: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["mft", "train", "--config", mine])
    seen = []
    run_with_hydra("train", ["--config", mine], lambda values: seen.append(list(sys.argv)))
    assert seen == [["mft", "train", "--config", mine]]
