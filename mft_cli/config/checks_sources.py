"""Checks of data sources and paths, before torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mft_cli.config import schema
from mft_cli.errors import UserError


def check_source(prefix: str, source: schema.SourceConfig) -> None:
    if not source.path:
        raise UserError(f"{prefix}.path is empty: give a file, a hub id or generated:<name>")
    if source.layout not in ("auto", "question_response"):
        unused = [name for name in ("spans", "remove", "rewrite", "system") if getattr(source, name)]
        if unused:
            raise UserError(f"{prefix}.{unused[0]} works with layout=question_response, not with {source.layout}")
    for key in ("remove", "remove_question", "remove_answer"):
        if getattr(source, key) is not None:
            check_regex(f"{prefix}.{key}", getattr(source, key))
    for pattern, replacement in source.rewrite.items():
        check_regex(f"{prefix}.rewrite", pattern, replacement)
    for field, value in source.keep_if.items():
        if isinstance(value, str) and value.startswith("/"):
            check_regex(f"{prefix}.keep_if.{field}", value.strip("/"))
    for name, span in source.spans.items():
        if span.startswith("/"):
            check_regex(f"{prefix}.spans.{name}", span.strip("/"))


def check_regex(prefix: str, pattern: str, replacement: str = "") -> None:
    try:
        re.sub(pattern, replacement, "")
    except re.error as error:
        raise UserError(f"{prefix}={pattern}: not a regular expression ({error})") from None


def looks_local(path: str) -> bool:
    endings = (".gguf", ".jsonl", ".json", ".csv", ".parquet", ".xml", ".txt", ".gz")
    return path.startswith(("/", "./", "../", "~")) or path.endswith(endings)


def check_paths(model: schema.ModelConfig, sources: Mapping[str, schema.SourceConfig]) -> None:
    """Files that are named must exist: reported now, not after the model has been loaded."""
    check_model_path("model.path", model.path)
    template = model.chat_template
    if template and not Path(template).exists():
        raise UserError(f"model.chat_template={template}: no such file")
    for name, source in sources.items():
        if missing := missing_file(source.path):
            raise UserError(f"data.sources.{name}.path={missing}: no such file or folder")


def check_model_path(prefix: str, path: str) -> None:
    if looks_local(path) and not path.startswith("package:") and not Path(path).expanduser().exists():
        raise UserError(f"{prefix}={path}: no such file or folder")


def missing_file(path: str) -> str | None:
    """A local file or folder that a source's path names and that is not there."""
    paths = schema.expand(path) if looks_local(path) and "://" not in path else []
    return next((name for name in paths if not Path(name).expanduser().exists()), None)
