"""Numbers of transformer layers as a setting names them, and how many of them a model folder has. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from mft_cli.errors import UserError

LayerSetting = str | int | Sequence[int] | None  # method.layers


def layer_numbers(layers: LayerSetting, count: int | None) -> set[int]:
    """Numbers meant by "4-7", "0-3,20-23", 4, [4, 5] or "all"; null is all. Raises UserError for what is no such text.

    `count` is how many layers the model has. null: not known yet, so that only the text is checked, and "all" is none.
    """
    if layers is None or layers == "all":
        return set(range(count or 0))
    numbers: set[int] = set()
    for part in str(layers).strip("[]").replace("'", "").split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            raise UserError(f"method.layers={layers}: expected layer numbers such as 4-7, [4,5], 0-3,20-23, or all")
        numbers |= set(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    if count is not None and max(numbers) >= count:
        raise UserError(f"method.layers={layers}: the model has the layers 0 to {count - 1}; choose among them")
    return numbers


def layers_of(path: str) -> int | None:
    """How many layers a model folder's config.json says it has, if it is a folder and does."""
    try:
        config = json.loads((Path(path).expanduser() / "config.json").read_text(encoding="utf-8"))
        inner = config.get("text_config") or config
        return next(int(inner[k]) for k in ("num_hidden_layers", "n_layer") if k in inner)
    except (OSError, ValueError, TypeError, AttributeError, StopIteration):
        return None  # what is wrong with the folder is reported where it is loaded
