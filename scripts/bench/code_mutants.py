"""How many wrong programs do the tests of HumanEval and HumanEval+ catch? Each reference solution with one operator changed.

    python scripts/bench/code_mutants.py DATA_FOLDER      # with humaneval/ and humanevalplus/ in it

The operator is drawn with the task's name as seed, so the mutants are the same every time. A few are equivalent to the
original and cannot be caught. The references are HumanEval+'s (some of HumanEval's own fail its tests).
"""

from __future__ import annotations

import ast
import gzip
import json
import random
import sys
from pathlib import Path

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.grading.code import FIELDS, grade_code

SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitXor: ast.BitAnd, ast.USub: ast.UAdd,
}  # fmt: skip


def mutant(source: str, entry_point: str, seed: str) -> tuple[str, str] | None:
    """The source with one operator of its entry point changed, and what was changed; None if it has none."""
    tree = ast.parse(source)
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == entry_point)
    places = []
    for node in ast.walk(function):
        if type(getattr(node, "op", None)) in SWAPS:
            places.append((node, -1))
        if isinstance(node, ast.Compare):
            places += [(node, i) for i, op in enumerate(node.ops) if type(op) in SWAPS]
    if not places:
        return None
    node, index = random.Random(seed).choice(places)
    old = node.op if index < 0 else node.ops[index]
    new = SWAPS[type(old)]()
    if index < 0:
        node.op = new
    else:
        node.ops[index] = new
    return ast.unparse(tree), f"{type(old).__name__} to {type(new).__name__} in line {node.lineno}"


def read(path: Path) -> dict[str, dict[str, str]]:
    with gzip.open(path) as file:
        return {row["task_id"]: row for row in map(json.loads, file)}


def passes(tasks: dict[str, dict[str, str]], programs: dict[str, str]) -> list[bool]:
    """Whether each program passes its task's tests, through the grader that `mft score` uses."""
    records = [
        {"id": name, "completion": f"```python\n{text}\n```", "gold": json.dumps({f: tasks[name][f] for f in FIELDS})}
        for name, text in programs.items()
    ]
    benchmark = BenchmarkConfig(answer_type="code", gold_fields=list(FIELDS))
    return [bool(s["correct"]) for s in grade_code(records, benchmark, EvalConfig())]


def run(data: Path, names: list[str] | None = None) -> list[dict[str, object]]:
    """One row a mutant: task, mutation, and whether it passes each benchmark's tests."""
    plain, plus = (
        read(data / place)
        for place in ("humaneval/HumanEval.jsonl.gz", "humanevalplus/HumanEvalPlus-OriginFmt.jsonl.gz")
    )
    made = {
        n: mutant(plus[n]["prompt"] + plus[n]["canonical_solution"], plus[n]["entry_point"], n) for n in names or plus
    }
    programs = {name: found[0] for name, found in made.items() if found}
    verdicts = zip(passes(plain, programs), passes(plus, programs), strict=True)
    return [
        {"task": name, "mutation": made[name][1], "humaneval": first, "humaneval_plus": second}
        for name, (first, second) in zip(programs, verdicts, strict=True)
    ]


def main() -> None:
    found = run(Path(sys.argv[1]))
    print(f"{len(found)} mutants of 164 reference solutions ({164 - len(found)} have no operator)")
    for name in ("humaneval", "humaneval_plus"):
        alive = [row for row in found if row[name]]
        print(f"{name}: {len(found) - len(alive)} killed, {len(alive)} pass")
        print("    " + "; ".join(f"{str(row['task']).split('/')[1]}: {row['mutation']}" for row in alive))


if __name__ == "__main__":
    main()
