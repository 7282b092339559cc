"""No secret reaches the disk: it is refused before anything is written, by key, in addresses and in shell lines."""

from __future__ import annotations

import pytest
import yaml

from mft_cli.config import secrets as confidential
from mft_cli.config.schema.critique import CritiqueRunConfig
from mft_cli.config.schema.runs import EvalRunConfig, TrainConfig
from mft_cli.config.validate import walk
from mft_cli.errors import UserError
from tests.support.tiny import mft, tiny_overrides

SECRET = "sk-ThisIsASecret"
BY_FORM = {  # made here: a form -> the environment variable that the refusal names
    "AKIA" + "ABCDEFGH" * 2: "AWS_ACCESS_KEY_ID",
    "hf_" + "aB3" * 12: "HF_TOKEN",
    "sk-proj-" + "aB3_" * 8: "eval.api.key_env",
    "0123456789abcdef0123" * 2: "WANDB_API_KEY",
    "ghp_" + "aB3" * 12: "GITHUB_TOKEN",
    "github_pat_" + "aB3_" * 8: "GITHUB_TOKEN",
    "AIza" + "aB3-_" * 7: "of the service",
    "glpat-" + "aB3_" * 5: "of the service",
    "xoxb-" + "1234567890": "of the service",
    "nvapi-" + "aB3_" * 8: "of the service",
    "https://host/file.jsonl?token=abc": "netrc",
    "https://host/file.jsonl#access_token=abc": "netrc",
    "https://s3.host/file?X-Amz-Date=1&X-Amz-Signature=abc": "netrc",
    "https://host/file?a=1&api_key=abc": "netrc",
}


@pytest.mark.parametrize(
    "argument",
    [
        f"eval.api.key={SECRET}", f"+log.wandb_api_key={SECRET}", f"hydra.job.env_set.HF_TOKEN={SECRET}",
        f"deepspeed.config.comet.api_key={SECRET}", f"deepspeed.config={{comet: {{project: a, api_key: {SECRET}}}}}",
        f"eval.api.base_url=https://me:{SECRET}@host/v1", f"launch.slurm.setup=[export WANDB_API_KEY={SECRET}]",
        f"eval.api.key_env={SECRET}", f"++model.password='{SECRET}'",
        *(f"{key}={value}" for key in ("note", "data.sources.a.path", "deepspeed.config.x") for value in BY_FORM),
    ],
)  # fmt: skip
def test_secrets_are_refused_and_hidden(argument: str):
    with pytest.raises(UserError) as error:
        confidential.refuse_arguments(["seed=1", argument])
    secret = argument.partition("=")[2]
    assert SECRET not in str(error.value)
    assert secret not in str(error.value)
    assert "environment" in str(error.value)
    assert SECRET not in confidential.hide_secret(argument)
    assert secret not in confidential.hide_secret(argument)


@pytest.mark.parametrize(("value", "variable"), BY_FORM.items())
def test_a_secrets_form_names_the_variable_to_use(value: str, variable: str):
    for word in (
        f"note={value}",
        value,
        f"note={value},x",
        f"note=x,{value}",
        f"note=choice({value},x)",
        f"note=[x,{value}]",
    ):
        with pytest.raises(UserError, match=variable):
            confidential.refuse_arguments(["seed=1", word])
    with pytest.raises(UserError, match=variable):
        confidential.refuse_values({"a": {"b": ["x", {"c": value}]}})


@pytest.mark.parametrize(
    "argument",
    [
        "method.mask_token=<mask>", "eval.api.key_env=MY_KEY", "eval.api.max_tokens_field=max_tokens", "seed=1,2",
        "data.sources.local.keep_if.key=5", "launch.slurm.setup=[export HF_TOKEN=$(cat token)]", "eval.api.key=null",
        "launch.slurm.setup=['export WANDB_API_KEY=$KEY','module load cuda']", "model.path=https://host:80/key=a",
        "a question with a token=5", "--config-dir=keys", "max_new_token=5", "eval.benchmarks.a.max_new_token=5",
        f"model.revision={'0123456789abcdef0123' * 2}", f"model.path=/hub/snapshots/{'0123456789abcdef0123' * 2}",
        "data.sources.a.path=https://host/file.jsonl?download=true",
        "note=task-ThisIsASentence", "note=hf_model", "++eval.logprobs_token=true",
    ],
)  # fmt: skip
def test_what_is_no_secret_passes(argument: str):
    confidential.refuse_arguments([argument])
    assert confidential.hide_secret(argument) == argument


def test_no_key_of_the_schema_is_taken_for_a_secret():
    for root in (TrainConfig, EvalRunConfig, CritiqueRunConfig):
        for name, _, _ in walk(root):
            assert name.endswith("_env") or confidential.instead_of_secret(name, "text") is None, name


def test_a_yaml_file_and_the_environment_bring_none_in_either(tiny_model, problem_file, tmp_path):
    (tmp_path / "own" / "deepspeed").mkdir(parents=True)
    comet = {"comet": {"enabled": False, "api_key": "${oc.env:THE_KEY}"}}
    (tmp_path / "own/deepspeed/mine.yaml").write_text(yaml.safe_dump({"name": "mine", "config": comet}))
    words = [*tiny_overrides(tiny_model, problem_file, run_dir="run"), "--config-dir=own", "deepspeed=mine"]
    done = mft("train", *words, cwd=tmp_path, env={"THE_KEY": SECRET})
    assert (done.returncode, SECRET in done.stderr + done.stdout) == (2, False), done.stderr
    assert "deepspeed.config.comet.api_key=<hidden>" in done.stderr


def test_a_sweeps_ledger_holds_no_secret_and_can_be_run_from_the_environment(tiny_model, problem_file, tmp_path):
    words = [
        "-m",
        "seed=1,2",
        *tiny_overrides(tiny_model, problem_file, **{"train.max_steps": 1, "run_dir": "run-${seed}"}),
    ]
    done = mft("train", *words, f"eval.api.key={SECRET}", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "eval.api.key=<hidden>" in done.stderr
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "run-2").write_text("in the way")
    done = mft("train", *words, cwd=tmp_path, env={"WANDB_API_KEY": SECRET})
    assert "1 of 2 jobs done, 1 not" in done.stderr, done.stderr
    (tmp_path / "run-2").unlink()
    (sweep,) = (tmp_path / "outputs/sweeps").iterdir()
    done = mft("sweep", "retry", str(sweep), cwd=tmp_path, env={"WANDB_API_KEY": SECRET})
    assert done.returncode == 0, done.stderr
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path
