"""`--config FILE`: a YAML file of settings, such as `mft init` writes, or a run folder's config.yaml.

Its lines are the words of the command line, `key: value` for `key=value`; a section may be nested. Imports no torch.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mft_cli.config.schema.base import Values
from mft_cli.config.typed_words import check_words
from mft_cli.errors import UserError

FLAG = "--config"
GROUP = "settings_file"  # the file becomes the only option of a group that is composed last


@contextlib.contextmanager
def as_words(file: Path | None, typed: Iterable[str], known: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Words that bring Hydra the file's settings: the presets that it chooses, and the file itself as a group's option in a
    folder that is there for the length of the block.

    `known` is group -> its options. What is `typed` wins: a group that it chooses replaces the file's section. Raises
    UserError; yaml.YAMLError for a file that cannot be read.
    """
    if file is None:
        yield []
        return
    values = read(file)
    chosen = {w.partition("=")[0].lstrip("+~") for w in typed if "=" in w}
    presets = {name: v for name, v in values.items() if name in known and isinstance(v, (str, list))}
    sections = nested({k: v for k, v in values.items() if k not in presets and k.split(".")[0] not in chosen}, file)
    words = [f"{name}={word_of(v)}" for name, v in presets.items() if name not in chosen]
    check_words(words, known)
    if "sources" in (sections.get("data") or {}) and not {"data"} & (chosen | presets.keys()):
        words.append("~data")  # the default preset's rows would be mixed in
    with tempfile.TemporaryDirectory(prefix="mft-settings-") as folder:
        write(Path(folder) / GROUP / "file.yaml", sections)
        yield [*words, f"+{GROUP}=file", f"hydra.searchpath=[file://{folder}]"]


def without_file(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The other arguments, and the file that `--config` names. Raises UserError where it names none, or two do."""
    rest, files, words = [], [], list(arguments)
    while words:
        name, equals, value = (word := words.pop(0)).partition("=")
        if name != FLAG:
            rest.append(word)
        elif not equals and (not words or words[0].startswith("-")):
            raise UserError(f"{FLAG}: expected a YAML file after it, such as {FLAG} mft.yaml; mft init writes one")
        else:
            files.append(Path(value if equals else words.pop(0)).expanduser())
    if len(files) > 1:
        raise UserError(f"{FLAG} is given {len(files)} times: put the settings into one file")
    return rest, files[0] if files else None


def read(file: Path) -> Values:
    """A file's values, interpolations unresolved. Raises UserError; YAML's errors as they come."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if file.is_dir() and (file / "config.yaml").is_file():
        file = file / "config.yaml"
    if not file.is_file():
        raise UserError(f"{FLAG} {file}: no such file; mft init writes one, and a run folder holds config.yaml")
    try:
        values = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except RecursionError:
        raise UserError(f"{FLAG} {file}: not settings that can be read: a part of it refers to itself") from None
    except (OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{FLAG} {file}: not settings that can be read: {reason}; save it as UTF-8 YAML") from None
    if not isinstance(values, dict):
        raise UserError(f"{FLAG} {file}: expected lines of the form key: value, such as train.epochs: 2")
    settings = {str(name): value for name, value in values.items()}
    if refused := [name for name in settings if name == "defaults" or re.match(r"hydra\b", name)]:
        raise UserError(
            f"{FLAG} {file}: {refused[0]} is Hydra's: write presets as group: option (method: masked_thought), and hydra.* on "
            f"the command line; files with a defaults list belong into a folder that --config-dir names"
        )
    return settings


def nested(values: Values, file: Path) -> Values:
    """`a.b: 1` as `a: {b: 1}`, beside what stands in a section `a`. Raises UserError for a key that is set twice."""
    result: Values = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise UserError(f"{FLAG} {file}: {name} and {section} contradict each other: {section} is no section")
        if isinstance(value, dict) and isinstance(inner.get(last), dict):
            value = {**inner[last], **value}
        elif last in inner:
            raise UserError(f"{FLAG} {file}: {name} is set twice")
        inner[last] = value
    return result


def word_of(value: object) -> str:
    """A preset's name, or several of them."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def write(path: Path, values: Values) -> None:
    import yaml

    path.parent.mkdir(parents=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    path.write_text(f"# @package _global_\n{text if values else ''}", encoding="utf-8")
