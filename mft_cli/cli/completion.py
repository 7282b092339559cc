"""Tab completion: the verbs, their own options, Hydra's groups, the schema's keys and values; lists, sweeps and paths."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import typing
from collections.abc import Iterable
from pathlib import Path

from mft_cli.config.compose import groups, hydra_completion
from mft_cli.config.validate import hints, names

# The verbs that take settings, and whose settings they are.
SETTINGS = {
    "train": "train", "data": "train", "plan": "train", "analyze": "train",
    "eval": "eval", "generate": "eval", "score": "eval", "critique": "critique",
}  # fmt: skip
SECOND_WORDS = {
    "data": ("show", "check"), "analyze": ("dependency", "landscape"), "sweep": ("status", "retry", "report"),
    "mask": ("apply", "inspect", "diff"),
}  # fmt: skip
# Words of a verb that are no settings: the dataclasses that hold them.
OPTIONS = {
    "init": "cli.init:Options", "data show": "cli.data:ShowOptions", "data check": "cli.data:CheckOptions",
    "plan": "plan.settings:PlanOptions", "generate": "cli.generate:Options", "score": "cli.score:Options",
    "export": "cli.export:Options", "report": "cli.report:Options", "compare": "cli.compare:Options",
    **dict.fromkeys(("mask apply", "mask inspect", "mask diff"), "cli.mask:Options"),
    "sweep retry": "cli.sweep:RetryOptions", "sweep report": "cli.sweep:ReportOptions",
}  # fmt: skip
# Last parts of keys that name files.
FILES = {"path", "gguf", "converter", "out", "run_dir", "generations", "arch", "config_file", "chat_template"}
BARE = ("export", "compare", "report", "mask", "sweep", "analyze")  # verbs that take folders without a key


def complete(arguments: list[str], verbs: Iterable[str]) -> None:
    """Answer the shell: `-sc install=bash` prints the script, `-sc query=bash` the words that may stand at COMP_LINE's end."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if not (arguments[1:] and arguments[1].startswith("query=")):
        hydra_completion(arguments, "train")
    elif len(words) < 3:
        answer(verbs, words[-1])
    elif words[1] in SECOND_WORDS and len(words) == 3:
        answer(SECOND_WORDS[words[1]], words[-1])
    else:
        answer(sorted(candidates(words)), words[-1])


def candidates(words: list[str]) -> set[str]:
    """What the last word can become."""
    verb, last = words[1], words[-1]
    named = f"{verb} {words[2]}" if verb in SECOND_WORDS else verb
    if words[-2] in ("--config", "--config-dir", "-cd") or (verb in BARE and "=" not in last):
        return set(paths(last)) | own_options(named, last)
    result = own_options(named, last) | file_values(last)
    if verb in SETTINGS:
        name = SETTINGS[verb]
        os.environ["COMP_LINE"] = " ".join([words[0], *words[3 if verb in SECOND_WORDS else 2 :]])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            hydra_completion(["-sc", "query=bash"], name)
        result |= {*printed.getvalue().split(), *settings(name, words), *further_options(last)}
    return result


def own_options(named: str, last: str) -> set[str]:
    """The verb's own options, and their values where their type or a group names them."""
    if named not in OPTIONS:
        return set()
    module, _, cls = OPTIONS[named].partition(":")
    options = getattr(importlib.import_module(f"mft_cli.{module}"), cls)
    key, equals, _ = last.partition("=")
    if not equals:
        return {f"{name}=" for name in names(options)}
    groups_of = groups().get(key, []) if named == "init" else []
    return {f"{key}={v}" for v in [*values_of(hints(options).get(key)), *groups_of]}


def further_options(last: str) -> set[str]:
    """Of a group's list (`eval=[gsm8k,`) or sweep (`method=sft,`) what the item that is being typed can become."""
    key, _, value = last.partition("=")
    head = re.match(r"\[?(.*,)?", value)
    if head is None or not head[0] or key not in groups():
        return set()
    taken = head[0].strip("[,").split(",")
    return {f"{key}={head[0]}{option}" for option in groups()[key] if option not in taken}


def file_values(last: str) -> set[str]:
    """`key=` with the paths that its value can become, where the key names a file or the value looks like a path."""
    key, equals, value = last.partition("=")
    if not equals or not (key.rsplit(".", 1)[-1] in FILES or value.startswith((".", "/", "~"))):
        return set()
    return {f"{key}={path}" for path in paths(value)}


def paths(start: str) -> list[str]:
    """Files, and folders with a slash, that begin with `start`, written as it is; hidden ones where it names them."""
    folder, slash, begin = start.rpartition("/")
    try:
        entries = sorted(Path(folder + slash or ".").expanduser().iterdir())
    except OSError:
        return []
    shown = [p for p in entries if p.name.startswith(begin) and (begin or not p.name.startswith("."))]
    return [f"{folder}{slash}{p.name}{'/' if p.is_dir() else ''}" for p in shown]


def answer(candidates: Iterable[str], start: str) -> None:
    print("\n".join(c for c in candidates if c.startswith(start)))


def settings(name: str, words: list[str]) -> set[str]:
    """Of the schema: what the last word can become, a section (`train.`), a key (`train.epochs=`), or a key's values."""
    start, equals, value = words[-1].partition("=")
    parts = start.split(".")
    words_after = set()
    for key, annotation in keys_of(name, words):
        steps = key.split(".")
        if len(steps) < len(parts) or any(s not in (p, "<name>") for s, p in zip(steps, parts[:-1], strict=False)):
            continue
        step, last = steps[len(parts) - 1], len(steps) == len(parts)
        if equals and last and step == parts[-1]:
            words_after |= {f"{start}={v}" for v in values_of(annotation) if v.startswith(value)}
        elif not equals and step.startswith(parts[-1]) and step != "<name>":
            words_after.add(".".join([*parts[:-1], step]) + ("=" if last else "."))
    return words_after


def keys_of(name: str, words: list[str]) -> Iterable[tuple[str, object]]:
    """(key, annotation) of all keys that are no sections; of the methods' only those of the chosen one."""
    from mft_cli.config import schema
    from mft_cli.config.validate import dataclasses_in, walk

    whole = schema.ROOTS[name]
    keys = [(key, a) for key, a, _ in walk(whole) if not key.startswith("method")]
    if name == "train":
        chosen = next((w.partition("=")[2] for w in words if w.startswith("method=")), "sft")
        methods = [c for c in dataclasses_in(schema.AnyMethod) if chosen.startswith(str(getattr(c, "name", "")))]
        keys += [(key, a) for method in methods for key, a, _ in walk(method, "method.")]
    return [(key, a) for key, a in keys if not dataclasses_in(a) and not key.endswith(".name")]


def values_of(annotation: object) -> list[str]:
    """The words that a key can take, where its type names them."""
    if annotation is bool:
        return ["true", "false"]
    if typing.get_origin(annotation) is typing.Literal:
        return [str(a) for a in typing.get_args(annotation)]
    return [v for inner in typing.get_args(annotation) for v in values_of(inner)]
