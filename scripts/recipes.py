"""What papers and their scripts publish beside what the presets of conf/experiment set: one page a paper in docs/papers.

    python scripts/recipes.py          # writes the pages
    python scripts/recipes.py check    # tells which are not current (exit 1)

docs/papers/<paper>.yaml holds what was published and where: of every recipe its preset, its script, and for each key [value, line
of the script or section]. A value that differs from the preset's needs a reason under `differs`, and one that has no key stands
under `besides`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from mft_cli.config.compose import run_with_hydra
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.validate import build, to_plain
from mft_cli.errors import UserError

PAPERS = Path(__file__).resolve().parents[1] / "docs" / "papers"
HEAD = ["| key | published | where | here | |", "|---|---|---|---|---|"]


def preset_values(name: str) -> dict[str, Any]:
    """What `mft train experiment=NAME` composes."""
    composed: list[dict[str, Any]] = []
    run_with_hydra(
        "train", [f"experiment={name}", "data.sources={}"], composed.append
    )  # what has no path is no fault here
    plain: dict[str, Any] = to_plain(build(TrainConfig, composed[0]))
    return plain


def value_of(values: dict[str, Any], key: str) -> object:
    """A value by its dotted key. Raises UserError for a key that the preset does not have."""
    here: Any = values
    for part in key.split("."):
        if not isinstance(here, dict) or part not in here:
            raise UserError(f"docs/papers: no key {key}; take one of docs/keys.md")
        here = here[part]
    return here


def same(published: object, ours: object) -> bool:
    if isinstance(published, (int, float)) and isinstance(ours, (int, float, str)):
        try:
            return float(published) == float(ours)
        except ValueError:
            return False
    return published == ours


def rows(recipe: dict[str, Any], values: dict[str, Any]) -> Iterator[str]:
    """Table rows of a recipe. Raises UserError for a difference without a reason."""
    reasons = dict(recipe.get("differs", {}))
    for key, (published, where) in recipe["values"].items():
        ours = value_of(values, key)
        reason = reasons.pop(key, "")
        if same(published, ours) == bool(reason):
            trouble = (
                "says why it differs, and it does not"
                if reason
                else f"is published as {published} and set to {ours}; say why"
            )
            raise UserError(f"docs/papers, {recipe['preset']}: {key} {trouble} under differs")
        yield f"| `{key}` | {published} | {where} | {ours} | {reason or 'the same'} |"
    if reasons:
        raise UserError(
            f"docs/papers, {recipe['preset']}: differs names {', '.join(reasons)}, which is not under values"
        )


def section(recipe: dict[str, Any]) -> list[str]:
    script = f"Published in {recipe['script']}." if "script" in recipe else ""
    besides = [f"- {line}" for line in recipe.get("besides", [])]
    table = [*HEAD, *rows(recipe, preset_values(recipe["preset"]))]
    return [
        f"## `experiment={recipe['preset']}`",
        "",
        *([script, ""] if script else []),
        *table,
        *([""] * bool(besides)),
        *besides,
        "",
    ]


def page(paper: Path) -> str:
    """A paper's page from its file of published values."""
    published = yaml.safe_load(paper.read_text())
    made = f"Made by `python scripts/recipes.py` from `docs/papers/{paper.name}` and `conf/experiment`; change those."
    lines = [f"# {published['title']}", "", made, "", *published["about"].splitlines(), ""]
    for recipe in published["recipes"]:
        lines += section(recipe)
    return "\n".join(lines).rstrip() + "\n"


def pages() -> dict[Path, Callable[[], str]]:
    """File -> what makes its text, of every paper."""
    return {paper.with_suffix(".md"): lambda paper=paper: page(paper) for paper in sorted(PAPERS.glob("*.yaml"))}


def main() -> None:
    stale = [file.name for file, make in pages().items() if not file.exists() or file.read_text() != make()]
    if sys.argv[1:] == ["check"]:
        sys.exit(f"not current: {', '.join(stale)}; run python scripts/recipes.py" if stale else 0)
    for file, make in pages().items():
        file.write_text(make())


if __name__ == "__main__":
    main()
