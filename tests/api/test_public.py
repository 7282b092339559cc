"""`import mft_cli`: the public names, their types, and that they do what the command line does."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mft_cli
from mft_cli.config import load
from mft_cli.config.validate import to_plain
from mft_cli.errors import UserError
from tests.support.fake_runs import fake_evaluation, fake_run
from tests.support.tiny import ROOT, mft, problems, tiny_overrides


def test_the_stub_types_what_is_public():
    stub = ast.parse((ROOT / "mft_cli/__init__.pyi").read_text())
    imported = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(mft_cli.__all__)
    sources = {a.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for a in node.names}
    for name in mft_cli.__all__:
        assert getattr(mft_cli, name) is not None
        if sources[name] != "mft_cli" and name != "train":
            assert mft_cli._PUBLIC[name] == sources[name], name


def test_every_public_name_is_on_the_page():
    page = (ROOT / "docs/python.md").read_text()
    assert [name for name in mft_cli.__all__ if f"`{name}" not in page and f"mft_cli.{name}" not in page] == []


def test_importing_it_and_reading_a_configuration_import_no_torch():
    code = (
        "import sys, mft_cli; early = {'torch', 'hydra', 'pydantic'} & set(sys.modules); "
        "mft_cli.load_config('method=masked_thought'); print(sorted(early), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[] False", done.stderr


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'trian'; public are"):
        _ = mft_cli.trian  # type: ignore[attr-defined]


# ---- load_config ----------------------------------------------------------------------------------------------------


def test_words_give_what_the_command_line_gives(tmp_path: Path):
    words = ["method=masked_thought", "data=gsm8k", "method.mask_ratio=0.2", "seed=3", "prompt=alpaca"]
    shown = mft("train", *words, "--cfg", "job", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    from mft_cli.config.validate import to_yaml

    assert to_yaml(mft_cli.load_config(*words)) == shown.stdout


def test_settings_win_over_words_and_need_no_quoting(tmp_path: Path):
    folder = tmp_path / "a, b = [c]"
    config = mft_cli.load_config("seed=1", settings={"seed": 2, "run_dir": folder, "train.betas": (0.9, 0.95)})
    assert (config.seed, config.run_dir, config.train.betas) == (2, str(folder), [0.9, 0.95])


@pytest.mark.parametrize(
    ("words", "settings", "told"),
    [
        (["method=masked_thought", "method.mask_ratoi=0.2"], {}, "did you mean method.mask_ratio"),
        (["method=maskd"], {}, "maskd"),
        ([], {"train.epochs": "three"}, "train.epochs"),
        (["run_dir=hf_abcdefghijklmnopqrstuvwxyz"], {}, "HF_TOKEN"),
    ],
)
def test_a_mistake_is_a_user_error_that_names_the_key(words: list[str], settings: dict[str, object], told: str):
    with pytest.raises(UserError, match=told):
        mft_cli.load_config(*words, settings=settings)


def test_a_verb_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"verb='tran'.*expected one of train, eval, score"):
        mft_cli.load_config(verb="tran")  # type: ignore[call-overload]


def test_a_setting_without_effect_is_warned_of():
    with pytest.warns(UserWarning, match=r"method\.span_mean"):
        mft_cli.load_config("method=masked_thought", "method.span_mean=5")


def test_folders_of_ones_own_yaml_files(tmp_path: Path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mild.yaml").write_text("name: masked_thought\nmask_ratio: 0.05\n")
    config = mft_cli.load_config("method=mild", config_dirs=[tmp_path])
    assert to_plain(config.method)["mask_ratio"] == 0.05


# ---- train, scores, score, compare ----------------------------------------------------------------------------------


def test_training_is_the_commands(tmp_path: Path, tiny_model: Path, problem_file: Path):
    overrides = [*tiny_overrides(tiny_model, problem_file), "train.max_steps=2", "eval=none"]
    done = mft("train", *overrides, f"run_dir={tmp_path / 'command'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = mft_cli.train(mft_cli.load_config(*overrides, f"run_dir={tmp_path / 'python'}"))
    assert folder == tmp_path / "python"
    weights = "export/model.safetensors"
    assert (folder / weights).read_bytes() == (tmp_path / "command" / weights).read_bytes()


def completions(file: Path, right: int) -> Path:
    rows = [
        {"id": str(i), "completion": f"#### {i if i < right else -1}", "gold": str(i)}
        for i, _ in enumerate(problems(20))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_score_and_scores(tmp_path: Path):
    config = mft_cli.load_config("eval=gsm8k", verb="score")
    metrics = mft_cli.score(completions(tmp_path / "mine.jsonl", 15), config, tmp_path / "run/eval/gsm8k")
    assert (metrics["n"], metrics["accuracy"]) == (20, 0.75)
    assert mft_cli.scores(tmp_path / "run") == {"gsm8k": metrics}
    with pytest.raises(UserError, match="no evaluation has finished there"):
        mft_cli.scores(tmp_path / "run", "eval-best")
    (tmp_path / "run/eval/gsm8k/scores.jsonl").write_text("")
    with pytest.raises(UserError, match="damaged or was changed"):
        mft_cli.scores(tmp_path / "run")


def test_score_takes_one_benchmark(tmp_path: Path):
    config = load.unchecked_eval_config({})
    with pytest.raises(UserError, match="one benchmark, eval=<name>; there are 0"):
        mft_cli.score(completions(tmp_path / "mine.jsonl", 3), config, tmp_path / "scores")


def test_compare_gives_the_reports_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = [fake_run(tmp_path / "plain"), fake_run(tmp_path / "masked", method="masked_thought")]
    for run, right in zip(runs, (8, 12), strict=True):
        fake_evaluation(run, correct=range(right), n=20)
    (pair,) = mft_cli.compare(*runs, out=tmp_path / "out").pairs
    assert (pair.first, pair.second, pair.difference) == ("plain", "masked", pytest.approx(0.2))
    assert "difference" in capsys.readouterr().out
    assert (tmp_path / "out/report.html").is_file()
