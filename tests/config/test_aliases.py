"""Names that users of other tools type: each leads to a key that is there, before the nearest spelling is looked for."""

from __future__ import annotations

import pytest

from mft_cli.config import schema
from mft_cli.config.compose import groups
from mft_cli.config.schema.aliases import ALIASES
from mft_cli.config.validate import build, walk
from mft_cli.errors import UserError

KEYS = {k for root in (schema.TrainConfig, schema.EvalRunConfig) for k, *_ in walk(root)} | {*groups()}


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_leads_to_keys_and_is_none(alias: str):
    assert alias not in KEYS
    for word in ALIASES[alias]:
        key, equals, value = word.partition("=")
        assert key in KEYS, word
        if equals:
            section, name = key.split(".")
            build(schema.TrainConfig, {section: {name: value}})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train.lr", "train.learning_rate"), ("lr", "train.learning_rate"), ("train.bf16", "train.precision=bf16"),
        ("train.batch_size", "train.global_batch_size or train.micro_batch_size"), ("output_dir", "run_dir"),
        ("checkpoint.max_steps", "train.max_steps"), ("model.name", "model.path"), ("train.dtype", "train.precision"),
        ("train.gradient_accumulation_steps", "train.global_batch_size"), ("train.num_train_epochs", "train.epochs"),
        ("train.per_device_train_batch_size", "train.micro_batch_size"), ("train.warmup_ratio", "train.warmup_fraction"),
        ("data.max_seq_length", "data.max_length"), ("max_tokens", "eval.benchmarks.<name>.max_new_tokens"),
        ("train.learnin_rate", "train.learning_rate"), ("epochs", "train.epochs"),
    ],
)  # fmt: skip
def test_what_is_meant(typed: str, meant: str):
    values: dict[str, object] = {typed.rsplit(".", 1)[-1]: 1}
    if "." in typed:
        values = {typed.split(".")[0]: values}
    with pytest.raises(UserError) as error:
        build(schema.TrainConfig, values)
    assert str(error.value) == f"unknown key {typed} (value 1); did you mean {meant}?"


def test_an_evaluation_means_its_own_keys():
    means = (
        ("batch_size", "eval.batch_size"),
        ("dtype", "eval.dtype"),
        ("bf16", "eval.dtype=bfloat16"),
        ("seed", "eval.seed"),
    )
    for typed, meant in means:
        with pytest.raises(UserError, match=f"did you mean {meant}\\?"):
            build(schema.EvalRunConfig, {typed: 1})


BOUNDED = [
    (key, value)
    for key in ("train.epochs", "train.learning_rate", "train.eps", "launch.threads", "eval.kv_cache_gb", "seed",
                "train.global_batch_size", "data.max_length", "launch.slurm.signal_s", "eval.answer_timeout_s")
    for value in (float("inf"), float("nan"), 1e22, 10**30)
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BOUNDED)
def test_numbers_have_an_upper_end(key: str, value: float):
    values: object = value
    for part in reversed(key.split(".")):
        values = {part: values}
    with pytest.raises(UserError, match=f"^{key}=.*: expected a (whole )?number"):
        build(schema.TrainConfig, values)


def test_every_number_of_the_schema_is_refused_where_it_is_not_finite():
    """Also of a method, and those that have no range."""
    for name, value in (("threshold", float("nan")), ("threshold", float("inf")), ("mask_ratio", float("nan"))):
        with pytest.raises(UserError, match=f"method.{name}="):
            build(schema.TrainConfig, {"method": {"name": "mask_finetune", name: value}})
