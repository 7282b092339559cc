"""From completions to programs: made-up ones for each form, and what SmolLM2-135M-Instruct really wrote."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mft_cli.eval.grading.clean_code import program_of
from tests.support.tiny import data_dir, needs_data

PROMPT = '''from typing import List

LIMIT = 3


def helper(x):
    return x + 1


def f(xs: List[int]) -> int:
    """ Sum, limited.
    >>> f([1])
    1
    """
'''
BODY = "    total = sum(xs)\n    return min(total, LIMIT)\n"
WHOLE = "def f(xs: List[int]) -> int:\n" + BODY
GOOD = {
    "body": BODY,
    "body, then another function": BODY + "\n\ndef main():\n    print(f([1]))\n\nmain()\n",
    "body, then examples": BODY + "\nprint(f([1]))\nassert f([9]) == 9\n",
    "body, then the prompt again": BODY + "\n\ndef f(xs):\n    return 0\n",
    "body, then a fence and talk": BODY + "```\n\nThis sums the list.\n",
    "body, cut in a statement": BODY + "    for x in (1, 2",
    "body without the first indent": BODY[4:],
    "body without any indent": "total = sum(xs)\nreturn min(total, LIMIT)",
    "body with tabs": "\ttotal = sum(xs)\n\treturn min(total, LIMIT)\n",
    "comment first": "    # add them up\n" + BODY,
    "whole": WHOLE,
    "whole, in a fence": f"Sure, here it is:\n\n```python\n{WHOLE}```\nIt sums.",
    "whole, in a fence that does not end": f"```python\n{WHOLE}",
    "whole, in an indented fence": "1. Code:\n   ```py\n" + "".join(f"   {x}\n" for x in WHOLE.splitlines()) + "   ```\n",
    "prompt and body, in a fence": f"```python\n{PROMPT}{BODY}```",
    "body, in a fence": f"```python\n{BODY}```",
    "talk around, no fence": f"Here is the function.\n\n{WHOLE}\nIt returns the sum.",
    "two fences, the second runs it": f"```python\n{WHOLE}```\nUse it:\n```python\nprint(f([1]))\n```",
    "first fence is a shell": f"```bash\npip install x\n```\n```python\n{WHOLE}```",
    "thinking first": f"<think>\n```python\ndef f(xs): return 0\n```\n</think>\n```python\n{WHOLE}```",
    "examples that fail": f"```python\n{WHOLE}\nassert f([1]) == 2\nwhile True: pass\n```",
    "a main guard": f"```python\n{WHOLE}\nif __name__ == '__main__':\n    raise SystemExit(f([int(input())]))\n```",
    "an own helper": f"```python\nimport math\ndef own(x):\n    return math.floor(x)\n{WHOLE.replace('sum(xs)', 'own(sum(xs))')}```",
    "an import that may fail": f"```python\ntry:\n    import nothing\nexcept ImportError:\n    nothing = None\n{WHOLE}```",
    "windows lines": WHOLE.replace("\n", "\r\n"),
    "lambda": "```python\nf = lambda xs: min(sum(xs), LIMIT)\n```",
}  # fmt: skip


@pytest.mark.parametrize("completion", GOOD.values(), ids=GOOD)
def test_a_program_is_found(completion):
    program = program_of(completion, PROMPT, "f")
    names: dict = {}
    exec(program, names)
    assert names["f"]([1, 1]) == 2
    assert names["f"]([5]) == 3
    assert "print" not in program


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "\n\n",
        "I cannot do that.",
        "Sorry",
        "42",
        "```\n\nThis function sums.",
        "    # nothing yet\n",
        "def other(x):\n    return 1\n",
        "    return (1,\n",
    ],
)
def test_no_program(completion):
    assert program_of(completion, PROMPT, "f") is None


def test_a_prompt_in_words():
    assert program_of("    return 1\n", "Write a function f.", "f") is None
    names: dict = {}
    exec(program_of("Of course!\n```python\ndef f():\n    return 1\n```", "Write a function f.", "f"), names)
    assert names["f"]() == 1


def test_a_prompt_that_ends_in_a_header():
    names: dict = {}
    exec(program_of("    return k + 1\n", "k = 1\n\ndef f():", "f"), names)
    assert names["f"]() == 2
    assert program_of("    # later\n", "def f():\n", "f") is None


def test_long_nonsense_takes_no_time():
    nested = "    return " + "(" * 20_000
    assert program_of(nested, PROMPT, "f") is None
    assert program_of("def f(x):\n" + "    y = (\n" * 500, PROMPT, "f") is None
    sums = "    return " + " + ".join("1" for _ in range(20_000))
    program_of(sums, PROMPT, "f")  # too deep for some Pythons, never a crash


@needs_data
def test_what_a_small_model_really_wrote():
    with gzip.open(data_dir() / "humaneval" / "HumanEval.jsonl.gz") as file:
        tasks = {row["task_id"]: row for row in map(json.loads, file)}
    found = {"chat": [], "raw": []}
    for line in (Path(__file__).parent / "smollm2_humaneval.jsonl").read_text().splitlines():
        row = json.loads(line)
        task = tasks[row["task"]]
        program = program_of(row["completion"], task["prompt"], task["entry_point"])
        found[row["kind"]].append(program is not None)
        if program is not None:
            compile(program, row["task"], "exec")
            assert "```" not in program
            assert "print(" not in program
    assert found == {"chat": [True] * 12, "raw": [False] * 8}  # after the bare prompts it wrote only prose


# name: (completion, f(3) under plain execution; None where there is no program)
AS_PYTHON = {
    'loop': ('```python\ntable = [0]\nfor i in range(1, 20):\n    table.append(table[-1] + i)\n\ndef f(n):\n    return table[n]\n```', 6),
    'loop2': ('```python\ntable = {}\nfor i in range(20):\n    table[i] = i * 2\n\ndef f(n):\n    return table[n]\nassert 0\n```', 6),
    'alias': ('```python\nfrom math import sqrt as f\n```', 1.7320508075688772),
    'alias2': ('```python\nimport numpy as np, math as m\ndef f(n):\n    return m.floor(n)\n```', 3),
    'globals': ("```python\ndef helper(n):\n    return n + 1\n\ndef f(n):\n    return globals()['helper'](n)\n```", 4),
    'globals2': ("```python\ndef op_3(n):\n    return n + 7\n\ndef f(n):\n    return globals()[f'op_{n}'](n)\n```", 10),
    'session': ('```python\n>>> def f(n):\n...     return n * 5\n...\n>>> f(2)\n10\n```', 15),
    'session2': ('```\ndef f(n):\n    return n * 5\n\n>>> f(2)\n10\n```', 15),
    'two': ('First:\n```python\ndef f(n):\n    return 0\n```\nBetter:\n```python\ndef f(n):\n    return n * n\n```', 9),
    'two_in_one': ('```python\ndef f(n):\n    return 0\n\ndef f(n):\n    return n * n\n```', 9),
    'thought': ('<think>```python\ndef f(n):\n    return 1\n```', None),
    'thought2': ('<think>```python\ndef f(n):\n    return 1\n```</think>\n```python\ndef f(n):\n    return 2\n```', 2),
    'recursion': ('```python\nimport sys\nsys.setrecursionlimit(5000)\ndef f(n):\n    return sys.getrecursionlimit()\n```', 5000),
}  # fmt: skip


@pytest.mark.parametrize("name", AS_PYTHON)
def test_programs_run_as_under_plain_execution(name: str) -> None:
    completion, value = AS_PYTHON[name]
    program = program_of(completion, 'def f(n):\n    """Give n."""\n', "f")
    names: dict[str, Any] = {}
    exec(program or "def f(n): return None", names)
    assert names["f"](3) == value
