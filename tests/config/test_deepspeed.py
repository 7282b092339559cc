"""What mft adds to a DeepSpeed configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mft_cli.config import schema
from mft_cli.config.deepspeed import check, ds_config, given
from mft_cli.errors import UserError


def made(precision: str, **values: Any) -> dict[str, Any]:
    config = schema.DeepspeedConfig(config={"zero_optimization": {"stage": 2}, **values})
    document = ds_config(config, schema.TrainingConfig(), None, precision, world=8)
    assert document is not None
    return document


@pytest.mark.parametrize(("precision", "summed_in"), [("bf16", "fp32"), ("fp16", None), ("fp32", None)])
def test_bf16_gradients_are_summed_over_ranks_in_fp32(precision: str, summed_in: str | None) -> None:
    """In bf16 every rank's addition would round (0.8 % at 64 ranks). fp16 has a loss scale for its range, and more digits."""
    assert made(precision).get("communication_data_type") == summed_in


def test_what_a_file_says_of_the_sum_stays() -> None:
    assert made("bf16", communication_data_type="bf16")["communication_data_type"] == "bf16"


def test_a_secret_in_a_file_of_ones_own_is_refused(tmp_path: Path) -> None:
    """run.json would keep it, with the rest of the file."""
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"comet": {"enabled": True, "api_key": "ThisIsASecret"}}))
    with pytest.raises(UserError, match=r"ds\.json: comet\.api_key=<hidden>") as raised:
        given(schema.DeepspeedConfig(config_file=str(file)))
    assert "ThisIsASecret" not in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, ""])
def test_a_damaged_file_of_ones_own_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "ds.json").write_text(text)
    with pytest.raises(UserError, match=r"deepspeed\.config_file="):
        given(schema.DeepspeedConfig(config_file=str(tmp_path / "ds.json")))


def test_a_section_that_is_null_lacks_its_stage() -> None:
    config = schema.DeepspeedConfig(name="own", config={"zero_optimization": None})
    with pytest.raises(UserError, match=r"zero_optimization\.stage is missing"):
        check(config, schema.TrainingConfig(), compiled=False)
