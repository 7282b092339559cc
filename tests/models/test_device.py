"""Which device and which precision: a function of a description of the machine, so that machines that are not here count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mft_cli.config.load import eval_config
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.errors import UserError
from mft_cli.eval.engines import load as engines
from mft_cli.models import device
from mft_cli.models.device import Hardware, choose_device, choose_precision, emulation_notice, training_precision

AVX2 = Hardware(flags=frozenset({"fma", "avx2"}))
AVX512 = Hardware(flags=frozenset({"avx2", "avx512f"}))
ZEN4 = Hardware(flags=frozenset({"avx2", "avx512f", "avx512_bf16"}))
AMX = Hardware(flags=frozenset({"avx2", "avx512f", "amx_bf16", "amx_tile"}))
V100, T4, A100, H100 = (Hardware(capability) for capability in ((7, 0), (7, 5), (8, 0), (9, 0)))
NO_LINUX = Hardware()


@pytest.mark.parametrize(
    ("hardware", "auto", "emulates_bf16"),
    [
        (AVX2, "fp32", True), (AVX512, "fp32", True), (NO_LINUX, "fp32", True), (ZEN4, "bf16", False), (AMX, "bf16", False),
        (V100, "fp16", True), (T4, "fp16", True), (A100, "bf16", False), (H100, "bf16", False),
    ],
)  # fmt: skip
def test_one_rule_for_every_machine(hardware: Hardware, auto: str, emulates_bf16: bool):
    assert choose_precision("auto", hardware) == auto
    assert choose_precision("bf16", hardware) == "bf16"
    notice = emulation_notice("train.precision=bf16", "bf16", hardware)
    assert (notice is not None) == emulates_bf16
    assert notice is None or (notice.startswith("train.precision=bf16: this ") and "\n" not in notice)
    assert emulation_notice("k", choose_precision("auto", hardware), hardware) is None


def test_half_precision_is_for_gpus():
    assert training_precision("fp16", T4) == "fp16"
    assert emulation_notice("k", "fp16", A100) is None
    assert "emulates" in (emulation_notice("eval.dtype=float16", "fp16", AMX) or "")
    with pytest.raises(UserError, match="needs a GPU"):
        training_precision("fp16", AMX)


def test_flags_are_read_from_linux(tmp_path: Path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert device.processor_flags(file) == {"fpu", "avx2", "amx_bf16"}
    assert device.processor_flags(tmp_path / "missing") == frozenset()


@pytest.mark.parametrize(("limit", "auto"), [("", "bf16"), ("AVX2", "fp32"), ("AVX512_CORE_AMX", "bf16")])
def test_a_limit_of_what_multiplies_counts(limit: str, auto: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.setattr(device, "processor_flags", lambda: AMX.flags)
    assert choose_precision("auto", device.hardware_of(torch.device("cpu"))) == auto


@pytest.mark.parametrize(("hardware", "dtype"), [(AVX2, "float32"), (AMX, "bfloat16"), (T4, "float16")])
def test_evaluation_follows_the_same_rule(hardware: Hardware, dtype: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "hardware_of", lambda _: hardware)
    asked = {"model": {"path": "x"}, "eval": {"benchmarks": {"a": {"source": {"path": "generated:arithmetic"}}}}}
    assert engines.device_and_dtype(eval_config(asked))[1] == dtype


def test_evaluation_tells_a_dtype_that_is_emulated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(device, "hardware_of", lambda _: AVX2)
    benchmarks = {"a": {"source": {"path": "generated:arithmetic"}}}
    asked = {"model": {"path": "x"}, "eval": {"dtype": "bfloat16", "benchmarks": benchmarks}}
    assert engines.device_and_dtype(eval_config(asked))[1] == "bfloat16"
    assert capsys.readouterr().out.startswith("eval.dtype=bfloat16: this processor has no bf16 arithmetic")


# ---- device ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "local_rank", "index"),
    [(8, 0, 0), (8, 5, 5), (1, 5, 0), (1, 0, 0)],  # one is visible: --gpus-per-task=1, --gpu-bind=single:1
)
def test_a_rank_takes_a_gpu_that_it_sees(visible: int, local_rank: int, index: int):
    chosen = choose_device(LaunchConfig(), visible, {"LOCAL_RANK": str(local_rank)})
    assert chosen == torch.device("cuda", index)


def test_devices_that_are_missing():
    assert (
        choose_device(LaunchConfig(), 0, {}) == choose_device(LaunchConfig(device="cpu"), 8, {}) == torch.device("cpu")
    )
    with pytest.raises(UserError, match="but torch sees no GPU"):
        choose_device(LaunchConfig(device="cuda"), 0, {})
    with pytest.raises(UserError, match="local rank 4 has no GPU of its own: 4 are visible"):
        choose_device(LaunchConfig(), 4, {"LOCAL_RANK": "4"})


def test_choosing_a_device_changes_nothing_and_setting_it_up_does(monkeypatch: pytest.MonkeyPatch):
    before, kept = torch.get_num_threads(), []
    monkeypatch.setattr(device, "keep_freed_memory", lambda: kept.append(True))
    choose_device(LaunchConfig(threads=before + 3, device="cpu"), 0, {})
    assert (torch.get_num_threads(), kept) == (before, [])
    try:
        assert device.set_up_device(LaunchConfig(threads=before + 3, device="cpu")) == torch.device("cpu")
        assert (torch.get_num_threads(), kept) == (before + 3, [True])
    finally:
        torch.set_num_threads(before)


def test_idle_gpus_are_told_and_refused_in_a_slurm_job() -> None:
    launch, job = LaunchConfig(), {"SLURM_JOB_ID": "7"}
    assert "7 of 8 visible GPUs are idle: launch.gpus=8" in (device.idle_notice(launch, 8, 1, {}) or "")
    for visible, ranks in ((8, 8), (1, 8)):  # one is visible to each rank: --gpus-per-task=1
        assert device.idle_notice(launch, visible, ranks, job) is None
    with pytest.raises(
        UserError, match=r"7 of 8 visible GPUs are idle.*--ntasks-per-node=8.*launch.allow_idle_gpus=true"
    ):
        device.idle_notice(launch, 8, 1, job)
    assert "are idle" in (device.idle_notice(LaunchConfig(allow_idle_gpus=True), 8, 1, job) or "")
