"""GPUs are shared out: as few as a copy of the model fits on, and further copies on the others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.errors import UserError
from mft_cli.eval.engines.placement import Copy, fewest_gpus, replica_devices, tensor_parallel

GB = 1e9
LLAMA_7B, LLAMA_70B = Copy(13.5 * GB, 32, 32), Copy(141 * GB, 64, 8)


@pytest.mark.parametrize(
    ("copy", "gpus", "memory", "expected"),
    [
        (LLAMA_7B, 8, 80 * GB, 1),
        (LLAMA_7B, 8, 24 * GB, 1),  # 13.5 of 0.75 x 0.9 x 24 = 16.2
        (LLAMA_7B, 8, 16 * GB, 2),  # a T4, a V100
        (LLAMA_70B, 8, 80 * GB, 4),  # 35 of 54; two would leave 1.5 for completions
        (LLAMA_70B, 2, 80 * GB, 2),  # tight, and all there are
        (LLAMA_70B, 8, 24 * GB, 8),
        (Copy(13.5 * GB, 28, 4), 8, 8 * GB, 4),  # 28 heads are not divided by 8, nor 4 heads of keys by 7
    ],
)
def test_a_copy_takes_the_fewest_gpus_that_it_fits_on(copy: Copy, gpus: int, memory: float, expected: int) -> None:
    assert fewest_gpus(copy, [memory] * gpus, 0.9) == expected


def test_weights_that_fit_on_no_number_of_gpus_are_refused() -> None:
    with pytest.raises(UserError, match=r"141.0 GB, and 1 of 1 visible GPUs .* eval.gpu_memory=0.9 of 80.0 GB"):
        fewest_gpus(LLAMA_70B, [80 * GB], 0.9)
    with pytest.raises(UserError, match="larger GPUs"):
        fewest_gpus(LLAMA_70B, [80 * GB, 24 * GB, 80 * GB, 80 * GB], 0.9)  # the smallest one counts


def test_a_folder_says_how_large_its_copy_is(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, half = Copy.of(tiny_model, "float32"), Copy.of(tiny_model, "float16")
    assert exact.bytes == 2 * half.bytes > 0
    assert exact.heads % exact.key_heads == 0
    memory = SimpleNamespace(total_memory=half.bytes)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda n: memory)
    sharing = [n for n in (2, 3, 4) if half.can_share(n)]
    assert tensor_parallel(EvalConfig(), "vllm", tiny_model, "float16", "cuda") == sharing[0]
    assert tensor_parallel(EvalConfig(tensor_parallel=1), "vllm", tiny_model, "float16", "cuda") == 1
    assert tensor_parallel(EvalConfig(), "hf", tiny_model, "float16", "cuda") == 1
    assert tensor_parallel(EvalConfig(), "vllm", tiny_model, "float16", "cpu") == 1


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    launch = LaunchConfig()
    assert replica_devices(EvalConfig(), launch, "cuda") == ["2", "3", "5", "7"]
    assert replica_devices(EvalConfig(), launch, "cuda", 2) == ["2,3", "5,7"]
    assert replica_devices(EvalConfig(replicas=1), launch, "cuda", 3) == ["2,3,5"]
    assert replica_devices(EvalConfig(), LaunchConfig(gpus=2), "cuda") == ["2", "3"]
    assert replica_devices(EvalConfig(), launch, "cpu") == [None]
    with pytest.raises(UserError, match=r"needs 6 GPUs, but 4 are visible"):
        replica_devices(EvalConfig(replicas=3), launch, "cuda", 2)
