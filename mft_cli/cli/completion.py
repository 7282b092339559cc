"""Tab completion: the verbs, Hydra's groups and options, and the schema's keys and values."""

from __future__ import annotations

import contextlib
import io
import os
import typing
from collections.abc import Iterable

# The verbs that take settings, and whose settings they are.
SETTINGS = {
    "train": "train", "data": "train", "plan": "train", "analyze": "train",
    "eval": "eval", "generate": "eval", "score": "eval", "critique": "critique",
}  # fmt: skip
SECOND_WORDS = {
    "data": ("show", "check"), "analyze": ("dependency", "landscape"), "sweep": ("status", "retry", "report"),
    "mask": ("apply", "inspect", "diff"),
}  # fmt: skip


def complete(arguments: list[str], verbs: Iterable[str]) -> None:
    """Answer the shell: `-sc install=bash` prints the script, `-sc query=bash` the words that may stand at COMP_LINE's end."""
    from mft_cli.config.compose import hydra_completion

    words = os.environ.get("COMP_LINE", "").split(" ")
    if not (arguments[1:] and arguments[1].startswith("query=")):
        hydra_completion(arguments, "train")
    elif len(words) < 3:
        answer(verbs, words[-1])
    elif words[1] in SECOND_WORDS and len(words) == 3:
        answer(SECOND_WORDS[words[1]], words[-1])
    elif words[1] in SETTINGS:
        name = SETTINGS[words[1]]
        os.environ["COMP_LINE"] = " ".join([words[0], *words[3 if words[1] in SECOND_WORDS else 2 :]])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            hydra_completion(arguments, name)
        print("\n".join(sorted({*printed.getvalue().split(), *settings(name, words)})))


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
