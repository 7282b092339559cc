"""The model card of an export and what it states."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from mft_cli import __version__
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.files import read_json, write_atomically, write_json
from mft_cli.models.checksums import digest
from mft_cli.models.folder import weights_digest
from mft_cli.provenance import versions


class SourceFacts(TypedDict):
    """A source of training data: `where` it came from, how many `rows` were taken."""

    where: str
    digest: str
    rows: int


class ExportFacts(TypedDict, total=False):
    """mft.json."""

    base_model: str
    method: dict[str, object]
    peft: dict[str, object]
    prompt: dict[str, object]
    data: dict[str, SourceFacts]
    derived_from: list[str]
    settings_digest: str
    step: int
    seed: int
    versions: dict[str, str]
    masks: dict[str, object]


Scores = dict[str, dict[str, Any]]  # benchmark -> its metrics.json


def export_facts(
    config: TrainConfig, digest: str, step: int, data: dict[str, SourceFacts], derived_from: list[str]
) -> ExportFacts:
    """What the export says of itself; `mft eval` reads the prompt and derived_from."""
    return {
        "base_model": config.model.path,
        "method": asdict(config.method),
        "peft": asdict(config.peft),
        "prompt": asdict(config.prompt),
        "data": data,
        "derived_from": derived_from,
        "settings_digest": digest,
        "step": step,
        "seed": config.seed,
        "versions": versions(),
    }


def write_facts(folder: Path, facts: ExportFacts) -> None:
    """mft.json and the model card, of a folder whose weights and config.json are written."""
    whole = weights_digest(sorted(folder.glob("*.safetensors")), read_json(folder / "config.json"), digest)
    write_json(folder / "mft.json", {"mft_version": __version__, **facts, "weights_digest": whole})
    write_atomically(folder / "README.md", model_card(facts, {}))


@dataclass(frozen=True)
class HubFacts:
    """What a card says on the hub besides the run's own facts; empty where it is not known."""

    name: str = ""  # of the repository
    library: str = "transformers"
    base: str | None = None  # hub id of the model that was fine-tuned; None: facts' base_model, if it is one
    license: str | None = None
    language: tuple[str, ...] = ()
    command: str = ""


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def metadata(facts: ExportFacts, scores: Scores, hub: HubFacts) -> str:
    """The YAML at the card's head, as huggingface_hub writes and reads it: with the scores, their intervals and settings."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation", dataset_type=name, dataset_name=name, metric_type="accuracy",
            metric_name="accuracy (share, with its 95 % interval)", metric_value=s["accuracy"],
            metric_args={
                "interval": s["interval"], "problems": s["n"], "samples": s.get("samples", 1),
                "prompt": (s.get("prompt") or {}).get("name"), "settings_digest": s.get("settings_digest"),
            },
        )
        for name, s in scores.items()
    ]  # fmt: skip
    sources = [str(source["where"]).split(" ")[0] for source in facts["data"].values()]
    data = ModelCardData(
        base_model=hub.base or hub_id(facts["base_model"]), library_name=hub.library, license=hub.license,
        language=list(hub.language) or None, datasets=[s for s in sources if hub_id(s)] or None,
        pipeline_tag="text-generation", tags=["mft", str(facts["method"]["name"])],
        model_name=hub.name or f"{facts['method']['name']}-s{facts['seed']}", eval_results=results or None,
    )  # fmt: skip
    return str(data.to_yaml())


def hub_id(name: str) -> str | None:
    """The name, if it is one of the model hub and no folder here."""
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def model_card(facts: ExportFacts, scores: Scores, hub: HubFacts | None = None) -> str:
    """README.md of the export, in the hub's form."""
    hub = hub or HubFacts()
    method = facts["method"]
    settings = "\n".join(f"| {k} | {without_folders(str(v))} |" for k, v in method.items() if k != "name")
    data = "\n".join(
        f"| {n} | {without_folders(d['where'])} | {d['rows']:,} | `{d['digest'][:16]}` |"
        for n, d in facts["data"].items()
    )
    packages = ", ".join(f"{n} {v}" for n, v in facts["versions"].items())
    lines = [
        f"---\n{metadata(facts, scores, hub)}\n---",
        f"# {without_folders(facts['base_model'])} fine-tuned with {method['name']}",
        f"Made by mft {__version__}: step {facts['step']}, seed {facts['seed']}, settings digest "
        f"`{facts['settings_digest']}`. The prompt is `{facts['prompt']['name']}` (in full in `mft.json`).",
        f"## Method\n\n| {method['name']} | value |\n|---|---|\n{settings}"
        if settings
        else f"## Method\n\n{method['name']}",
        f"## Data\n\n| source | where | examples | digest |\n|---|---|---|---|\n{data}",
    ]
    if facts["derived_from"]:
        lines.append(
            f"**Contamination.** The training data contains or was made from: {', '.join(facts['derived_from'])}. "
            "Scores on these benchmarks do not measure generalisation."
        )
    if scores:
        rows = "\n".join(
            f"| {n} | {s['n']} | {percent(s['accuracy'])} | {' to '.join(map(percent, s['interval']))} "
            f"| {s.get('contaminated') or 'no'} |"
            for n, s in scores.items()
        )
        lines.append(
            f"## Scores\n\n| benchmark | problems | accuracy | 95 % interval | contaminated |\n"
            f"|---|---|---|---|---|\n{rows}"
        )
    if hub.command:
        lines.append(f"## Command\n\n    {hub.command}")
    lines.append(f"## Versions\n\n{packages}")
    return "\n\n".join(lines) + "\n"


ABSOLUTE = re.compile(r"(?<![\w:/.~-])(?:/|~/)(?:[^\s/,;'\"]+/)*(?=[^\s/])")


def without_folders(text: str) -> str:
    """Absolute paths become their last part: a card is for others, and says nothing of whose machine it was made on."""
    return ABSOLUTE.sub("", text)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def add_scores_to_card(folder: Path, scores: Scores) -> None:
    """Rewrite an export's model card with its scores."""
    write_atomically(folder / "README.md", model_card(read_json(folder / "mft.json"), scores))
