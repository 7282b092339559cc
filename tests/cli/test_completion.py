"""Tab completion: own options, lists, sweeps and paths, beside groups and keys (tests/config/test_config.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mft_cli.cli import completion
from mft_cli.cli.main import VERBS


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    for name in ("my.jsonl", "mine.yaml", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / "models" / "mine").mkdir(parents=True)

    def ask(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        completion.complete(["-sc", "query=bash"], VERBS)
        return capsys.readouterr().out.split()

    return ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mft pl", ["plan"]),
        ("mft plan gpu_", ["gpu_memory_gb="]),
        ("mft data show prog", ["progress="]),
        ("mft score sam", ["samples="]),
        ("mft score samples=", ["samples=all", "samples=min"]),
        ("mft init met", ["method="]),
        ("mft init method=mask_", ["method=mask_finetune", "method=mask_finetune_global"]),
        ("mft eval eval=[gsm8k,sva", ["eval=[gsm8k,svamp"]),
        ("mft train -m method=sft,masked_crit", ["method=sft,masked_critique", "method=sft,masked_critique_document"]),
        ("mft train model.path=mo", ["model.path=models/"]),
        ("mft train model.path=models/", ["model.path=models/mine/"]),
        ("mft train data.sources.local.path=my", ["data.sources.local.path=my.jsonl"]),
        ("mft train --config mi", ["mine.yaml"]),
        ("mft init data=./my", ["data=./my.jsonl"]),
        ("mft report mo", ["models/"]),
        ("mft compare nowhere/", []),
        ("mft doctor ", []),
        ("mft nothing x", []),
    ],
)
def test_what_the_last_word_can_become(line: str, expected: list[str], complete):
    assert complete(line) == expected


def test_a_list_does_not_offer_what_it_has(complete):
    assert "eval=[gsm8k,gsm8k" not in complete("mft eval eval=[gsm8k,gs")


def test_the_options_are_the_verbs(complete):
    for named in completion.OPTIONS:
        assert complete(f"mft {named} "), named
