"""Counts where a program would wait for its device: on processors' tensors, whose operations are those of a GPU's."""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# what gives a number to the host, or a tensor whose size only the device knows
WAITING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten._unique2.default, aten.unique_consecutive.default, aten.bincount.default,
}  # fmt: skip
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
COPIES = {Tensor.tolist, Tensor.cpu, Tensor.numpy}


def waits_for(operation: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    if operation in INDEXED:
        return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in arguments[1])
    if operation is aten.repeat_interleave.Tensor:
        return keywords.get("output_size") is None
    return operation in WAITING


class Waits:
    """`counts`: line of the package -> times. Inside `paused` nothing is counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.active = True

    def note(self, name: str) -> None:
        if self.active:
            lines = [f for f in traceback.extract_stack() if "mft_cli" in f.filename]
            at = lines[-1] if lines else None
            self.counts[f"{at.filename.rpartition('mft_cli/')[2]}:{at.lineno}" if at else name] += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before, self.active = self.active, False
        try:
            yield
        finally:
            self.active = before


@contextlib.contextmanager
def counting_waits() -> Iterator[Waits]:
    waits = Waits()

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if waits_for(func, args, kwargs or {}):
                waits.note(str(func))
            return func(*args, **(kwargs or {}))

    class Copies(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in COPIES:
                waits.note(str(func))
            return func(*args, **(kwargs or {}))

    with Copies(), Operations():
        yield waits
