"""Imports go downwards only, heavy packages stay in their one module, and the key reference is the schema's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tiny import ROOT

PACKAGE = ROOT / "mft_cli"
# From the ground up. A module may import from its own layer and from those below; packages count as one.
LAYERS = [
    [
        "errors",
        "help_texts",
        "schema",
        "rng",
        "__init__",
        "zero",
        "zero_settings",
        "ranks",
        "fragments",
        "confidential",
        "stop_signal",
    ],
    ["config", "checks", "run_dir", "keys", "allocation"],
    ["slurm", "submit"],
    [
        "answers",
        "exact_numbers",
        "symbolic",
        "allocator",
        "attention",
        "short_attention",
        "cross_entropy",
        "fast_modules",
        "selection",
    ],
    ["data", "models", "peft_adapters", "metrics", "optim", "checkpoint"],
    ["methods", "masks", "refine", "engine", "engine_deepspeed", "export", "export_streamed", "data_show"],
    ["loop", "eval", "rerun", "launch"],
    ["assembly"],
    ["exports"],
    ["report", "train", "evaluate", "sweep", "plan", "critique", "generate", "compare", "data_check", "analysis"],
    ["driver", "command_line", "completion"],
    ["cli", "__main__"],
]
ONE_PLACE = {"vllm": 1, "wandb": 1, "matplotlib": 1, "tensorboard": 1, "hydra": 3, "submitit": 1}
FORBIDDEN_NAMES = ("utils", "common", "helpers", "misc")
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, at the top level) of every import."""
    tree = ast.parse(path.read_text())
    top = {id(n) for n in tree.body}
    found = []
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
                if node.module == "mft_cli"
                else [node.module]
            )
        found += [(n, id(node) in top) for n in names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path):
    own = level(name_of(path))
    for module, _ in imports(path):
        parts = module.split(".")
        if parts[0] == "mft_cli" and len(parts) > 1 and parts[1] != "__version__":
            assert level(parts[1]) <= own, f"{path.name} imports {module} from a layer above"


def test_heavy_packages_are_imported_in_one_module_inside_functions():
    for package, most in ONE_PLACE.items():
        users = {p for p in MODULES for m, _ in imports(p) if m.split(".")[0] == package or m.endswith(f".{package}")}
        assert len(users) <= most, (package, users)
        assert not any(t for p in users for m, t in imports(p) if m.split(".")[0] == package)


def test_no_type_checking_escapes_and_no_drawers_of_odds_and_ends():
    for path in MODULES:
        assert "TYPE_CHECKING" not in path.read_text()
        assert path.stem not in FORBIDDEN_NAMES


def test_files_stay_readable():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 400, path


def test_key_reference_is_the_schemas():
    from mft_cli.keys import page

    assert (ROOT / "docs" / "keys.md").read_text() == page(), "run: python -m mft_cli.keys > docs/keys.md"


def test_every_key_is_documented():
    from mft_cli import schema
    from mft_cli.config import walk

    for name, _, f in walk(schema.TrainConfig):
        assert f.default.description, name
        assert f.default.description.endswith("."), name


def test_an_installed_mft_has_all_its_packages():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert set(listed) == found | {"mft_cli.conf"}
