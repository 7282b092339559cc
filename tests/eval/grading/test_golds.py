"""The real gold answers, fed back as completions, are all right; shuffled among problems, right as often as chance says.

Needs the benchmark files in MFT_DATA_DIR (gsm8k/test.jsonl, math/test.jsonl ...).
"""

from __future__ import annotations

import json
import os
import random
import re
import xml.etree.ElementTree as ET
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from mft_cli.answers.extraction import boxed
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.grading.graders import grade

Row = dict[str, Any]


def folder(part: str) -> Path:
    root = os.environ.get("MFT_DATA_DIR")
    if not root or not (Path(root) / part).exists():
        pytest.skip(f"needs MFT_DATA_DIR with {part}")
    return Path(root) / part


def jsonl(part: str) -> list[Row]:
    return [json.loads(line) for line in folder(part).read_text(encoding="utf-8").splitlines()]


def asdiv() -> list[str]:
    """Answers that are numbers: "9 (apples)"; names, times, ratios and lists are no numbers."""
    texts = [p.findtext("Answer") or "" for p in ET.parse(folder("asdiv/ASDiv.xml")).getroot().iter("Problem")]
    bare = [re.sub(r"\s*\([^)]*\)$", "", text).strip() for text in texts]
    return [text for text in bare if re.fullmatch(r"-?\d[\d,]*(\.\d+)?(/\d+)?", text)]


def olympiad() -> list[str]:
    return [
        json.dumps({
            "answer": row["final_answer"][0], "unit": row["unit"], "tolerance": row["error"],
            "multiple": row["is_multiple_answer"],
        })
        for row in jsonl("olympiadbench/test.jsonl")
    ]  # fmt: skip


BENCHMARKS = {  # name: (answer type, number of golds, how to get them)
    "gsm8k": ("number", 1319, lambda: [r["answer"].rpartition("####")[2].strip() for r in jsonl("gsm8k/test.jsonl")]),
    "gsm8k_train": ("number", 7473, lambda: [r["answer"].rpartition("####")[2].strip() for r in jsonl("gsm8k/train.jsonl")]),
    "svamp": ("number", 1000, lambda: [str(r["Answer"]) for r in json.loads(folder("svamp/SVAMP.json").read_text())]),
    "multiarith": (
        "number", 600, lambda: [str(r["lSolutions"][0]) for r in json.loads(folder("multiarith/MultiArith.json").read_text())],
    ),
    "asdiv": ("number", 2092, asdiv),
    "amc23": ("math", 40, lambda: [str(r["answer"]) for r in jsonl("amc23/test.jsonl")]),
    "aime24": ("math", 30, lambda: [str(r["answer"]) for r in jsonl("aime24/test.jsonl")]),
    "aime25": ("math", 30, lambda: [str(r["answer"]) for r in jsonl("aime25/aime25.jsonl")]),
    "math500": ("math", 500, lambda: [r["answer"] for r in jsonl("math500/test.jsonl")]),
    "math": ("math", 5000, lambda: [boxed(r["solution"])[0] for r in jsonl("math/test.jsonl")]),
    "olympiadbench": ("math", 675, olympiad),
}  # fmt: skip
PHRASINGS = {
    "boxed": "Adding both sides gives the result $\\boxed{%s}$.",
    "sentence": "Adding both sides gives the result. The answer is %s.",
    "marker": "First we add 3 and 4.\n#### %s",
}


def plain(gold: str) -> str:
    return str(json.loads(gold)["answer"]) if gold.startswith('{"') else gold


def scores(kind: str, golds: list[str], answers: list[str], phrasing: str) -> list[bool]:
    completions = [PHRASINGS[phrasing] % answer.strip() for answer in answers]
    records = [
        {"id": str(i), "sample": 0, "gold": gold, "completion": text, "finish_reason": "stop"}
        for i, (gold, text) in enumerate(zip(golds, completions, strict=True))
    ]
    config = EvalConfig(answer_timeout_s=20.0)
    return [
        s["correct"]
        for s in grade(records, BenchmarkConfig(answer_type=kind, markers=["####"], last_number=True), config)
    ]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_golds_are_right(name: str) -> None:
    kind, count, load = BENCHMARKS[name]
    golds = load()
    assert len(golds) == count
    for phrasing in PHRASINGS:
        # a marker's answer ends with its line: MATH has a gold with a line break in its unit
        written = [" ".join(plain(g).split()) if phrasing == "marker" else plain(g) for g in golds]
        found = scores(kind, golds, written, phrasing)
        assert [(g, phrasing) for g, right in zip(golds, found, strict=True) if not right] == []


# ---- shuffled -------------------------------------------------------------------------------------------------------


def label(gold: str) -> Fraction | str:
    """An equality class that owes nothing to the grader: the exact number, or the text without blanks and dress."""
    text = re.sub(
        r"\\\$|\\!|\\,|\\left|\\right|[\s$]|\\text\{[^{}]*\}(\^2)?$|\\mbox\{[^{}]*\}(\^2)?$|\.$", "", plain(gold)
    )
    text = re.sub(r"\\[dt]frac", r"\\frac", text.replace("\\ ", ""))
    text = re.sub(r"\^\{?\\circ\}?$|\\?%$", "", text)
    text = re.sub(r"^[a-zA-Z](?:\([a-z]\))?=(?!.*=)", "", text)
    text = re.sub(r"^\\frac(\d)(\d)$|^\\frac(\d)\{(\d+)\}$|^\\frac\{(\d+)\}\{(\d+)\}$", _slash, text)
    text = (
        re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", text)
        if not gold.startswith('{"') or '"multiple": false' in gold
        else text
    )
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return text or plain(gold)


def _slash(match: re.Match[str]) -> str:
    top, bottom = (group for group in match.groups() if group is not None)
    return f"{top}/{bottom}"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_shuffled_golds_are_right_as_often_as_chance_says(name: str) -> None:
    kind, _, load = BENCHMARKS[name]
    golds = load()
    answers = random.Random(0).sample(golds, len(golds))
    found = scores(kind, golds, [plain(a) for a in answers], "boxed")
    labels = {gold: label(gold) for gold in golds}
    expected = [labels[g] == labels[a] for g, a in zip(golds, answers, strict=True)]
    other = [(g, a, right) for g, a, right, same in zip(golds, answers, found, expected, strict=True) if right != same]
    assert other == []
    chance = sum(n * n for n in Counter(labels[g] for g in golds).values()) / len(golds) ** 2
    spread = (chance * (1 - chance) / len(golds)) ** 0.5
    assert abs(sum(found) / len(golds) - chance) < 4 * spread + 1 / len(golds)
