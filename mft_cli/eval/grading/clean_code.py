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

from mft_cli.answers.extraction import without_thoughts

FENCE = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.DOTALL | re.MULTILINE
)
PYTHON = ("python", "py", "python3", "")
# Where a body ends: the next line that is not indented, unless it closes a bracket or a text of the body.
OUTSIDE = re.compile(r"^(?=[^\s)\]}#\"'])", re.MULTILINE)
NEXT = re.compile(r"^(?:(?:async )?def |class |@|if __name__|print\(|assert |```|~~~)", re.MULTILINE)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
BLOCKS = ("body", "orelse", "handlers", "finalbody")
LOOK_UPS = {"globals", "locals", "vars", "eval", "exec"}
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
    text = without_thoughts(completion).replace("\r\n", "\n").replace("\x00", "")
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
    fenced = [without_prompts(textwrap.dedent(body)) for language, body in blocks if language in PYTHON]
    named = [b for b in reversed(fenced) if _names(b, entry_point)]  # of two versions the last counts
    whole = [longest_program(b, entry_point) for b in named]
    text = without_prompts(text) if not blocks else text
    if _names(text, entry_point):
        whole.append(longest_program(text, entry_point))
    bodies = [b for block in [*fenced, text] if (b := continuation(block, prompt))]
    return [code for code in [*whole, *bodies] if code]


def _names(text: str, entry_point: str) -> bool:
    name = re.escape(entry_point)
    defined = rf"^(?:[ \t]*(?:async )?def {name}\b|{name}[ \t]*(?::[^=\n]+)?=[^=]|(?:from|import) [^\n]*\bas {name}\b)"
    return re.search(defined, text, re.MULTILINE) is not None


def without_prompts(text: str) -> str:
    """The program of an interactive session: what stands after >>> and ... where a definition is typed in."""
    if not re.search(r"^>>> (?:(?:async )?def |class |@|from |import )", text, re.MULTILINE):
        return text
    lines = (re.match(r"(?:>>>|\.\.\.)(?: (.*)|$)", line) for line in text.split("\n"))
    return "\n".join(match[1] or "" for match in lines if match)


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
    """Whether a program defines the name at its top level: a function, a class, an assignment, an import."""
    kinds = (*DEFINITIONS, ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)
    return any(isinstance(node, kinds) and name in _bound(node) for node in ast.parse(source).body)


def needed(source: str, entry_point: str) -> str | None:
    """The imports, definitions and assignments at the top level that the entry point needs, in their order."""
    body = ast.parse(source).body
    bound = [_bound(node) for node in body]
    needed_names, keep = {entry_point}, set[int]()
    while True:
        every = needed_names & LOOK_UPS  # a look-up by a name that is made at run time may ask for anything
        added = {i for i, names in enumerate(bound) if names & (needed_names | {"*"}) or (every and names)} - keep
        if not added:
            break
        keep |= added
        needed_names |= {name for i in added for node in ast.walk(body[i]) for name in _mentioned(node)}
    try:
        return "\n\n".join(ast.unparse(body[i]) for i in sorted(keep)) + "\n"
    except (RecursionError, ValueError):
        return None


def _bound(node: ast.stmt | ast.excepthandler) -> set[str]:
    """Names that a top-level statement defines or changes; nothing for an example that is printed or asserted."""
    if isinstance(node, DEFINITIONS):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(a.asname or a.name).split(".")[0] for a in node.names}
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    if isinstance(node, ast.Expr):
        return _receiver(node.value)
    if _is_main_guard(node):
        return set()
    inner = [child for part in BLOCKS for child in getattr(node, part, [])]  # of a loop, an if, a try
    return {name for child in inner for name in _bound(child)}


def _receiver(call: ast.expr) -> set[str]:
    """The name whose method is called, which may change it: table.append(x), sys.setrecursionlimit(n)."""
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
        return set()
    return {node.id for node in ast.walk(call.func) if isinstance(node, ast.Name)}


def _mentioned(node: ast.AST) -> set[str]:
    """Names that a node uses, those in texts among them: globals()["helper"]."""
    if isinstance(node, ast.Name):
        return {node.id}
    return (
        {node.value}
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()
        else set()
    )


def _is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))
