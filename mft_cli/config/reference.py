"""The reference of all configuration keys, generated from the schema: `python -m mft_cli.config.reference > docs/keys.md`."""

from __future__ import annotations

import json
import typing
from dataclasses import MISSING, fields, is_dataclass

from pydantic.fields import FieldInfo

from mft_cli.config import schema
from mft_cli.config.compose import groups
from mft_cli.config.schema.base import NEEDS
from mft_cli.config.validate import Hint, dataclasses_in, element_type, expected, field_type

OPENING = """# All configuration keys

Generated from `mft_cli/config/schema/` by `python -m mft_cli.config.reference`; a test keeps this page equal to it.
Every key can be set on the command line, `mft train train.learning_rate=1e-4`; `<name>` is a name of your choice.
A group is chosen with `group=option`: its options are the files in `conf/<group>/`.
"""


def page() -> str:
    """The whole page as Markdown."""
    options = "\n".join(f"| `{name}` | {', '.join(f'`{o}`' for o in names)} |" for name, names in groups().items())
    parts = [OPENING, f"## Groups and their options\n\n| group | options |\n|---|---|\n{options}\n"]
    parts += ["## `mft train`\n", table(schema.TrainConfig, "")]
    for cls in schema.method_classes():
        parts += [f"### `method={cls.name}`: {doc(cls)}\n", table(cls, "method.")]
    parts += ["## `mft eval`\n", f"{doc(schema.EvalRunConfig)}\n"]
    parts += [table(schema.EvalRunConfig, "", skip=("eval", "model", "launch"))]
    parts += ["The keys of `model`, `eval` and `launch` are those above.\n"]
    parts += ["## `mft critique`\n", f"{doc(schema.CritiqueRunConfig)}\n"]
    parts += [table(schema.CritiqueRunConfig, "", skip=("eval", "model", "launch", "data"))]
    parts += ["The keys of `model`, `eval`, `launch`, `data`, `teacher.model` and `teacher.eval` are those above.\n"]
    return "\n".join(parts)


def doc(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def table(cls: type, prefix: str, skip: tuple[str, ...] = ()) -> str:
    rows = "\n".join(rows_of(cls, prefix, skip))
    return f"| key | type and range | default | |\n|---|---|---|---|\n{rows}\n"


def rows_of(cls: type, prefix: str, skip: tuple[str, ...] = ()) -> list[str]:
    rows = []
    for f in fields(cls):
        if f.name in skip:
            continue
        annotation, name = field_type(cls, f.name), f"{prefix}{f.name}"
        info = f.default if isinstance(f.default, FieldInfo) else FieldInfo()
        inner, below = dataclasses_in(annotation), f"{name}."
        if typing.get_origin(annotation) in (dict, list) and dataclasses_in(element_type(annotation)):
            inner, below = dataclasses_in(element_type(annotation)), f"{name}.<name>."
        if len(inner) == 1 and typing.get_origin(annotation) is not list:
            rows.append(f"| **`{name}`** | section |{' `null` ' if is_optional(annotation) else ' '}| {prose(info)} |")
            rows.extend(rows_of(inner[0], below) if name not in REPEATED else [])
        else:
            rows.append(f"| `{name}` | {kind(annotation)} | {default(info)} | {prose(info)} |")
    return rows


# Sections whose keys stand elsewhere on the page.
REPEATED = {
    "data.sources_validation", "eval.benchmarks.<name>.source", "eval.benchmarks.<name>.prompt", "eval.prompt",
    "teacher.model", "teacher.eval", "teacher.prompt", "row_prompt",
}  # fmt: skip


def is_optional(annotation: Hint) -> bool:
    return type(None) in typing.get_args(annotation)


def kind(annotation: Hint) -> str:
    """The type and range of a key in words."""
    if len(dataclasses_in(annotation)) > 1:
        return "one of the methods below"
    element = element_type(annotation) if typing.get_origin(annotation) in (list, dict) else annotation
    return "a list of objects" if element is not annotation and dataclasses_in(element) else expected(annotation)


def prose(info: FieldInfo) -> str:
    """The key's line of documentation; Markdown would take <name> for a tag."""
    extra = info.json_schema_extra
    needs = f" Needs {extra[NEEDS]}." if isinstance(extra, dict) and NEEDS in extra else ""
    return ((info.description or "") + needs).replace("<", "&lt;").replace("|", "\\|")


def default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        made = info.default_factory()  # type: ignore[call-arg]
        return "" if is_dataclass(made) else f"`{json.dumps(made)}`"
    return "" if info.default is MISSING else f"`{json.dumps(info.default)}`"


if __name__ == "__main__":
    print(page(), end="")
