"""Parameters that ZeRO-3 has partitioned: their real shape, and how to see them whole. Imports deepspeed when needed."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mft_cli.distributed.builds import watch_builds
from mft_cli.errors import UserError, first_line


def is_partitioned(parameter: Tensor) -> bool:
    return hasattr(parameter, "ds_id")


def shape_of(parameter: Tensor) -> tuple[int, ...]:
    """The whole parameter's shape: a partitioned one shows an empty tensor."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def numel_of(parameter: Tensor) -> int:
    return math.prod(shape_of(parameter))


@contextlib.contextmanager
def gathered(parameters: Iterable[Tensor], modify: bool = False) -> Iterator[None]:
    """Inside, partitioned parameters are whole on every rank; all ranks have to enter. `modify`: rank 0's changes stay."""
    parts = list({id(p): p for p in parameters if is_partitioned(p)}.values())
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts, modifier_rank=0 if modify else None):
        yield


def partition_rest(model: nn.Module) -> None:
    """In a partitioned model, partitions what was added since. All ranks have to call."""
    first: Any = next((p for p in model.parameters() if is_partitioned(p)), None)
    if first is not None:
        first.convert_to_zero_parameters(param_list=[p for p in model.parameters() if not is_partitioned(p)])


def read_inside(module: nn.Module, parameters: Iterable[Tensor]) -> None:
    """Has ZeRO-3 make these parameters of other modules whole while `module` runs, which reads them."""
    for parameter in parameters:
        if is_partitioned(parameter):
            import deepspeed

            deepspeed.zero.register_external_parameter(module, parameter)


@contextlib.contextmanager
def partitioned_loading(document: dict[str, Any] | None) -> Iterator[None]:
    """Inside, from_pretrained partitions every parameter as it is made (stage 3 only), in the dtype that it is asked for.

    `document` is the DeepSpeed configuration. Its 16-bit sections are left out: zero.Init would round the weights before
    the fp32 masters are made from them.
    """
    if document is None or document.get("zero_optimization", {}).get("stage") != 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig

    start_communication()  # else it takes the world for one process
    use_files(document["zero_optimization"])
    plain = {k: v for k, v in document.items() if k not in ("bf16", "fp16", "data_types")}
    kept = HfDeepSpeedConfig(plain)  # transformers holds a weak reference only
    try:
        yield
    finally:
        del kept


def start_communication() -> None:
    """DeepSpeed's collectives over the process group that is there. Raises UserError where it lacks a C++ compiler."""
    import deepspeed
    import torch.distributed as dist

    if not dist.is_initialized():  # a run of one process: DeepSpeed wants a group all the same
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        os.environ.setdefault("LOCAL_RANK", "0")
    # DeepSpeed calls collectives under names that torch has renamed: a warning for each, at every step
    watch_builds()
    warnings.filterwarnings("ignore", message="`torch.distributed.* is deprecated", category=FutureWarning)
    try:
        deepspeed.init_distributed(dist_init_required=False)
    except RuntimeError as error:
        first = first_line(error)
        if not any(word in str(error) for word in ("JIT load", "building extension", "compiler")):
            raise
        raise UserError(
            f"DeepSpeed compiles a C++ module for ranks on processors, and cannot ({first}): install a compiler and "
            "ninja (apt-get install g++ ninja-build), or use deepspeed=none, which is data-parallel without it"
        ) from error


def use_files(zero: dict[str, Any]) -> None:
    """Before DeepSpeed swaps optimizer state to files. They go when the process ends.

    Raises UserError where the module that it compiles for that cannot be built.
    """
    offload = zero.get("offload_optimizer") or {}
    if offload.get("device") != "nvme":
        return
    import torch.distributed as dist
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible():
        raise UserError(
            "offload_optimizer.device=nvme: DeepSpeed compiles a C++ module that needs libaio: install it "
            "(apt-get install libaio-dev g++ ninja-build), or set device=cpu"
        )
    folder = Path(offload["nvme_path"])
    # as deepspeed/runtime/swap_tensor names it
    rank_folder = folder / "zero_stage_3" / "optimizer" / f"rank{dist.get_rank()}"

    def remove() -> None:
        shutil.rmtree(rank_folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # the last rank of a node finds them empty
            for empty in (rank_folder.parent, rank_folder.parent.parent, folder):
                empty.rmdir()

    atexit.register(remove)


def is_rounded(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether `dtype` cannot hold all of the weight's numbers."""
    return weight.dtype != dtype and not bool((weight.detach().to(dtype) == weight.detach()).all())


def round_weights(model: nn.Module, dtype: Any) -> dict[str, tuple[Tensor, bool]]:
    """Casts all weights to `dtype`, as DeepSpeed's stage 3 wants them: it takes no mixture.

    Returns what the trained ones were, in fp32: name -> (tensor, whole). Partitioned parameters have this rank's partition,
    others the whole tensor, flat: embeddings that were resized for new tokens are not partitioned yet.
    """
    exact = {}
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        partitioned = is_partitioned(parameter)
        held: Any = parameter.ds_tensor if partitioned else parameter  # type: ignore[attr-defined]
        if parameter.requires_grad and is_rounded(held, dtype):
            exact[name] = held.data.clone().reshape(-1), not partitioned
        held.data = held.data.to(dtype)
        parameter.data = parameter.data.to(dtype)
    return exact
