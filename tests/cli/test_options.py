"""Verbs' own options: one mechanism, told before torch, and never called a configuration key."""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Any

import pytest
from pydantic.dataclasses import dataclass

from mft_cli.cli import data, generate, mask, report, score, sweep
from mft_cli.cli import eval as eval_verb
from mft_cli.cli.main import do
from mft_cli.cli.options import print_only, read_options
from mft_cli.config.schema.base import STRICT, AtLeastOne, key
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.validate import expected, hints, names
from mft_cli.critique.run import critique_folder
from mft_cli.errors import UserError
from mft_cli.eval.evaluate import eval_folder
from mft_cli.plan.settings import PlanOptions
from mft_cli.train.settings import run_folder
from tests.support.tiny import mft


@dataclass(config=STRICT, frozen=True)
class Options:
    rows: AtLeastOne = key(3, "Rows.")
    out: Path | None = key(None, "A file.")


def test_options_are_typed_and_the_rest_is_kept_in_order():
    options, rest = read_options(
        Options, "verb", ["data=gsm8k", "rows=5", "seed=3", "a question: rows=7?"], TrainConfig
    )
    assert (options.rows, options.out) == (5, None)
    assert rest == ["data=gsm8k", "seed=3", "a question: rows=7?"]
    assert read_options(Options, "verb", ["rows=5", "out=a/b", "rows=6"])[0] == Options(rows=6, out=Path("a/b"))


def test_a_folder_below_the_home_is_meant_as_the_shell_would(monkeypatch: pytest.MonkeyPatch):
    """Which leaves the ~ in run_dir=~/x as it is: a folder of that name was made here, and its export was not found there."""
    monkeypatch.setenv("HOME", "/h")
    asked: Any = types.SimpleNamespace(run_dir="~/x")
    assert {run_folder(asked), eval_folder(asked), critique_folder(asked)} == {Path("/h/x")}
    assert read_options(Options, "verb", ["out=~/x"])[0].out == Path("/h/x")


def test_keys_of_the_configuration_and_names_of_other_tools_are_left_to_the_schema():
    words = ["row=2"]
    with pytest.raises(UserError, match=r"mft verb has no option row \(value 2\); did you mean rows=2\?"):
        read_options(Options, "verb", words, TrainConfig)
    for word in ("lr=1", "seed=1", "epochs=2", "model=x", "method.rows=3", "batch_size=4"):
        assert read_options(Options, "verb", [word], TrainConfig)[1] == [word]


def test_the_beginning_of_an_option_is_not_another_sections_key():
    with pytest.raises(
        UserError, match=r"mft plan has no option gpu_memory \(value 40\); did you mean gpu_memory_gb=40\?"
    ):
        read_options(PlanOptions, "plan", ["gpu_memory=40"], TrainConfig)
    assert read_options(PlanOptions, "plan", ["eval.gpu_memory=0.5", "data=gsm8k"], TrainConfig)[1] != []


def test_what_cfg_prints():
    assert print_only(["--cfg", "job"])
    assert print_only(["--cfg=job", "seed=1"])
    assert not print_only(["--cfg", "job", "-p", "method"])
    assert not print_only(["--cfg", "hydra"])
    assert not print_only(["seed=1"])
    with pytest.raises(UserError, match=r"--cfg jobs: expected job \(the settings\), hydra \(Hydra's own\) or all"):
        print_only(["--cfg", "jobs"])


def test_without_a_configuration_a_word_is_an_option_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=1").mkdir()
    assert read_options(Options, "verb", ["lr=1"])[1] == ["lr=1"]
    with pytest.raises(UserError, match=r"has no option lr \(value 2\); its options are rows=, out="):
        read_options(Options, "verb", ["lr=2"])
    with pytest.raises(UserError, match="has no flag --out=x; its options are"):
        read_options(Options, "verb", ["--out=x"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "temperature=nan", "a?"], "temperature=nan: expected a number, 0 or more"),
        (["generate", "temperature=inf", "a?"], "temperature=inf: expected a number"),
        (["generate", "top_p=0", "a?"], "top_p=0: expected a number, above 0 and at most 1"),
        (["generate", "samples=0", "a?"], "samples=0: expected a whole number, 1 or more"),
        (["generate", "decode=plian", "a?"], "decode=plian: expected one of plain, verify, refine, or null; did you mean plain?"),
        (["generate", "max_new_token=5", "a?"], "did you mean max_new_tokens=5?"),
        (["data", "show", "rows=-1"], "rows=-1: expected a whole number, 0 or more"),
        (["data", "show", "progress=nan"], "progress=nan: expected a number from 0 to 1"),
        (["data", "show", "epoch=1.5"], "epoch=1.5: expected a whole number"),
        (["init", "model.path=x"], "mft init has no option model.path (value x); did you mean model=x?"),
        (["report", "run.dir=x"], "mft report has no option run.dir (value x); its options are out=, baseline="),
        (["data", "check", "sho=4"], "mft data check has no option sho (value 4); did you mean show=4?"),
        (["plan", "gpu=8"], "mft plan has no option gpu (value 8); did you mean gpus=8?"),
        (["plan", "gpus=1e22"], "gpus=1e22: expected a whole number from 1 to 65,536"),
        (["plan", "mfu=0"], "mfu=0: expected a number, above 0 and at most 1"),
        (["analyze", "landscape", "reach=inf"], "reach=inf: expected a number, above 0"),
        (["score", "eval=gsm8k"], "mft score needs generations=; see mft score --help"),
        (["report", "--out=x", "."], "mft report has no flag --out=x; its options are out="),
        (["mask", "inspect", "x", "ot=y"], "mft mask has no option ot (value y); did you mean out=y?"),
        (["sweep", "retry", "x", "jobs=0"], "jobs=0: expected a whole number from 1 to 65,536"),
        (["sweep", "status", "x", "jobs=2"], "mft sweep status has no option jobs (value 2); it has no options"),
        (["eval", "list", "json=perhaps"], "json=perhaps: expected true or false"),
    ],
)  # fmt: skip
def test_mistakes_in_options_are_one_sentence_before_torch(words: list[str], message: str, tmp_path: Path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    done = mft(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "key" not in done.stderr


OPTIONS = [
    data.ShowOptions, data.CheckOptions, generate.Options, mask.Options, report.Options, score.Options,
    eval_verb.ListOptions, *sweep.OPTIONS.values(),
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_has_a_type_in_words(options: type):
    for name in names(options):
        assert expected(hints(options)[name]) != "any value", name


def test_a_working_folder_that_was_deleted_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    def gone() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    with pytest.raises(UserError, match="has been deleted: change to another one"):
        do("eval", ["list"])
