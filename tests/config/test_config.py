"""Configuration errors are told before torch is imported, name the key, and offer the nearest valid one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mft_cli.config import checks, load, schema, validate
from mft_cli.config import compose as config
from mft_cli.config.schema.methods import MaskedThoughtConfig
from mft_cli.errors import UserError
from tests.support.tiny import ROOT, mft

OPTIONS = [(p.parent.name, p.stem) for p in sorted(config.CONF.glob("*/*.yaml"))]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.sources.local.path=x.jsonl"], ["data.sources.local", "gsm_symbolic", "data=local"]),
        (["train.learnin_rate=1e-4"], ["train.learnin_rate", "train.learning_rate"]),
        (["+train.learnin_rate=1e-4"], ["train.learnin_rate", "train.learning_rate"]),
        (["learning_rate=1e-4"], ["learning_rate", "train.learning_rate"]),
        (["method=masked_thuoght"], ["method=masked_thuoght", "masked_thought"]),
        (
            ["method=masked_thought", "method.mask_ratio=1.5"],
            ["method.mask_ratio=1.5", "expected a number from 0 to 1"],
        ),
        (["method=sft", "method.mask_ratio=0.5"], ["method.mask_ratio"]),
        (
            ["method=masked_thought", "method.mask_token=<|m|>"],
            ["method.mask_token=<|m|>: Hydra reads", "in quotes: 'method.mask_token=\"<|m|>\"'"],
        ),
        (["prompt.template=Q: {question}"], ["Hydra reads", "in quotes: 'prompt.template=\"Q: {question}\"'"]),
        (["train.precision=bf61"], ["train.precision", "bf61", "bf16"]),
        (["train.epochs=many"], ["train.epochs", "many", "number"]),
        (["train.global_batch_size=0"], ["train.global_batch_size=0", "1"]),
        (["train.packing=maybe"], ["train.packing", "maybe", "true or false"]),
        (["data.sources.gsm_symbolic.pth=x"], ["data.sources.gsm_symbolic.pth", "path"]),
        (["data=gsm9k"], ["data=gsm9k", "gsm8k"]),
        (["data=local"], ["data.sources.local.path"]),
        (["data=local", "data.sources.local.path=/nowhere/x.jsonl"], ["/nowhere/x.jsonl", "no such file"]),
        (["model=local", "model.path=/nowhere"], ["/nowhere", "no such file"]),
        (["checkpoint.keep_best=true", "data.validation.rows=0"], ["keep_best", "data.validation.rows"]),
        (["data.validation.rows=8", "data.validation.fraction=0.1"], ["fraction=0.1", "rows=8", "one of them to 0"]),
        (
            ["data.validation.fraction=1.0"],
            ["data.validation.fraction=1.0", "expected a number, 0 or more and below 1"],
        ),
        (["train.row_length=100"], ["train.row_length=100", "data.max_length"]),
        (["train.betas=[0.9]"], ["train.betas", "two numbers"]),
        (["seed=-1"], ["seed=-1"]),
        (["eval=gsm9k"], ["eval=gsm9k", "gsm8k"]),
        (["train.epochs=1", "train.epochs=${nowhere}"], ["nowhere"]),
    ],
)
def test_mistakes_are_one_clear_sentence(overrides, words, tmp_path: Path):
    done = mft("train", *overrides, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not list(tmp_path.rglob("config.yaml"))


def test_no_torch_before_the_configuration_is_right(tmp_path: Path):
    code = (
        "import sys; sys.argv = ['mft', 'train', 'train.epochs=-1']\n"
        "from mft_cli.cli.main import main\n"
        "try: main()\nexcept SystemExit as e: assert e.code == 2\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})


def test_help_imports_neither_torch_nor_hydra():
    code = (
        "import sys; sys.argv = ['mft', '--help']\n"
        "from mft_cli.cli.main import main\n"
        "try: main()\nexcept SystemExit as e: assert e.code == 0\n"
        "assert not {'torch', 'hydra', 'omegaconf', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT)})
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "mft_cli", "--help"], check=True, capture_output=True, cwd=ROOT)
    assert time.monotonic() - start < 2  # 0.05 s on an idle machine; the bound is for a loaded one


NOT_WHOLE = {  # options that need a file or a folder named, and prompts that are not for training
    ("data", "local"), ("model", "local"), ("data", "critique"), ("experiment", "paper_masked_critique"),
    ("prompt", "critique"), ("prompt", "critique_teacher"), ("deepspeed", "zero3_offload_nvme"), ("eval", "perplexity"),
}  # fmt: skip


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        more = ["++method.layers=all"] if option == "mask_finetune" else []  # a key that has no default
        values = OmegaConf.to_container(compose("train", [f"{group}={option}", *more]), resolve=True)
    built = validate.build(schema.TrainConfig, values)
    if (group, option) not in NOT_WHOLE:
        checks.check_train(built)


def test_plain_form_round_trips():
    built = validate.build(schema.TrainConfig, {"method": {"name": "masked_thought"}, "train": {"epochs": 2}})
    assert validate.build(schema.TrainConfig, validate.to_plain(built)) == built
    assert isinstance(built.method, MaskedThoughtConfig)
    assert built.train.epochs == 2.0


def test_cfg_job_prints_every_key(tmp_path: Path):
    import yaml

    done = mft("train", "method=masked_thought", "train.epochs=2", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    values = yaml.safe_load(done.stdout)
    assert values["train"]["epochs"] == 2
    assert values["method"]["span_mean"] == 3.0  # a default that no YAML file names


def test_user_configs_with_config_dir(tmp_path: Path):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "own.yaml").write_text(
        "name: own\nsources: {own: {path: 'generated:gsm_symbolic'}}\n"
    )
    done = mft("train", "--config-dir", "mine", "data=own", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "name: own" in done.stdout


def test_info_and_multirun_flags_are_hydras_own(tmp_path: Path):
    done = mft("train", "--info", "searchpath", cwd=tmp_path)
    assert done.returncode == 0
    assert "main" in done.stdout
    done = mft("train", "-m", "seed=-1,-2", cwd=tmp_path)
    assert done.returncode == 2
    assert "seed=-1" in done.stderr
    assert "seed=-2" in done.stderr
    done = mft("train", "--info", "seed=3", cwd=tmp_path)  # no word behind it: all of it, and the setting stays one
    assert done.returncode == 0, done.stderr
    assert "seed: 3" in done.stdout


@pytest.mark.parametrize("flags", [("--cfg", "job"), ("--cfg", "hydra"), ("--info",)])
def test_a_sweep_is_not_printed(flags: tuple[str, ...], tmp_path: Path):
    done = mft("train", "-m", "hydra/launcher=mft_local", "seed=1,2", *flags, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "leave out -m" in done.stderr


def test_tab_completion(tmp_path: Path):
    def completions(line: str) -> list[str]:
        return mft(
            "-sc", "query=bash", cwd=tmp_path, env={"COMP_LINE": line, "COMP_POINT": str(len(line))}
        ).stdout.split()

    assert completions("mft tr") == ["train"]
    assert "method=masked_thought" in completions("mft train method=ma")
    assert "eval=gsm8k" in completions("mft eval eval=gs")
    assert completions("mft sweep ") == ["status", "retry", "report"]
    assert completions("mft data sh") == ["show"]
    assert completions("mft train train.learning_r") == ["train.learning_rate="]
    assert completions("mft train train.schedule=l") == ["train.schedule=linear"]
    assert completions("mft train method=masked_thought_gsm8k method.span") == ["method.span_mean=", "method.spans="]
    assert completions("mft eval eval=gsm8k eval.benchmarks.gsm8k.max_n") == ["eval.benchmarks.gsm8k.max_new_tokens="]
    assert completions("mft critique teach") == ["teacher."]


@pytest.mark.parametrize("verb", ["train", "eval", "score", "report", "data"])
def test_help_has_examples(verb: str, tmp_path: Path):
    done = mft(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count(f"mft {verb} ") >= 2


def test_unknown_verb(tmp_path: Path):
    done = mft("tarin", cwd=tmp_path)
    assert done.returncode == 2
    assert "train" in done.stderr


def test_combination_errors_without_a_process():
    plain = {"model": {"path": "x"}, "data": {"sources": {"a": {"path": "hub/id"}}}}
    with pytest.raises(UserError, match="flash-attention takes no mask"):
        load.train_config(
            {
                **plain,
                "method": {"name": "masked_thought", "drop_attention": True},
                "model": {"path": "x", "attention": "flash_attention_2"},
            }
        )
    with pytest.raises(UserError, match="masks reasoning lines"):
        load.train_config({**plain, "method": {"name": "masked_thought", "granularity": "step", "target": "both"}})
    with pytest.raises(UserError, match="not a regular expression"):
        load.train_config({**plain, "data": {"sources": {"a": {"path": "hub/id", "remove": "("}}}})


@pytest.mark.parametrize(
    ("data", "benchmark", "contaminated"),
    [
        ("gsm_symbolic", "gsm8k", True),  # its templates are made from GSM8K test problems
        ("gsm_symbolic", "gsm_symbolic", False),  # disjoint by construction
        ("gsm_symbolic", "gsm_symbolic_heldout", False),
        ("gsm8k", "gsm8k", False),
    ],
)
def test_presets_know_what_they_are_made_from(data: str, benchmark: str, contaminated: bool):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from mft_cli.data.sources import all_derived_from
    from mft_cli.eval.contamination import contamination

    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose("train", [f"data={data}", f"eval={benchmark}"]), resolve=True)
    built = load.train_config(values)
    facts = {"derived_from": all_derived_from(built.data.sources.values())}
    reason = contamination(facts, benchmark, built.eval.benchmarks[benchmark].source.derived_from)
    assert (reason is not None) == contaminated


def test_a_name_that_is_no_utf8_is_told_with_its_key():
    values = {"model": {"path": os.fsdecode(b"/m\xffdel")}}
    with pytest.raises(UserError, match=r'^model\.path="/m\\udcffdel": a text that is no UTF-8'):
        validate.build(schema.TrainConfig, values)
