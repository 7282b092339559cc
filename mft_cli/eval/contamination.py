"""Whether a model was trained on what it is evaluated on, by what its training data declared (`derived_from`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mft_cli.errors import UserError
from mft_cli.run_dir import read_json

FACTS = "mft.json"  # written beside the weights by the export


def export_facts(folder: Path) -> dict[str, Any]:
    """What the export says of itself: `derived_from`, `prompt` and more; empty for a model that mft did not export."""
    path = folder / FACTS
    if not path.is_file():
        return {}
    try:
        facts = read_json(path)
    except ValueError:
        raise UserError(f"{path}: not valid JSON (a half-written export?); export the model again") from None
    return facts if isinstance(facts, dict) else {}


def contamination(facts: dict[str, Any], benchmark: str, derived_from: Sequence[str]) -> str | None:
    """The reason why a score is contaminated, or None. A benchmark's own name counts as one of its tags."""
    tags = {benchmark, *derived_from}
    shared = sorted(tags & set(facts.get("derived_from") or ()))
    if not shared:
        return None
    return f"the training data says that it contains or was made from {', '.join(shared)}, which {benchmark} is made of"
