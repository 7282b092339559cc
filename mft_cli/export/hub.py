"""An export as a repository of the model hub: its files, without a word of the machine that made them, and the upload."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mft_cli.config.model_path import ADAPTER
from mft_cli.errors import UserError, first_line
from mft_cli.export.card import HubFacts, Scores, hub_id, model_card, without_folders
from mft_cli.files import read_json
from mft_cli.models.checksums import SUMS

# part -> the file that it needs
PARTS = {"merged": "config.json", "adapter": ADAPTER, "masks": "masks.mft"}


@dataclass
class Upload:
    """The files of a repository: name there -> a file here, or the text that is sent in its place."""

    repository: str
    files: dict[str, Path | str]

    def size(self, name: str) -> int:
        """Bytes."""
        content = self.files[name]
        return len(content.encode()) if isinstance(content, str) else content.stat().st_size


def prepare(export: Path, repository: str, part: str, hub: HubFacts) -> Upload:
    """What `part` of an export (merged, adapter, masks) is on the hub. Raises UserError for what is not there."""
    check_name(repository)
    folder = export / "adapter" if part == "adapter" and (export / "adapter").is_dir() else export
    if not (folder / PARTS[part]).is_file() or not (folder / "mft.json").is_file():
        raise UserError(
            f"{folder}: no {PARTS[part]} with an mft.json beside it: give the export of a run, outputs/<run>/export"
        )
    facts = read_json(folder / "mft.json")
    hub = replace(hub, name=repository.split("/")[-1], command=hub.command or command_of(export.parent))
    files: dict[str, Path | str] = {}
    if part == "masks":
        files[PARTS[part]] = folder / PARTS[part]
    else:
        inside = [path for path in sorted(folder.rglob("*")) if path.is_file() and is_sent(path.relative_to(folder))]
        files |= {path.relative_to(folder).as_posix(): path for path in inside}
    if part == "adapter":
        hub = replace(hub, library="peft")
        files[ADAPTER] = adapter_settings(folder / ADAPTER, hub)
    files["mft.json"] = json.dumps(without_paths(facts), indent=1, ensure_ascii=False) + "\n"
    files["README.md"] = model_card(without_paths(facts), scores_of(export), hub)
    return Upload(repository, files)


def check_name(repository: str) -> None:
    """Raises UserError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"{repository}: {first_line(error)}") from None
    if "/" not in repository:
        raise UserError(f"{repository}: expected owner/name, the repository on the hub")


def is_sent(path: Path) -> bool:
    """Whether a file of a model's folder belongs to the repository: not the adapter's, nor what is written anew."""
    return not any(part.startswith(".") for part in path.parts) and path.parts[0] not in (
        "adapter",
        SUMS,
        "README.md",
        "mft.json",
    )


def adapter_settings(file: Path, hub: HubFacts) -> str:
    """The adapter's settings with the base model's hub id. Raises UserError where that is not known."""
    settings = read_json(file)
    base = hub.base or hub_id(str(settings.get("base_model_name_or_path")))
    if base is None:
        raise UserError(
            f"{file}: the adapter's base model is {settings.get('base_model_name_or_path')}, which nobody else has: name its hub "
            f"id with base=owner/name, or push part=merged"
        )
    return json.dumps({**settings, "base_model_name_or_path": base}, indent=2) + "\n"


def without_paths(value: Any) -> Any:
    """Nested plain values whose absolute paths are their last part."""
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    return without_folders(value) if isinstance(value, str) else value


def scores_of(export: Path) -> Scores:
    """Benchmark -> metrics of this export's weights, from the run's folder."""
    files = sorted((export.parent / export.name.replace("export", "eval")).glob("*/metrics.json"))
    metrics = {file.parent.name: read_json(file) for file in files}
    facts = export / "mft.json"
    digest = read_json(facts).get("weights_digest") if facts.is_file() else None
    return {name: m for name, m in metrics.items() if digest and (m.get("model") or {}).get("weights_digest") == digest}


def command_of(run: Path) -> str:
    """The command that made a run, from its run.json; empty where there is none."""
    file = run / "run.json"
    words = read_json(file).get("command") if file.is_file() else None
    if not isinstance(words, list) or not words:
        return ""
    program = "mft" if Path(str(words[0])).name == "__main__.py" else str(words[0])  # python -m mft_cli
    return without_folders(shlex.join([program, *map(str, words[1:])]))


def push(upload: Upload, private: bool) -> str:
    """Makes the repository, if there is none, and commits the files. Returns its address. Raises UserError."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    operations = [
        CommitOperationAdd(name, content.encode() if isinstance(content, str) else str(content))
        for name, content in upload.files.items()
    ]
    api = HfApi()
    try:
        address = api.create_repo(upload.repository, private=private, exist_ok=True)
        api.create_commit(upload.repository, operations, commit_message="Pushed by mft")
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        raise UserError(
            f"{upload.repository}: the hub refuses ({first_line(error)}); is HF_TOKEN set, with the right to write?"
        ) from None
    return str(address)
