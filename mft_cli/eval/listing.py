"""`mft eval list`: every benchmark with its problems, its source, what of it is on this machine, and what is counted.

No torch and no data set library: nothing is read but YAML files and names of files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from mft_cli.config.compose import CONF
from mft_cli.config.load import compose_eval
from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.config.schema.inputs import SourceConfig, expand
from mft_cli.console import text_table
from mft_cli.data.files import download_place, is_url, local_files
from mft_cli.errors import UserError
from mft_cli.files import JsonObject, user_cache

COUNTED = {
    "number": "equal number", "math": "equal mathematics", "choice": "right letter", "text": "equal text",
    "steps": "equal number; right steps",
    "code": "tests pass", "instructions": "instructions followed", "judged": "wins against the reference",
    "likelihood": "likeliest option", "perplexity": "likelihood of texts",
}  # fmt: skip
COLUMNS = ("benchmark", "problems", "here", "counted", "source")


def print_list(extra: Iterable[Path], as_json: bool) -> None:
    """Print the table, or a list of objects, also of the folders `extra`."""
    rows, suites, problems = listing(extra)
    if as_json:
        print(json.dumps({"benchmarks": rows, "suites": suites, "problems": problems}, indent=1))
        return
    shown = [{**row, "problems": "" if row["problems"] is None else f"{row['problems']:,}"} for row in rows]
    print("\n".join(text_table([COLUMNS, *([str(row[c]) for c in COLUMNS] for row in shown)])))
    print(
        "\n".join(["", *text_table([("suite", "members"), *((name, " ".join(m)) for name, m in suites.items())]), ""])
    )
    print(f"local: under MFT_DATA_DIR ({os.environ.get('MFT_DATA_DIR') or 'not set'})")
    for problem in problems:
        print(f"not listed: {problem}")


def listing(extra: Iterable[Path] = ()) -> tuple[list[JsonObject], dict[str, list[str]], list[str]]:
    """(a row a benchmark, suite -> members, sentences about files that do not compose), also of the folders `extra`."""
    extra = list(extra)
    files = {file.stem: file for root in (CONF, *extra) for file in sorted((root / "eval").glob("*.yaml"))}
    suites = {name: inside for name, file in files.items() if (inside := members(file))}
    names = sorted(name for name in files if name not in suites and name != "none")
    benchmarks, problems = composed(names, extra)
    rows = []
    for name, benchmark in benchmarks.items():
        try:
            here = location(benchmark.source) if benchmark.source.path else "yours"
        except UserError as error:
            here = f"({error})"
        counted = COUNTED[benchmark.answer_type] + (f", avg@{benchmark.samples}" if benchmark.samples > 1 else "")
        rows.append({
            "benchmark": name,
            "problems": benchmark.limit or benchmark.problems,
            "here": here,
            "counted": counted + (", by base problem" if benchmark.group else ""),
            "source": source_name(benchmark.source) if benchmark.source.path else "",
            "suites": [suite for suite, inside in suites.items() if name in inside],
        })  # fmt: skip
    return rows, suites, problems


def members(file: Path) -> list[str] | None:
    """The benchmarks of a suite's YAML file; None for a benchmark's. A suite is a defaults list in eval.benchmarks."""
    content = file.read_text(encoding="utf-8")
    package = re.match(r"\s*#\s*@package\s+(\S+)", content)
    if package is None or package[1] != "eval.benchmarks":
        return None
    try:
        values = yaml.safe_load(content) or {}
    except yaml.YAMLError:
        return None
    listed = values.get("defaults", []) if isinstance(values, dict) else []
    return [name for name in listed if isinstance(name, str) and name != "_self_"]


def composed(names: list[str], extra: list[Path]) -> tuple[dict[str, BenchmarkConfig], list[str]]:
    """The benchmarks by name, and a sentence for each file that has none. One at a time only if together they fail."""
    try:
        return dict(compose_eval(names, extra).eval.benchmarks), []
    except UserError:
        benchmarks, problems = dict[str, BenchmarkConfig](), []
        for name in names:
            try:
                benchmarks.update(compose_eval([name], extra).eval.benchmarks)
            except UserError as error:
                problems.append(f"eval={name}: {error}")
        return benchmarks, problems


# ---- where the rows are ---------------------------------------------------------------------------------------------


def location(source: SourceConfig) -> str:
    """local, generated, downloaded, hub cache; or, where it is not on this machine, hub or web."""
    if source.path.startswith("generated:"):
        return "generated"
    if local_files(source) is not None:
        return "local"
    if is_url(source.path):
        return "downloaded" if all(download_place(url).is_file() for url in expand(source.path)) else "web"
    if Path(source.path).expanduser().is_dir():
        return "local"
    return "hub cache" if in_hub_cache(source) else "hub"


def in_hub_cache(source: SourceConfig) -> bool:
    """Whether the datasets library has a prepared copy: <cache>/<owner>___<name>/<configuration>/..."""
    home = Path(os.environ.get("HF_HOME", user_cache() / "huggingface"))
    cache = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets"))
    cached_name = plain(source.path.replace("/", "___"))
    folders = [f for f in cache.iterdir() if plain(f.name) == cached_name] if cache.is_dir() else []
    parts = [plain(name) for name in expand(source.name or "default")]
    prepared = {plain(p.name) for folder in folders for p in folder.iterdir() if p.is_dir()}
    return bool(folders) and all(any(p == part or p.startswith(f"{part}") for p in prepared) for part in parts)


def plain(name: str) -> str:
    """A name without what the datasets library changes in it: letter case, dashes, underscores."""
    return re.sub(r"[\W_]", "", name).lower()


def source_name(source: SourceConfig) -> str:
    """What the source is called: a hub id, or the repository and file of an address."""
    if not is_url(source.path):
        return source.path + (f" {source.split}" if not Path(source.path).suffix else "")
    address = re.match(
        r"https?://(?:raw\.githubusercontent\.com|huggingface\.co/datasets)/([^/]+/[^/]+)/.*/([^/]+)$", source.path
    )
    return f"{address[1]} {address[2]}" if address else source.path
