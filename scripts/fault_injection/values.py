"""Values that no key may take, made from the schema: numbers without an end, wrong types, and names with a letter missing."""

from __future__ import annotations

import random
import typing
from collections.abc import Iterator
from dataclasses import dataclass

from mft_cli.analysis.settings import DependencySettings, LandscapeSettings
from mft_cli.cli import compare, generate, score, sweep
from mft_cli.config import schema
from mft_cli.config.schema.deepspeed_file import DeepspeedFile
from mft_cli.config.validate import build, dataclasses_in, walk
from mft_cli.errors import UserError
from mft_cli.plan.settings import PlanOptions
from scripts.fault_injection.forks import run_mft
from scripts.fault_injection.scenarios import Workshop
from scripts.fault_injection.table import Table, traceback_in

EXTREMES = (float("inf"), float("-inf"), float("nan"), 1e22, 10**30, -(10**30))
CONFIGURATIONS = (schema.TrainConfig, schema.EvalRunConfig, schema.CritiqueRunConfig)
WORDS_OF_VERBS = (
    PlanOptions, DependencySettings, LandscapeSettings, compare.Options, generate.Options, score.Options, sweep.RunOptions,
    DeepspeedFile,
)  # fmt: skip
UNBOUNDED = ("method.threshold",)  # scores have no ends: any finite number is a threshold


@dataclass(frozen=True)
class Wrong:
    """A value that `root` has to refuse, with the key named. `beside`: values that the key's section needs."""

    root: type
    key: str
    value: object
    beside: tuple[tuple[str, object], ...] = ()

    def values(self) -> dict[str, object]:
        inner: object = self.value
        for i, part in enumerate(reversed(self.key.split("."))):
            inner = {part.replace("<name>", "a"): inner, **(dict(self.beside) if i == 0 else {})}
        return typing.cast("dict[str, object]", inner)

    @property
    def named(self) -> str:
        return self.key.replace("<name>", "a")


Key = tuple[type, str, object, tuple[tuple[str, object], ...]]  # (root, key, annotation, beside)


def keys() -> Iterator[Key]:
    """Every key of the configurations and of the verbs' own words; a method's once for each method."""
    for root in (*CONFIGURATIONS, *WORDS_OF_VERBS):
        for key, annotation, _ in walk(root):
            if not key.startswith("method."):
                yield root, key, annotation, ()
    for method in dataclasses_in(schema.AnyMethod):
        for key, annotation, _ in walk(method, "method."):
            if key != "method.name":
                yield schema.TrainConfig, key, annotation, (("name", method.name),)


def kinds_in(annotation: object) -> set[object]:
    """int, float, str, bool, list, dict, ...: what a key can hold."""
    inner = [a for a in typing.get_args(annotation) if isinstance(a, type) or typing.get_args(a)]
    origin = typing.get_origin(annotation)
    if origin in (list, dict, tuple, typing.Literal):
        return {origin}
    if inner:
        return set().union(*map(kinds_in, inner))
    return {annotation}


def wrong_values() -> Iterator[Wrong]:
    for root, key, annotation, beside in keys():
        kinds = kinds_in(annotation)
        section = bool(dataclasses_in(annotation))
        if kinds & {int, float} and not section:
            for value in EXTREMES:
                if key not in UNBOUNDED or abs(typing.cast(float, value)) == float("inf") or value != value:
                    yield Wrong(root, key, value, beside)
        if kinds and object not in kinds and typing.Any not in kinds:
            if dict not in kinds and not section:
                yield Wrong(root, key, {"a": {"b": 1}}, beside)
            if list not in kinds and tuple not in kinds:
                yield Wrong(root, key, [[[1]]], beside)
            if str not in kinds and list not in kinds and "Path" not in str(kinds):
                yield Wrong(root, key, "no such value", beside)
        if not key.endswith("<name>"):
            head, _, last = key.rpartition(".")
            if len(last) > 4:
                yield Wrong(root, f"{head}.{last[:-2]}{last[-1]}".lstrip("."), 1, beside)


def values(shop: Workshop, table: Table, n: int, seed: str, names: list[str]) -> None:
    """All of them in this process, and about `n` / 10 extreme numbers of `mft train` as words of the command line."""
    rng, everything = random.Random(seed), list(wrong_values())
    for _ in table.untried([n], f"{seed} in this process"):
        for wrong in everything if n >= 400 else rng.sample(everything, min(20 * n, len(everything))):
            try_value(table, wrong)
    extremes = [w for w in everything if w.root is schema.TrainConfig and isinstance(w.value, float) and not w.beside]
    typed = rng.sample([w for w in extremes if "<name>" not in w.key], max(1, n // 10))
    for wrong in table.untried(typed, seed):
        try_word(shop, table, wrong)


def try_value(table: Table, wrong: Wrong) -> None:
    group = f"value: {kind_of(wrong)}"
    table.count(group)
    try:
        build(wrong.root, wrong.values())
    except UserError as error:
        if sum(wrong.named in line for line in str(error).split("\n")) != 1:  # other lines: keys that are missing
            table.blame(
                group,
                "lost",
                f"{wrong.root.__name__}: {wrong.named}={wrong.value}: the key is not named, once: {error}",
            )
    except Exception as error:
        table.blame(group, "traceback", f"{wrong.root.__name__}: {wrong.named}={wrong.value}: {error!r}")
    else:
        table.blame(group, "silent", f"{wrong.root.__name__}: {wrong.named}={wrong.value} is accepted")


def kind_of(wrong: Wrong) -> str:
    if isinstance(wrong.value, (dict, list, str)):
        return "wrong type"
    return "misspelt key" if wrong.value == 1 else "extreme number"


def try_word(shop: Workshop, table: Table, wrong: Wrong) -> None:
    group = "value: extreme number, typed"
    table.count(group)
    folder = shop.folder / "case"
    folder.mkdir(exist_ok=True)
    ended = run_mft(["train", f"++{wrong.key}={wrong.value}", "run_dir=run"], folder)
    what = f"mft train {wrong.key}={wrong.value}"
    if line := traceback_in(ended.output):
        table.blame(group, "traceback", f"{what}: {line}")
    elif ended.code == 0:
        table.blame(group, "silent", f"{what} is accepted")
    elif ended.code != 2 or wrong.key not in ended.output:
        table.blame(group, "lost", f"{what}: exit code {ended.code}, the key is not named: {ended.output[-200:]}")
