"""What Hydra's grammar lets pass and would ignore, misread or answer with a traceback: reported before it is asked.

`known` is group -> its options, in conf/ and the user's own folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mft_cli.errors import UserError

LAUNCHERS = ("basic", "mft_local", "mft_slurm")
MERGED = ("eval", "data")  # groups of which several options may stand side by side: eval=[gsm8k,svamp]
INSTEAD = {  # Hydra's keys that have no effect here -> ours
    "hydra.run.dir": "set run_dir={value}, the run's folder",
    "hydra.output_subdir": "leave it out: a run folder holds its configuration in config.yaml",
    "hydra.job.name": "leave it out: a run is named by its settings, or by run_dir=; note= keeps a text of your own",
    "hydra.job.chdir": "leave it out: paths are relative to the folder in which mft is started",
    "hydra.sweep.subdir": "set run_dir='runs/${{hydra:job.num}}' for the folders of a sweep's runs",
}
AS_IS = {"hydra.job.chdir": "false", "hydra.run.dir": ".", "hydra.sweep.subdir": ".", "hydra.output_subdir": "null"}


def check_words(arguments: Sequence[str], known: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError that names the word and what to write instead."""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("-") or not equals:
            continue
        key, text = name.lstrip("+~"), value.strip("'\" ")
        if key in INSTEAD and text.lower() != AS_IS.get(key):
            raise UserError(f"{argument}: mft does not use {key}; {INSTEAD[key].format(value=value)}")
        if key == "config" and text.endswith((".yaml", ".yml")):
            raise UserError(f"{argument}: a file of settings is named with a flag, --config {text}")
        if key == "hydra/launcher" and text not in LAUNCHERS:
            raise UserError(
                f"{argument}: this launcher runs no job of mft; choose mft_local (several jobs at a time on this machine) or "
                f"mft_slurm (a SLURM array), or leave it out (one job after the other)"
            )
        if key.split("@")[0] in known and not name.startswith("~"):
            check_option(key, text, known[key.split("@")[0]])


def check_option(group: str, text: str, options: Sequence[str]) -> None:
    """The choice of a group's option. Raises UserError."""
    if text.lower() in ("", "null"):
        hint = f"write {group}=none" if "none" in options else f"choose one of {', '.join(options)}"
        raise UserError(f"{group}={text}: expected the name of an option; {hint}")
    if text.startswith("[") and group not in MERGED:
        names = text.strip("[]").replace(" ", "")
        raise UserError(
            f"{group}={text}: expected one option; for a run with each of them: mft train -m {group}={names}"
        )
    if "/" in text or text.endswith((".jsonl", ".json", ".csv", ".parquet", ".txt", ".gguf")):
        meant = {"model": f"model=local model.path={text}", "data": f"data=local data.sources.local.path={text}"}
        if group in meant:
            kind = "a folder, file or hub id" if group == "model" else "a file or hub id"
            raise UserError(f"{group}={text}: expected the name of a preset; for {kind} write {meant[group]}")


def failing_word(words: Iterable[str]) -> str | None:
    """The first word that Hydra's grammar does not take; as it was typed, without our ++."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for word in words:
        try:
            parser.parse_override(word)
        except HydraException:
            return re.sub(r"^\+\+", "", word)
    return None


def unpaired_mark(text: str) -> str | None:
    """A bracket, brace or quote without its partner, in a value that Hydra's grammar does not take."""
    closing, opened = {"[": "]", "{": "}", "(": ")"}, list[str]()
    for mark in re.findall(r"\\.|[\[\]{}()'\"]", text):
        if opened and opened[-1] in "'\"":
            if mark == opened[-1]:
                opened.pop()
        elif mark in "[{('\"":
            opened.append(mark)
        elif mark in closing.values() and (not opened or closing[opened.pop()] != mark):
            return mark
    return opened[-1] if opened else None
