"""From what a model wrote to a program: fences, chatter, repeated prompts and bare function bodies.

A completion is one of: code in a fence; a whole function with talk around it; or the body that follows the prompt.
The program is the prompt, then the model's code, so that imports and helper functions of the prompt are there.
Only what the entry point needs is kept: examples that a model prints or asserts after its function are not run.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings

FENCE = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.DOTALL | re.MULTILINE
)
PYTHON = ("python", "py", "python3", "")
THINKING_END = "</think>"
# Where a body ends: the next line that is not indented, unless it closes a bracket or a text of the body.
OUTSIDE = re.compile(r"^(?=[^\s)\]}#\"'])", re.MULTILINE)
NEXT = re.compile(r"^(?:(?:async )?def |class |@|if __name__|print\(|assert |```|~~~)", re.MULTILINE)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
DOING = (
    ast.Return, ast.Yield, ast.Raise, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If, ast.For, ast.While, ast.With,
    ast.Try, ast.Assert, ast.Delete, ast.Call,
)  # fmt: skip


def program_of(completion: str, prompt: str, entry_point: str) -> str | None:
    """The program to test, or None if the completion holds no code for the entry point.

    The prompt is Python up to the entry point's header or docstring, as HumanEval's are, or words (then the completion
    must define the entry point itself).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the model's odd escapes
        return _program(completion, prompt, entry_point)


def _program(completion: str, prompt: str, entry_point: str) -> str | None:
    text = completion.rpartition(THINKING_END)[2].replace("\r\n", "\n").replace("\x00", "")
    head = completed(prompt)
    for code in candidates(text, prompt, entry_point):
        whole = f"{head}\n\n{code}\n"
        if defines(code, entry_point) and (kept := needed(whole, entry_point)) is not None:
            return kept
    return None


def completed(prompt: str) -> str:
    """The prompt as a program by itself: a header without a body gets one. "" for a prompt in words."""
    return next((form for form in (prompt, prompt.rstrip() + "\n    pass\n") if compiles(form)), "")


def candidates(text: str, prompt: str, entry_point: str) -> list[str]:
    """Readings of a completion, the likeliest first. Each is whole definitions, never a bare body."""
    if re.match(r"\n*[ \t]+\S", text) and (first := continuation(text, prompt)):
        return [first]
    blocks = [(m[1].lower(), m[2]) for m in FENCE.finditer(text)]
    fenced = [textwrap.dedent(body) for language, body in blocks if language in PYTHON]
    named = [b for b in fenced if _names(b, entry_point)]
    whole = [longest_program(b, entry_point) for b in named]
    if _names(text, entry_point):
        whole.append(longest_program(text, entry_point))
    bodies = [b for block in [*fenced, text] if (b := continuation(block, prompt))]
    return [code for code in [*whole, *bodies] if code]


def _names(text: str, entry_point: str) -> bool:
    name = re.escape(entry_point)
    return re.search(rf"^(?:[ \t]*(?:async )?def {name}\b|{name}[ \t]*=[^=])", text, re.MULTILINE) is not None


def longest_program(text: str, entry_point: str) -> str:
    """The longest run of lines around the entry point that is Python; "" if its function is none."""
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if _names(line, entry_point))
    indent = len(lines[start]) - len(lines[start].lstrip())
    lines = [line[indent:] if line[:indent].strip() == "" else line for line in lines]
    end = next((e for e in range(len(lines), start, -1) if compiles("\n".join(lines[start:e]))), start)
    first = next((f for f in range(start) if compiles("\n".join(lines[f:end]))), start)
    return "\n".join(lines[first:end])


def continuation(text: str, prompt: str) -> str:
    """The prompt's last function with the text as the rest of its body; "" if that is no Python.

    Chat models strip the first line's indentation or all of it: of the readings the one that holds most code is taken.
    """
    if not (whole := completed(prompt)):
        return ""
    body = re.sub(r"^\t+", lambda tabs: "    " * len(tabs[0]), text.strip("\n"), flags=re.MULTILINE)
    if body[:1] in (" ", "\t"):
        readings = [_until(OUTSIDE, body)]
    else:
        readings = [_until(OUTSIDE, f"    {body}"), textwrap.indent(_until(NEXT, textwrap.dedent(body)), "    ")]
    codes = [_longest_body(reading, prompt) for reading in readings]
    best = max(codes, key=_doing)
    return best if _doing(best) > _doing(whole) else ""


def _until(stop: re.Pattern[str], text: str) -> str:
    end = stop.search(text)
    return text[: end.start()] if end else text


def _longest_body(reading: str, prompt: str) -> str:
    lines = reading.rstrip().split("\n")
    codes = (prompt.rstrip() + "\n" + "\n".join(lines[:end]) + "\n" for end in range(len(lines), 0, -1))
    return next((code for code in codes if compiles(code)), "")


def _doing(source: str) -> int:
    """How much a program does: statements and calls. Comments, texts and stray words that parse as names count nothing."""
    return sum(isinstance(node, DOING) for node in ast.walk(ast.parse(source)))


def compiles(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def defines(source: str, name: str) -> bool:
    return any(isinstance(n, DEFINITIONS) and n.name == name for n in ast.parse(source).body) or any(
        isinstance(n, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in n.targets)
        for n in ast.parse(source).body
    )


def needed(source: str, entry_point: str) -> str | None:
    """The imports, definitions and assignments at the top level that the entry point needs, in their order."""
    body = ast.parse(source).body
    bound = [_bound(node) for node in body]
    needed_names, keep = {entry_point}, set[int]()
    while True:
        added = {i for i, names in enumerate(bound) if names & (needed_names | {"*"})} - keep
        if not added:
            break
        keep |= added
        needed_names |= {n.id for i in added for n in ast.walk(body[i]) if isinstance(n, ast.Name)}
    try:
        return "\n\n".join(ast.unparse(body[i]) for i in sorted(keep)) + "\n"
    except (RecursionError, ValueError):
        return None


def _bound(node: ast.stmt) -> set[str]:
    """Names that a top-level statement defines; nothing for what merely does something (a call, an assertion, a loop)."""
    if isinstance(node, DEFINITIONS):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(a.asname or a.name).split(".")[0] for a in node.names}
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    if isinstance(node, (ast.Try, ast.If)) and not _is_main_guard(node):  # an import that may fail, a version switch
        return {name for child in node.body for name in _bound(child)}
    return set()


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))
