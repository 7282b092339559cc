"""Bindings say what they hold, and types say what is passed: shares of vague names and of Any in the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.support.tiny import ROOT

VAGUE = {"found", "one", "own", "wanted", "where", "place", "left"}
TREES = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "mft_cli").rglob("*.py"))}


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, line) of arguments, assigned names, caught exceptions, functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif (isinstance(node, ast.ExceptHandler) and node.name) or isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node.lineno


def test_fewer_than_one_binding_in_a_hundred_is_vague():
    names = [(name, f"{path.relative_to(ROOT)}:{line}") for path, t in TREES.items() for name, line in bound_names(t)]
    vague = [f"{place} {name}" for name, place in names if name.lower().strip("_") in VAGUE]
    assert len(vague) < len(names) / 100, vague


def test_any_stands_in_fewer_than_eight_of_a_thousand_lines():
    uses = sum(isinstance(n, ast.Name) and n.id == "Any" for tree in TREES.values() for n in ast.walk(tree))
    lines = sum(len(path.read_text().splitlines()) for path in TREES)
    assert 1000 * uses / lines < 8


def test_no_comment_follows_a_closing_bracket():
    """The formatter breaks a long statement and leaves its comment after the last bracket: it belongs on a line above."""
    torn = re.compile(r" *[])}]+[:,]?  # (?!fmt|noqa|type)")
    for path in TREES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not torn.match(line), f"{path}:{number}: put the comment on a line above the statement"
