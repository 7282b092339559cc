"""Settings that were set for nothing are told; the presets have none; a swept one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mft_cli.config import schema
from mft_cli.config.compose import CONF
from mft_cli.config.effects import unmet_needs, without_effect
from mft_cli.config.schema.base import NEEDS
from mft_cli.config.validate import build, dataclasses_in, hints, walk
from tests.support.tiny import mft, tiny_overrides

CASES = [
    ({"peft": {"rank": 8}}, "peft.rank", "peft.name!=none"),
    ({"data": {"sources": {"a": {"mask_ratio": 0.3}}}}, "data.sources.a.mask_ratio", "method.mask_ratio!=null"),
    ({"data": {"validation": {"every_steps": 3}}}, "data.validation.every_steps", "data.validation.rows or "),
    ({"method": {"name": "mask_finetune", "threshold": 0.1}}, "method.threshold", "method.selection=global"),
    ({"method": {"name": "masked_thought", "span_mean": 5}}, "method.span_mean", "method.granularity=span"),
    ({"method": {"name": "masked_thought", "dropout_rate": 0.5}}, "method.dropout_rate", "method.noise=dropout"),
    (
        {"method": {"name": "chunk_refine", "early_stop": "never", "min_steps": 3}},
        "method.min_steps",
        "method.early_stop",
    ),
    ({"train": {"schedule": "constant", "min_ratio": 0.1}}, "train.min_ratio", "train.schedule!=constant"),
    ({"train": {"packing": False, "row_length": 2048}}, "train.row_length", "train.packing=true"),
    ({"log": {"sample_tokens": 64}}, "log.sample_tokens", "log.samples_every_steps"),
    ({"eval": {"api": {"model": "x"}}}, "eval.api", "eval.engine=api"),
    ({"eval": {"logprobs_top": 5}}, "eval.logprobs_top", "eval.logprobs=true"),
    ({"eval": {"engine": "hf", "kv_cache_gb": 4.0}}, "eval.kv_cache_gb", "eval.engine=auto|vllm"),
]


@pytest.mark.parametrize(("values", "key", "need"), CASES)
def test_a_setting_without_effect_is_told_with_what_it_needs(values: dict, key: str, need: str):
    (sentence,) = without_effect(build(schema.TrainConfig, values))
    assert sentence.startswith(f"{key} has no effect here: it needs {need}")


@pytest.mark.parametrize(
    "values",
    [
        {}, {"peft": {"name": "lora", "rank": 8}}, {"data": {"validation": {"every_steps": 3, "fraction": 0.1}}},
        {"method": {"name": "masked_thought"}, "data": {"sources": {"a": {"mask_ratio": 0.3}}}},
        {"method": {"name": "masked_thought", "noise": "mixup", "temperature": 2.0}}, {"train": {"min_ratio": 0.1}},
    ],
)  # fmt: skip
def test_settings_with_effect_are_not_told(values: dict):
    assert without_effect(build(schema.TrainConfig, values)) == []


@pytest.mark.parametrize(("group", "option"), [(p.parent.name, p.stem) for p in sorted(CONF.glob("*/*.yaml"))])
def test_no_preset_sets_anything_for_nothing(group: str, option: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose("train", [f"{group}={option}"]), resolve=True)
    assert without_effect(build(schema.TrainConfig, values)) == []


def test_every_need_names_a_key_that_is_there():
    keys = {k for root in schema.ROOTS.values() for k, *_ in walk(root)}
    owners = [schema.TrainConfig, schema.EvalRunConfig, *dataclasses_in(schema.AnyMethod)]
    sections = {cls for owner in owners for _, a, _ in walk(owner) for cls in dataclasses_in(a)} | {schema.SourceConfig}
    for cls in sections | {*dataclasses_in(schema.AnyMethod)}:
        for name, f in cls.__dataclass_fields__.items():
            extra = getattr(f.default, "json_schema_extra", None) or {}
            for need in extra.get(NEEDS, "").split(" or ") if NEEDS in extra else ():
                other = need.replace("!=", "=").split("=")[0]
                assert other in keys if "." in other else other in hints(cls), (cls, name, need)


def test_unmet_needs_are_known_for_defaults_too():
    assert ("peft.rank", "peft.name!=none", False) in set(unmet_needs(build(schema.TrainConfig, {})))


def test_a_warning_in_a_run_and_an_error_for_a_swept_key(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    (tmp_path / "model").mkdir()
    words = tiny_overrides(tmp_path / "model", tmp_path / "rows.jsonl")
    done = mft("train", *words, "peft.rank=8", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "warning: peft.rank has no effect here: it needs peft.name!=none\n"
    swept = mft("train", "-m", *words, "peft.rank=8,16", "seed=1,2", cwd=tmp_path)
    assert swept.returncode == 2
    assert "peft.rank is swept and has no effect in any job: it needs peft.name!=none" in swept.stderr
    assert "none of the 4 jobs was started" in swept.stderr
    assert "Traceback" not in swept.stderr
