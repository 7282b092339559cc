"""Every number of the schema has ends, and names that become names of files are such: generated from the schema."""

from __future__ import annotations

import json
import typing
from pathlib import Path

import pytest

from mft_cli.config import deepspeed, schema
from mft_cli.config.schema.deepspeed_file import DeepspeedFile, OffloadSection, ZeroSection
from mft_cli.config.validate import build, dataclasses_in, names, walk
from mft_cli.errors import UserError

METHODS = dataclasses_in(schema.AnyMethod)


def numeric(annotation: object) -> bool:
    inner = typing.get_args(annotation) or (annotation,)
    return any(a in (int, float) or (typing.get_origin(a) is typing.Annotated and numeric(a)) for a in inner)


def roots() -> list[tuple[type, str, dict[str, object]]]:
    """(class, key, values that are needed beside it) of every number."""
    found = [(root, key, {}) for root in (schema.TrainConfig, schema.EvalRunConfig, schema.CritiqueRunConfig)
             for key, a, _ in walk(root) if numeric(a) and not key.startswith("method.")]  # fmt: skip
    for method in METHODS:
        found += [(schema.TrainConfig, k, {"name": method.name}) for k, a, _ in walk(method, "method.") if numeric(a)]
    return found


NUMBERS = roots()


@pytest.mark.parametrize(("root", "key", "more"), NUMBERS, ids=lambda x: x if isinstance(x, str) else "")
def test_extreme_values_are_refused_and_the_key_is_named(root: type, key: str, more: dict[str, object]):
    for value in (float("inf"), float("-inf"), float("nan"), 1e22, 10**30, -(10**30)):
        values: object = value
        for i, part in enumerate(reversed(key.split("."))):
            values = {part.replace("<name>", "a"): values, **(more if i == 0 else {})}
        if key.endswith("method.threshold") and abs(value) < float("inf"):
            continue  # scores are unbounded; any finite one is a threshold
        with pytest.raises(UserError) as error:
            build(root, values)
        assert str(error.value).startswith(f"{key.replace('<name>', 'a')}="), (value, str(error.value))


def test_there_are_as_many_numbers_as_the_schema_has():
    assert len(NUMBERS) > 150


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "", "a\nb", "..", ".hidden", "a/b", "x" * 101, "a\0"])
def test_names_of_benchmarks_and_sources_are_names_of_files(name: str):
    for values, key in (
        ({"eval": {"benchmarks": {name: {}}}}, "eval.benchmarks"),
        ({"data": {"sources": {name: {"path": "x"}}}}, "data.sources"),
        ({"data": {"sources_validation": {name: {"path": "x"}}}}, "data.sources_validation"),
    ):
        with pytest.raises(UserError, match=f"^{key}: the name .*: expected a name that a file can have"):
            build(schema.TrainConfig, values)
    if name:  # the name of the mixture may be left out
        with pytest.raises(UserError, match=r"^data\.name=.*: expected a name that a file can have"):
            build(schema.TrainConfig, {"data": {"name": name}})


def test_usual_names_pass():
    for name in ("gsm8k", "math-500", "my data", "a.b_c+d", "数学"):
        build(schema.TrainConfig, {"eval": {"benchmarks": {name: {}}}, "data": {"name": name, "sources": {name: {}}}})


# ---- DeepSpeed's own keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ds_config", "message"),
    [
        ({"zero_optimisation": {"stage": 2}}, "unknown key FILE: zero_optimisation (value {\"stage\": 2}); did you mean zero_opt"),
        ({"zero_optimization": {"stag": 2}}, "did you mean zero_optimization.stage?"),
        ({"zero_optimization": {"stage": 4}}, "FILE: zero_optimization.stage=4: expected a whole number from 0 to 3"),
        ({"zero_optimization": {"stage": "2"}}, 'zero_optimization.stage="2": expected a whole number from 0 to 3'),
        ({"zero_optimization": {"stage": 2, "overlap_comm": "yes"}}, 'overlap_comm="yes": expected true or false'),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": "5e8"}}, 'reduce_bucket_size="5e8": expected a number'),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "gpu"}}}, "expected one of none, cpu, nvme"),
        ({"zero_optimization": 2}, "FILE: zero_optimization=2: expected a section with the keys stage"),
        ({"gradient_cliping": 1.0, "zero_optimization": {"stage": 2}}, "did you mean gradient_clipping?"),
        ([1], "expected a JSON object"),
    ],
)  # fmt: skip
def test_mistakes_in_a_deepspeed_file_are_one_sentence(ds_config: object, message: str, tmp_path: Path):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(ds_config))
    config = build(schema.TrainConfig, {"deepspeed": {"config_file": str(file)}})
    with pytest.raises(UserError) as error:
        deepspeed.check(config.deepspeed, config.train, compiled=False)
    assert message.replace("FILE", str(file)) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [1e22, 10**30, -1])
def test_numbers_of_a_deepspeed_file_have_ends(value: float):
    with pytest.raises(UserError, match=r"^zero_optimization\.reduce_bucket_size="):
        build(DeepspeedFile, {"zero_optimization": {"reduce_bucket_size": value}})
    build(DeepspeedFile, {"zero_optimization": {"reduce_bucket_size": 2**63 - 1}})  # sys.maxsize: as much as there is


@pytest.mark.parametrize(
    ("key", "value"), [("mask_ratio", [[[1]]]), ("mask_ratio", "much"), ("layers", 1e22), ("layers", {"a": 1})]
)
def test_a_mistake_is_told_once_where_several_forms_are_possible(key: str, value: object):
    with pytest.raises(UserError) as error:
        build(schema.TrainConfig, {"method": {"name": "mask_finetune", key: value}})
    (line,) = [line for line in str(error.value).split("\n") if line.startswith(f"method.{key}=")]
    assert "a map" in line or "a list" in line


def test_a_key_of_the_command_line_is_named_as_it_is_typed():
    config = build(schema.TrainConfig, {"deepspeed": {"config": {"zero_optimization": {"stag": 2}}}})
    with pytest.raises(UserError, match=r"^unknown key deepspeed\.config\.zero_optimization\.stag "):
        deepspeed.check(config.deepspeed, config.train, compiled=False)


def test_the_keys_are_those_of_the_installed_deepspeed():
    zero = pytest.importorskip("deepspeed.runtime.zero.config")
    offload = pytest.importorskip("deepspeed.runtime.zero.offload_config")

    def fields(*models: type) -> set[str]:
        return {f.alias or name for model in models for name, f in model.model_fields.items()}

    assert set(names(ZeroSection)) == fields(zero.DeepSpeedZeroConfig)
    both = fields(offload.DeepSpeedZeroOffloadParamConfig, offload.DeepSpeedZeroOffloadOptimizerConfig)
    assert set(names(OffloadSection)) == both
    assert {"gradient_clipping", "zero_optimization", "aio", "flops_profiler"} < set(names(DeepspeedFile))
