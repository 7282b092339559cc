"""The house: rooms in layers, imports downwards only and without circles, heavy packages in their one module, tests that
mirror the package, and pages that are generated from the code.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.tiny import ROOT

PACKAGE = ROOT / "mft_cli"
# From the top down. A room may import from its own layer and from those below it; ARCHITECTURE.md shows the same list.
LAYERS = [
    ["cli", "api", "__main__"],
    ["sweep", "plan", "critique", "analysis"],
    ["train", "eval"],
    ["methods", "export", "models"],
    ["distributed"],
    ["data", "slurm", "report", "run_dir", "provenance"],
    ["config", "answers", "stats"],
    ["errors", "rng", "files", "signals", "console", "__init__"],
]
MOST_ENTRIES = 29  # at the package's root: a newcomer reads them at one glance
ONE_PLACE = {
    "vllm": 1,
    "wandb": 1,
    "matplotlib": 1,
    "tensorboard": 1,
    "mlflow": 1,
    "trackio": 1,
    "hydra": 3,
    "submitit": 1,
}
FORBIDDEN_NAMES = ("utils", "common", "helpers", "misc")
MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """mft_cli.train.loop; of a package's __init__ the package's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def layer_of(module: str) -> int:
    """0 is the lowest."""
    return next(i for i, layer in enumerate(reversed(LAYERS)) if room_of(module) in layer)


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, at the top level) of every import; `from package import x` counts as package.x."""
    tree = ast.parse(path.read_text())
    top = {id(n) for n in tree.body}
    result = []
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        result += [(n, id(node) in top) for n in names]
    return result


GRAPH = {dotted(p): p for p in MODULES}


def imported_modules(module: str) -> set[str]:
    """The package's modules that `module` imports, inside functions too."""
    names = {n for n, _ in imports(GRAPH[module])}
    packages = {n for n in names & set(GRAPH) if any(other.startswith(f"{n}.") and other in GRAPH for other in names)}
    return (names & set(GRAPH)) - packages - {module}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_go_downwards(module: str):
    for imported in imported_modules(module):
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported} from a layer above"


def test_no_circle_of_modules():
    """Imports inside functions count. What imports nothing that is left is taken away; what remains is a circle."""
    left = {m: imported_modules(m) for m in GRAPH}
    while free := [m for m, names in left.items() if not names & set(left)]:
        for m in free:
            del left[m]
    assert not left, sorted(left)


def test_the_root_is_read_at_one_glance():
    entries = [p for p in PACKAGE.iterdir() if p.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES, sorted(p.name for p in entries)
    assert {p.stem for p in entries if p.name != "py.typed"} == {name for layer in LAYERS for name in layer}


def test_architecture_shows_the_same_layers():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    shown = re.search(r"## Layers.*?\n\n((?:    .*\n)+)", page)
    assert shown, "ARCHITECTURE.md has no section Layers"
    names = [re.findall(r"\w+", line) for line in shown[1].splitlines()]
    assert [[n for n in layer if n != "__init__"] for layer in LAYERS] == names


def test_tests_mirror_the_package():
    rooms = {p.relative_to(PACKAGE) for p in PACKAGE.rglob("*") if p.is_dir()} | {
        Path("."),
        Path("scripts"),
        Path("support"),
    }
    for file in (ROOT / "tests").rglob("*.py"):
        folder = file.parent.relative_to(ROOT / "tests")
        assert folder in rooms, f"{file}: no such folder in mft_cli"
        if folder == Path("support"):
            assert not file.name.startswith("test_"), file
        else:
            assert file.name.startswith("test_") or file.name in ("conftest.py", "__init__.py"), file


def test_heavy_packages_are_imported_in_one_module_inside_functions():
    for package, most in ONE_PLACE.items():
        users = {p for p in MODULES for m, _ in imports(p) if m.split(".")[0] == package}
        assert len(users) <= most, (package, users)
        assert not any(t for p in users for m, t in imports(p) if m.split(".")[0] == package)


def test_no_type_checking_escapes_and_no_drawers_of_odds_and_ends():
    for path in MODULES:
        assert "TYPE_CHECKING" not in path.read_text()
        assert path.stem not in FORBIDDEN_NAMES


def test_key_reference_is_the_schemas():
    from mft_cli.config.reference import page

    assert (ROOT / "docs" / "keys.md").read_text() == page(), "run: python -m mft_cli.config.reference > docs/keys.md"


def test_every_key_is_documented():
    from mft_cli.config import schema
    from mft_cli.config.validate import walk

    for name, _, f in walk(schema.TrainConfig):
        assert f.default.description, name
        assert f.default.description.endswith("."), name


def test_an_installed_mft_has_all_its_packages():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert set(listed) == found | {"mft_cli.conf"}
