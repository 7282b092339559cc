"""mft init: the file it writes is what its options say, it trains, and mistakes are told before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.cli import init
from mft_cli.config.compose import CONF, run_with_hydra
from mft_cli.config.load import train_config
from mft_cli.config.schema import TrainConfig
from mft_cli.errors import UserError
from tests.support.tiny import mft, problems


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(*words: str) -> TrainConfig:
    init.main(list(words))
    file = next((w.removeprefix("out=") for w in words if w.startswith("out=")), "mft.yaml")
    configs: list[TrainConfig] = []
    run_with_hydra("train", ["--config", file], lambda values: configs.append(train_config(values)))
    return configs[0]


def rows(file: Path, forms: list[dict[str, object]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in forms))
    return str(file)


def test_what_was_asked_for_and_detected_is_in_the_file(folder: Path):
    data = rows(folder / "sums.jsonl", [{"instruction": "Add", "input": "1, 2", "output": "3" * 700}] * 120)
    config = written(f"data={data}", "method=masked_thought", "eval=gsm8k,svamp", "model=some/model", "out=a/mine.yaml")
    source = config.data.sources["sums"]
    assert (source.question, source.response, source.layout) == ("instruction+input", "output", "question_response")
    assert (config.method.name, config.model.path, config.data.name) == ("masked_thought", "some/model", "sums")
    assert sorted(config.eval.benchmarks) == ["gsm8k", "svamp"]
    assert config.data.max_length == 512  # 707 characters, of 2.5 to a token, in steps of 256
    assert config.data.validation.fraction == 0.05


def test_conversations_and_named_fields(folder: Path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    data = rows(folder / "chat.jsonl", [{"messages": turns}])
    assert written(f"data={data}").data.sources["chat"].layout == "messages"
    data = rows(folder / "fragen.jsonl", [{"Frage": "Hm?", "Antwort": "Ja."}])
    source = written(f"data={data}", "question=Frage", "response=Antwort", "out=b.yaml").data.sources["fragen"]
    assert (source.question, source.response) == ("Frage", "Antwort")


@pytest.mark.parametrize("method", sorted(p.stem for p in (CONF / "method").glob("*.yaml")))
def test_a_commented_key_changes_nothing_when_it_becomes_active(method: str, folder: Path):
    text = init.method_lines(method)
    keys = [line.removeprefix("# ") for line in text.splitlines()]
    (folder / "as_is.yaml").write_text(text)
    (folder / "active.yaml").write_text("\n".join(keys))
    values: list[dict] = []
    for file in ("as_is", "active"):
        layers = ["method.layers=all"] if "mask_finetune" in method else []
        run_with_hydra("train", ["--config", f"{file}.yaml", *layers], lambda v: values.append(train_config(v).method))
    assert values[0] == values[1]


def test_the_often_changed_keys_stand_with_their_defaults(folder: Path):
    (folder / "as_is.yaml").write_text("seed: 1\n")
    (folder / "active.yaml").write_text(init.common_lines().replace("# ", "", 1).replace("\n# ", "\n"))
    configs: list[TrainConfig] = []
    for file in ("as_is", "active"):
        run_with_hydra("train", ["--config", f"{file}.yaml"], lambda values: configs.append(train_config(values)))
    assert configs[0] == configs[1]


def test_what_is_still_missing_is_told(capsys: pytest.CaptureFixture[str]):
    init.main(["method=mask_finetune"])
    assert "before it can train: method.layers is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=nope.jsonl"], "data=nope.jsonl: expected a file or folder that is here, a hub id"),
        (["data=gsm9k"], "did you mean gsm8k?"),
        (["method=masked_thuoght"], "did you mean masked_thought?"),
        (["eval=gsm9k"], "did you mean gsm8k?"),
        (["model=/nowhere"], "no such file or folder"),
        (["lr=1"], "mft init has no option lr"),
        (["mine.jsonl"], "takes key=value words"),
        (["data=other.jsonl"], "is none of the usual forms; fields: Frage, Antwort"),
    ],
)
def test_mistakes_write_nothing(words: list[str], message: str, folder: Path):
    rows(folder / "other.jsonl", [{"Frage": "Hm?", "Antwort": "Ja."}])
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        init.main(words)
    assert not (folder / "mft.yaml").exists()


def test_a_file_that_is_there_stays(folder: Path):
    (folder / "mft.yaml").write_text("seed: 3\n")
    with pytest.raises(UserError, match=r"out=mft\.yaml exists"):
        init.main([])
    assert (folder / "mft.yaml").read_text() == "seed: 3\n"


def test_it_trains_as_written(folder: Path, tiny_model: Path):
    data = rows(folder / "my.jsonl", list(problems(16)))
    assert mft("init", f"data={data}", f"model={tiny_model}", "method=masked_thought", cwd=folder).returncode == 0
    words = ["train.max_steps=1", "train.global_batch_size=2", "launch.threads=1", "run_dir=run"]
    done = mft("train", "--config", "mft.yaml", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    again = mft("train", "--config", "run/config.yaml", cwd=folder)
    assert "run is done" in again.stdout + again.stderr
