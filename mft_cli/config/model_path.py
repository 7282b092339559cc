"""What a path that names a model leads to: a model, an adapter, or a run folder, whose export is meant. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mft_cli.config.laboratory import PREFIX, lab_export
from mft_cli.errors import UserError

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
Kind = Literal["model", "adapter", "run", "other"]


def kind_of(folder: Path) -> Kind:
    """A folder's kind by the files in it; `other` too for what is not a folder. A run folder may lack its export."""
    if (folder / "config.json").is_file():
        return "model"
    if (folder / ADAPTER).is_file():
        return "adapter"
    exported = (folder / "export" / "config.json").is_file()
    return "run" if exported or ((folder / "state.json").is_file() and (folder / "config.yaml").is_file()) else "other"


def model_path(path: str, key: str = "model.path") -> str:
    """`path`, or the export in it where it is a run folder, or of a model of the laboratory. Raises UserError without one."""
    if path.startswith(PREFIX):
        return str(lab_export(path.removeprefix(PREFIX)))
    folder = Path(path).expanduser()
    if not path or kind_of(folder) != "run":
        return path
    if kind_of(folder / "export") != "model":
        raise UserError(
            f"{key}={path} is a run folder without an export: the run has not finished; start it again to go on, or name "
            f"another model"
        )
    return str(Path(path) / "export")


def with_model_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Composed values with run folders replaced by their exports, in model.path and teacher.model.path."""
    changed = dict(values)
    if isinstance(model := values.get("model"), dict) and isinstance(model.get("path"), str):
        changed["model"] = {**model, "path": model_path(model["path"])}
    teacher = values.get("teacher")
    if (
        isinstance(teacher, dict)
        and isinstance(model := teacher.get("model"), dict)
        and isinstance(model.get("path"), str)
    ):
        changed["teacher"] = {**teacher, "model": {**model, "path": model_path(model["path"], "teacher.model.path")}}
    return changed


def no_model(path: str, folder: Path) -> UserError:
    """What `model.path` names is a folder, and neither a model nor an adapter: the file that it lacks."""
    missing = ADAPTER if (folder / ADAPTER_WEIGHTS).is_file() else "config.json"
    return UserError(f"model.path={path}: a folder without {missing} is not a model (unfinished export?)")
