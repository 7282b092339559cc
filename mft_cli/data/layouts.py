"""Which of the usual forms a data set has, by its first row's fields. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from mft_cli.config.schema.inputs import DataConfig, SourceConfig
from mft_cli.data.files import BadRow, local_files, read_files
from mft_cli.errors import UserError


@dataclass(frozen=True)
class Form:
    """A usual form: the fields that a row must have, and the source's keys that read it."""

    name: str
    fields: tuple[str, ...]
    keys: dict[str, Any]


QUESTIONS = ("question", "problem", "query", "instruction", "input", "prompt")
RESPONSES = ("response", "answer", "solution", "output", "completion")
FORMS = (
    Form("messages", ("messages",), {"layout": "messages", "messages": "messages"}),
    Form("ShareGPT conversations", ("conversations",), {"layout": "sharegpt", "messages": "conversations"}),
    Form("conversation", ("conversation",), {"layout": "messages", "messages": "conversation"}),
    Form("instruction, input, output", ("instruction", "input", "output"), {"question": "instruction+input", "response": "output"}),
    *(
        Form(f"{question}, {response}", (question, response), {"question": question, "response": response})
        for question in QUESTIONS
        for response in RESPONSES
        if (question, response) != ("input", "completion")
    ),
    Form("text", ("text",), {"layout": "text", "response": "text"}),
)  # fmt: skip


def is_conversational(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def fitting(row: dict[str, Any]) -> list[Form]:
    """The forms that a row has, without those that another explains: fewer of its fields, plain text next to a question,
    an answer next to a response (it is the short one).
    """
    forms = [form for form in FORMS if all(field in row for field in form.fields)]
    forms = [f for f in forms if not any(set(f.fields) < set(other.fields) for other in forms)]
    forms = [f for f in forms if f.name != "text" or len(forms) == 1]
    long = [f for f in forms if f.fields[-1] != "answer"]
    return [replace(f, keys={**f.keys, "answer": "answer"}) for f in long] if long and len(long) < len(forms) else forms


def names_its_fields(source: SourceConfig) -> bool:
    """Whether the user has said which fields to read; then nothing is guessed."""
    return (source.question, source.response) != ("question", "response")


def resolve(source: SourceConfig, name: str, rows: Iterable[tuple[int, str, Any]]) -> tuple[SourceConfig, str]:
    """The source with the keys of the form that its first readable row has, and the sentence that says so.

    Raises UserError where no form fits, or several do.
    """
    if names_its_fields(source):
        return replace(source, layout="question_response"), ""
    location, row = "", None
    bad: list[BadRow] = []
    for _, at, values in rows:
        if not isinstance(values, BadRow):
            location, row = at, values
            break
        bad.append(values)
    if row is None:
        first = f" (first: {bad[0]})" if bad else ", the file is empty"
        raise UserError(f"data.sources.{name}.path={source.path}: no row that can be read{first}")
    forms = fitting(row)
    readings = [", ".join(f"{k}={v}" for k, v in form.keys.items()) for form in forms]
    if len(forms) != 1:
        trouble = "is none of the usual forms" if not forms else "can be read as " + " or as ".join(readings)
        raise UserError(
            f"{location}: {trouble}; fields: {', '.join(map(str, row))}. Set data.sources.{name}.question=FIELD and "
            f"data.sources.{name}.response=FIELD, or data.sources.{name}.layout=messages and .messages=FIELD"
        )
    keys = {"layout": "question_response", **forms[0].keys}
    if forms[0].fields[0] == "prompt" and is_conversational(row["prompt"]):
        keys["layout"], keys["loss_on"] = "prompt_completion", "last"
    unused = [k for k in ("spans", "remove", "rewrite", "system") if getattr(source, k)]
    if unused and keys["layout"] != "question_response":
        raise UserError(
            f"data.sources.{name}.{unused[0]} works with layout=question_response; the rows are {forms[0].name}"
        )
    written = " ".join(f"{k}={v}" for k, v in keys.items())
    return replace(source, **keys), f"{name}: rows of the form {forms[0].name} (read as {written})"


def resolve_local(data: DataConfig) -> None:
    """Tells before anything is loaded which local sources with layout=auto have no usual form. Raises UserError."""
    for name, source in data.sources.items():
        if source.layout == "auto" and source.path and not source.path.startswith("generated:"):
            files = None if names_its_fields(source) else local_files(source)
            if files is not None:
                resolve(source, name, read_files(files, source.format))
