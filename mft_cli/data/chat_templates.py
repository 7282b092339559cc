"""What settings make of a tokenizer's chat template: variables set in it, and today's date frozen.

Both are written into the template's text, so that the digest of a run, its export and every later evaluation have them.
"""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.errors import UserError

CALL = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""", re.DOTALL)  # as transformers offers it to templates


def settled(template: str, config: ModelConfig) -> str:
    """The template with model.template_options set and strftime_now answered by model.template_date. Raises UserError."""
    options = "".join(
        f"{{%- set {name} = {literal(name, value)} %}}" for name, value in config.template_options.items()
    )
    return options + frozen(template, config.template_date)


def frozen(template: str, date: str) -> str:
    """`template` without calls of strftime_now: each is the text that it gives on `date` (YYYY-MM-DD). Raises UserError."""
    try:
        day = datetime.datetime.strptime(date, "%Y-%m-%d")
    except ValueError:
        raise UserError(f"model.template_date={date}: expected a date such as 2025-01-31") from None
    result = CALL.sub(lambda call: json.dumps(day.strftime(call[2])), template)
    # Llama 3.1 asks whether it is defined before it is called; another way to call it is answered with the date itself.
    macro = f"{{%- macro strftime_now(format) -%}}{date}{{%- endmacro -%}}"
    return macro + result if re.search(r"strftime_now\s*\(", result) else result


def literal(name: str, value: Any) -> str:
    """A value as Jinja writes it. Raises UserError for a name or value that is none."""
    if not name.isidentifier():
        raise UserError(f"model.template_options.{name}: a chat template has no such variable name")
    if value is None or isinstance(value, (bool, int, float, str, list, dict)):
        return (
            {None: "none", True: "true", False: "false"}[value]
            if value is None or isinstance(value, bool)
            else json.dumps(value)
        )
    raise UserError(
        f"model.template_options.{name}={value!r}: expected text, a number, true, false, a list or a mapping"
    )


def read_template(file: str) -> str:
    """model.chat_template's text. Raises UserError."""
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"model.chat_template={file}: cannot be read ({error})") from None
