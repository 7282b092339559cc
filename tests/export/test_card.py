"""The model card: what it says of a run, and what it keeps to itself."""

from __future__ import annotations

import pytest

from mft_cli.export.card import model_card, without_folders

FACTS = {
    "base_model": "/home/me/models/llama", "method": {"name": "sft", "file": "~/mine/list.txt"}, "prompt": {"name": "chat"},
    "data": {"own": {"where": "/data/secret place/rows.jsonl (train)", "digest": "0" * 64, "rows": 5}}, "derived_from": [],
    "settings_digest": "d", "step": 1, "seed": 1, "versions": {"torch": "2"},
}  # fmt: skip


def test_a_card_holds_no_absolute_path():
    card = model_card(FACTS, {})  # type: ignore[arg-type]
    assert "# llama fine-tuned with sft" in card
    assert "rows.jsonl (train)" in card
    assert not any(part in card for part in ("/home", "/data", "/mine", "~"))


@pytest.mark.parametrize(
    "text",
    [
        "openai/gsm8k (train)",
        "https://host/x/y.jsonl",
        "outputs/run/export",
        "generated:chains",
        "input/output",
        "a and/or b",
    ],
)
def test_other_names_stay(text: str):
    assert without_folders(text) == text
