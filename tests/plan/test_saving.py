"""What a signal leaves a run follows from the bytes that it has to save."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mft_cli.config.schema.launching import DeepspeedConfig, LaunchConfig, PeftConfig, SlurmConfig
from mft_cli.plan.saving import saving_s, with_time_to_save
from mft_cli.slurm.submit import job_parameters
from tests.plan.test_plan import make_config

ZERO3 = DeepspeedConfig(name="zero3", config={"zero_optimization": {"stage": 3}})
TINY = "HuggingFaceTB/SmolLM2-135M-Instruct"
# 12 bytes x 6,738,415,616 at 0.4 GB/s are 202 s, and a minute for the step
CASES = [
    ({}, LaunchConfig(gpus=8), 262),
    ({"deepspeed": ZERO3}, LaunchConfig(gpus=8, nodes=2), 161),  # two nodes write
    ({}, LaunchConfig(gpus=8, nodes=2), 262),  # the first rank writes
    ({"peft": PeftConfig(name="lora")}, LaunchConfig(gpus=8), 120),
]


@pytest.mark.parametrize(("more", "launch", "seconds"), CASES)
def test_seconds_follow_from_the_checkpoint(more: dict[str, object], launch: LaunchConfig, seconds: int) -> None:
    config = make_config(launch=launch, **more)
    assert saving_s(config) == seconds
    filled = with_time_to_save(config).launch
    assert filled.grace_s == seconds
    assert filled.slurm.signal_s == (seconds + 30 if seconds > 120 else 120)


def test_what_is_set_stays_and_what_is_unknown_is_two_minutes() -> None:
    asked = LaunchConfig(gpus=8, grace_s=7.0, slurm=SlurmConfig(signal_s=300))
    assert with_time_to_save(make_config(launch=asked)).launch == asked
    half = with_time_to_save(make_config(launch=replace(asked, grace_s=None))).launch
    assert (half.grace_s, half.slurm.signal_s) == (262, 300)
    assert saving_s(make_config(TINY)) == saving_s(make_config("nobody/knows")) == 120
    assert job_parameters(LaunchConfig(), "x")["additional_parameters"]["signal"] == "B:USR1@120"
