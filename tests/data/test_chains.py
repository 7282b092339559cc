"""`generated:chains`: the truth that its rows carry, what its knobs do, and that its splits share no chain."""

from __future__ import annotations

import re

import pytest

from mft_cli.data.generated import generate
from mft_cli.errors import UserError

WORLDS = [
    {}, {"redundancy": "value"}, {"redundancy": "values"}, {"modulus": None}, {"modulus": None, "wording": "sentences"},
    {"operations": "+", "distance": 1, "joints": 0.0}, {"joints": 1.0, "steps": [3, 3]}, {"shuffled": False},
]  # fmt: skip


def rows_of(split: str = "train", rows: int = 60, **options: object) -> list[dict]:
    return list(generate("generated:chains", split, rows, options))


def solved(question: str, modulus: int | None = 10) -> int:
    """The answer of a question in symbols, worked out without the world's own graph."""
    *definitions, asked = re.split(r"[;.] ", question)
    sides = dict(d.split(" = ") for d in definitions)

    def value(term: str) -> int:
        if term.isdigit():
            return int(term)
        first, *rest = sides[term].split()
        if not rest:
            return value(first)
        a, b = value(first), value(rest[1])
        result = {"+": a + b, "-": a - b, "*": a * b}[rest[0]]
        return result if modulus is None else result % modulus

    return value(asked.rstrip("?"))


@pytest.mark.parametrize("options", WORLDS, ids=str)
def test_the_graph_is_the_texts(options: dict):
    for row in rows_of(**options):
        for i, step in enumerate(row["steps"]):
            assert row["question"][slice(*step["definition"])].startswith(step["name"])
            assert row["response"][slice(*step["value_at"])] == str(step["value"])
            assert all(need < i for need in step["needs"])
        assert all(i == 0 or i - 1 in step["needs"] for i, step in enumerate(row["steps"]))  # so everything is needed
        assert row["response"].endswith(f"#### {row['answer']}")
        assert row["wrong_step"] is None
        assert not {step["name"] for step in row["steps"]} & set(row["distractors"])


@pytest.mark.parametrize("modulus", [10, 7, None])
def test_answers_are_right(modulus: int | None):
    for row in rows_of(modulus=modulus):
        assert solved(row["question"], modulus) == int(row["answer"])


def test_splits_share_no_chain():
    content = {split: {row["content"] for row in rows_of(split, 300)} for split in ("train", "test", "longer")}
    assert not content["train"] & content["test"]
    assert not content["train"] & content["longer"]
    assert not {row["content"] for row in rows_of("train", 300, seed=1)} & content["test"]


def test_distracted_is_test_with_more_definitions():
    test, distracted = rows_of("test"), rows_of("distracted")
    assert [row["content"] for row in test] == [row["content"] for row in distracted]
    assert [row["answer"] for row in test] == [row["answer"] for row in distracted]
    assert {len(b["distractors"]) - len(a["distractors"]) for a, b in zip(test, distracted, strict=True)} == {6}


def test_knobs():
    assert {len(row["steps"]) for row in rows_of(steps=[3, 5])} == {3, 4, 5}
    assert {len(row["steps"]) for row in rows_of("longer", steps=[3, 3])} == {5}
    assert {len(row["steps"]) for row in rows_of("facts")} == {1, 2}
    assert {len(row["distractors"]) for row in rows_of(distractors=[1, 2])} == {1, 2}
    assert all(i - need <= 1 for row in rows_of(distance=1) for i, s in enumerate(row["steps"]) for need in s["needs"])
    assert all(len(step["needs"]) < 2 for row in rows_of(joints=0.0) for step in row["steps"])
    assert not any(re.search(r"[-+]", row["question"]) for row in rows_of(operations="*"))
    for row in rows_of(shuffled=False, distractors=[2, 3]):
        defined = re.findall(r"(\w) = ", row["question"])
        used = [re.findall(r"[a-z]", right) for right in re.findall(r"= ([^;.]*)", row["question"])]
        assert all(set(names) <= set(defined[:i]) for i, names in enumerate(used))
    assert rows_of(rows=20) == rows_of(rows=60)[:20]  # more rows: the same ones, and others
    assert rows_of(seed=1) != rows_of(seed=2)


def test_noise_is_one_wrong_step_and_what_follows_from_it():
    rows = rows_of("train", 300, noise=0.5)
    noisy = [row for row in rows if row["wrong_step"] is not None]
    assert 100 < len(noisy) < 200
    for row in noisy:
        stated = [
            int(part.rpartition("= ")[2])
            for part in re.split(r"[;.] ", row["response"].partition(" ####")[0].rstrip("."))
        ]
        right = [said == step["value"] for said, step in zip(stated, row["steps"], strict=True)]
        assert right.index(False) == row["wrong_step"]
        assert solved(row["question"]) == int(row["answer"])  # the question's own answer is the right one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": [5, 3]}, r"options.steps=\[5, 3\]"),
        ({"steps": [0, 3]}, r"options.steps=\[0, 3\]"),
        ({"steps": [20, 24]}, "only 26 names"),
        ({"wording": "sentences"}, "options.modulus=10: sentences count beads"),
        ({"modulus": 1}, "options.modulus"),
        ({"step": 3}, "unknown options step; valid: seed, steps"),
    ],
)
def test_options_that_cannot_be(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        rows_of(**options)


def test_unknown_split_and_too_many_rows():
    with pytest.raises(UserError, match="has the splits train, test"):
        rows_of("dev")
    with pytest.raises(UserError, match="set rows lower"):
        rows_of(rows=40, steps=[1, 1], distractors=[0, 0], modulus=2)  # a = 1. a? by 26 names
