"""The options of a choice task that is decided by log-likelihood, and which are right, by templates over a row. No torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any, NamedTuple

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from mft_cli.config.schema.likelihood import LikelihoodConfig
from mft_cli.data.files import BadRow


class Option(NamedTuple):
    """An option, the text before it, and the text whose log-likelihood counts."""

    text: str
    context: str
    continuation: str


@functools.cache
def environment() -> SandboxedEnvironment:
    made = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    made.filters["without"] = lambda text, pattern: re.sub(pattern, "", text)
    return made


def options_of(row: Mapping[str, Any], config: LikelihoodConfig, location: str) -> list[Option]:
    """The options of a row in the file's order. Raises BadRow."""
    texts = evaluated(config.options, row, location)
    if not isinstance(texts, list) or not 2 <= len(texts) <= len(ascii_uppercase) or not all(map(str, texts)):
        raise BadRow(f"{location}: likelihood.options={config.options} gives {texts!r:.100}, expected 2 to 26 texts")
    return [
        Option(text, *(rendered(t, {**row, "option": text}, location) for t in (config.context, config.continuation)))
        for text in map(str, texts)
    ]


def right_letters(row: Mapping[str, Any], config: LikelihoodConfig, location: str) -> str:
    """The letters of the right options, A for the first, between commas. Raises BadRow."""
    given, count = evaluated(config.right, row, location), len(options_of(row, config, location))
    marks = given if isinstance(given, list) else [int(i == given) for i in range(count)]
    letters = [letter for letter, mark in zip(ascii_uppercase, marks, strict=False) if mark == 1]
    if len(marks) != count or not letters:
        raise BadRow(
            f"{location}: likelihood.right={config.right} gives {given!r:.100}, expected a place from 0 to {count - 1}"
        )
    return ",".join(letters)


# what the Python that a template or an expression of the user's runs may end in, and jinja's own errors with it
CODE_FAILURES = (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
TEMPLATE_FAILURES = (TemplateError, ValueError, *CODE_FAILURES)


def evaluated(expression: str, row: Mapping[str, Any], location: str) -> Any:
    try:
        return environment().compile_expression(expression, undefined_to_none=False)(**row)
    except TEMPLATE_FAILURES as error:
        raise BadRow(
            f"{location}: {expression!r} cannot be evaluated ({error}); the row has {', '.join(row)}"
        ) from None


def rendered(template: str, values: Mapping[str, Any], location: str) -> str:
    try:
        return environment().from_string(template).render(**values)
    except TEMPLATE_FAILURES as error:
        raise BadRow(f"{location}: the template {template!r} cannot be filled ({error})") from None
