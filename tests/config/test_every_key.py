"""No key without a test: each one of the schema is named in a test."""

from __future__ import annotations

import ast
import re

from mft_cli.config import schema
from mft_cli.config.validate import walk
from tests.support.tiny import ROOT

CONFIGS = (schema.TrainConfig, schema.EvalRunConfig, schema.CritiqueRunConfig)  # with the classes of all methods
NAMED_BY: dict[type, str] = {ast.Name: "id", ast.Attribute: "attr", ast.keyword: "arg"}


def test_every_key_is_named_in_a_test():
    named = {word for file in (ROOT / "tests").rglob("*.py") for word in words(ast.parse(file.read_text()))}
    keys = {name: name.rpartition(".")[2] for config in CONFIGS for name, _, _ in walk(config)}
    missing = sorted(key for key, last in keys.items() if last not in named)
    assert not missing, f"no test names these keys; give each one a test, or remove it: {', '.join(missing)}"


def words(tree: ast.AST) -> set[str]:
    """Names, attributes, keyword arguments and words of texts; a docstring is no test."""
    nodes = list(ast.walk(tree))
    docstrings = {id(n.value) for n in nodes if isinstance(n, ast.Expr)}
    names = {str(getattr(n, NAMED_BY[type(n)])) for n in nodes if type(n) in NAMED_BY}
    texts = [
        n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docstrings
    ]
    return names.union(*(re.findall(r"\w+", text) for text in texts))
