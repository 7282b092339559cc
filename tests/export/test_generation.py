"""generation_config.json of an export: the base's end tokens stay, and what cannot be saved is known before step 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from mft_cli.errors import UserError
from mft_cli.export.generation import generation_settings


class Stub:
    def __init__(self, **settings: Any):
        self.generation_config = GenerationConfig(**settings)
        self.pad_token_id = 7


@pytest.mark.parametrize(
    ("base", "prompt", "ends"), [([1, 4], [1], [1, 4]), ([1, 4], [2], [1, 2, 4]), (1, [1], 1), (None, [3], 3), (2, [2, 5], [2, 5])]
)  # fmt: skip
def test_end_tokens_of_base_and_prompt(base: Any, prompt: list[int], ends: Any):
    stub: Any = Stub(eos_token_id=base)
    settings = generation_settings(stub, stub, prompt)
    assert settings.eos_token_id == ends
    assert settings.pad_token_id == 7
    assert stub.generation_config.eos_token_id == base, "a copy"


def test_sampling_settings_without_sampling_can_be_saved(tmp_path: Path):
    stub: Any = Stub(eos_token_id=2, pad_token_id=0, temperature=0.9, top_p=0.6)
    with pytest.raises(ValueError, match="temperature"):
        stub.generation_config.save_pretrained(str(tmp_path))
    settings = generation_settings(stub, stub, [2])
    settings.save_pretrained(str(tmp_path))
    assert (settings.do_sample, settings.temperature, settings.top_p, settings.pad_token_id) == (True, 0.9, 0.6, 0)


def test_what_cannot_be_saved_is_told(monkeypatch: pytest.MonkeyPatch):
    def refuse(self: GenerationConfig, strict: bool = False) -> None:
        raise ValueError("no such beams\nat all")

    stub: Any = Stub(eos_token_id=2)
    monkeypatch.setattr(GenerationConfig, "validate", refuse)
    with pytest.raises(UserError, match=r"generation_config\.json cannot be saved with an export \(no such beams"):
        generation_settings(stub, stub, [2])
