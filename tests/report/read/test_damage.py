"""Damaged run folders: whatever a file holds, the report is written or one clear sentence says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mft_cli.errors import UserError
from mft_cli.report.read.runs import read_runs
from mft_cli.report.render import markdown, page
from mft_cli.report.render.sections import report
from mft_cli.report.render.terminal import terminal_table
from mft_cli.report.summary import as_json, summarise
from tests.support.fake_runs import fake_evaluation, fake_run

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
FILES = {
    "state.json": ("state", "step", "total_steps", "message", "time", "seconds"),
    "run.json": ("started", "git", "packages", "hardware", "data", "python"),
    "config.yaml": ("seed", "method", "note", "train"),
    "metrics.jsonl": ("step", "loss", "step_s", "kind"),
    "eval/gsm8k/metrics.json": (
        "n", "samples", "accuracy", "interval", "unparsed", "gold_logprob", "contaminated", "warnings", "prompt",
        "engine", "seconds", "generations_digest",
    ),
    "eval/gsm8k/scores.jsonl": ("id", "sample", "gold", "answer", "correct", "status"),
    "eval/gsm8k/generations.jsonl": ("id", "sample", "prompt", "completion", "finish_reason", "completion_tokens"),
    "eval/gsm8k/gold.jsonl": ("id", "logprob_sum", "tokens"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    for seed, solved in ((1, range(4)), (2, range(2, 7))):
        fake_evaluation(fake_run(root / f"sft-s{seed}", seed=seed, steps=2), correct=solved, n=8)
    return root


@given(data=st.data())
@settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
def test_any_value_in_any_field(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    root = tmp_path / "damaged"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(sound, root)
    name = data.draw(st.sampled_from(sorted(FILES)))
    key, value = data.draw(st.sampled_from(FILES[name])), data.draw(VALUES)
    damage(root / "sft-s1" / name, key, value)
    write_all(root)


def damage(path: Path, key: str, value: Any) -> None:
    """Puts the value into the file's (first line's) field."""
    if path.suffix == ".jsonl":
        first, *rest = path.read_text().splitlines()
        path.write_text("\n".join([json.dumps(json.loads(first) | {key: value}), *rest]) + "\n")
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def write_all(root: Path) -> None:
    """Everything but the figures, which take long."""
    try:
        runs = read_runs([root])
        summary = summarise(runs)
        json.dumps(as_json(summary), allow_nan=False)
        document = report(summary, [])
        page.render(document).encode()
        markdown.render(document).encode()
        terminal_table(runs).encode()
    except UserError:
        pass


JUNK = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) * 2 // 3],
    "other bytes": lambda content: bytes(range(128, 256)),
    "a list": lambda content: b"[1, 2]",
    "too deep": lambda content: b"[" * 100_000,
}


@pytest.mark.parametrize("how", JUNK)
@pytest.mark.parametrize("name", ["config.yaml", "state.json", "run.json", "metrics.jsonl", *list(FILES)[4:]])
def test_a_damaged_file_is_told(sound: Path, tmp_path: Path, name: str, how: str) -> None:
    """The report is written, and one of its notices names the file."""
    shutil.copytree(sound, tmp_path / "damaged")
    path = tmp_path / "damaged/sft-s1" / name
    path.write_bytes(JUNK[how](path.read_bytes()))
    summary = summarise(read_runs([tmp_path / "damaged"]))
    write_all(tmp_path / "damaged")
    told = "\n".join(notice.text for notice in summary.notices if "sft-s1" in notice.where)
    assert path.name in told, told


def test_an_empty_file_has_no_torn_last_line(tmp_path: Path):
    from mft_cli.report.read.runs import read_lines

    notes: list[str] = []
    (tmp_path / "samples.jsonl").write_bytes(b"")
    assert read_lines(tmp_path / "samples.jsonl", notes) == []
    assert not notes
