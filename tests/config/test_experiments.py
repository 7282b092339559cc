"""Every preset of conf/experiment composes, encodes a row of each of its sources, and trains two steps on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mft_cli.config.compose import CONF, run_with_hydra
from mft_cli.config.load import train_config
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.validate import build
from mft_cli.errors import UserError
from mft_cli.train.run import train
from tests.support.tiny import critiques

PRESETS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml") if p.stem != "none")
NEEDS_AN_EXPORT = "mask_finetune"  # its masks start from a fine-tuned model
SMALL_HEAD = {"width": 32, "heads": 4, "layers": 1, "max_steps": 2}


def composed(*overrides: str) -> dict[str, Any]:
    """What `mft train` composes, as plain values."""
    values: list[dict[str, Any]] = []
    run_with_hydra("train", list(overrides), values.append)
    return values[0]


def source_rows(source: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows with the fields that a source names, as its public files have them."""
    rows = []
    for i in range(24):
        question, response = f"What is {i} + 2? Say why.", f"{i} + 2 = <<{i}+2={i + 2}>>{i + 2}\n#### {i + 2}"
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
        if source.get("layout") == "messages":
            rows.append({"messages": turns, "id": str(i)})
        elif source.get("layout") == "text_turns":
            rows.append({source["messages"]: f"### Human: {question}### Assistant: {response}"})
        elif source.get("keep_if"):
            return critiques(24)
        else:
            row: dict[str, Any] = {}
            for field, text in (
                ("question", question),
                ("response", response),
                ("answer", str(i + 2)),
                ("system", "Be brief."),
            ):
                for name in (source.get(field) or "").split("+"):
                    put(row, name, text)
            rows.append(row)
    return rows


def put(row: dict[str, Any], name: str, text: str) -> None:
    """A field by its dotted name: responses.0.response is the first object of a list."""
    first, _, rest = name.partition(".")
    if not rest:
        row.update({first: text} if first else {})
    elif rest.startswith("0."):
        row[first] = [{rest[2:]: text}]
    else:
        put(row.setdefault(first, {}), rest, text)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_two_steps(preset: str, tiny_model: Path, tmp_path: Path):
    values = composed(f"experiment={preset}", "eval=none")
    for name, source in values["data"]["sources"].items():
        if source["path"].startswith("generated:"):  # its own rows are here
            source["rows"] = 24
            continue
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in source_rows(source)))
        source |= {"path": str(file), "local": [], "format": "jsonl", "rows": None, "name": None}
    config = {
        **values, "run_dir": str(tmp_path / "run"), "model": {"path": str(tiny_model)},
        "launch": {"device": "cpu", "threads": 1}, "log": {},
        "train": {**values["train"], "max_steps": 2, "precision": "fp32", "global_batch_size": 4, "optimizer": "adamw",
                  "row_length": None},
    }  # fmt: skip
    config["data"] |= {"max_length": 512, "validation": {}}
    if values["method"]["name"] == NEEDS_AN_EXPORT:
        config["method"] |= {"layers": "0-1"}
    if "chunk" in preset:
        config["method"] |= SMALL_HEAD
    train(train_config(config))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["label_tokens"] > 0 for step in steps)


@pytest.mark.parametrize("preset", PRESETS)
def test_its_settings_are_valid_as_they_stand(preset: str, tmp_path: Path):
    build(TrainConfig, composed(f"experiment={preset}", "data.sources={}"))


@pytest.mark.parametrize("domain", ["math", "code", "instructions"])
@pytest.mark.parametrize("model", ["llama2", "llama31"])
def test_an_old_name_of_a_method_preset_says_the_new_one(model: str, domain: str):
    name = f"mask_finetune_{model}_{domain}"
    with pytest.raises(UserError, match=f"method={name} is experiment=paper_{name} now"):
        composed(f"method={name}")


def test_a_papers_recipe_on_rows_of_ones_own():
    words = ["experiment=paper_masked_thought_gsm8k", "data=local", "data.sources.local.path=generated:gsm_symbolic"]
    values = composed(*words)
    assert list(values["data"]["sources"]) == ["local"]
    assert values["data"]["max_length"] == 512, "the rest of the recipe stays"
    assert composed(words[0])["data"]["sources"]["gsm8k"]["remove"] is None
    mixed = composed(*words, "data.sources.gsm8k.path=generated:gsm_symbolic")
    assert sorted(mixed["data"]["sources"]) == ["gsm8k", "local"]
