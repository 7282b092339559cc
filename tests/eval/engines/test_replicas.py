"""Several replicas over one queue: the same bytes as one, also after deaths of replicas and of the whole evaluation."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.config.validate import to_plain
from mft_cli.errors import UserError
from mft_cli.eval import evaluate
from mft_cli.eval.engines import replicas as engine_replicas
from mft_cli.files import write_json
from tests.support.sums import on_model, sums
from tests.support.tiny import ROOT, problems

FILES = ("generations.jsonl", "scores.jsonl")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("replicas") / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in problems(36)))
    return path


def config(model: Path, data: Path, replicas: int, tokens: int = 16) -> EvalRunConfig:
    benchmark = sums(data, max_new_tokens=tokens, samples=2, temperature=0.8)
    return on_model(model, benchmark, threads=1, batch_size=3, replicas=replicas, logprobs=True, gold_logprob=False)


@pytest.fixture(scope="module")
def whole(tiny_model: Path, data: Path, tmp_path_factory) -> Path:
    """The files of one replica, undisturbed."""
    out = tmp_path_factory.mktemp("whole")
    evaluate.evaluate(config(tiny_model, data, 1), out)
    return out / "sums"


def same(out: Path, whole: Path) -> bool:
    return all((out / "sums" / name).read_bytes() == (whole / name).read_bytes() for name in FILES)


def test_two_replicas_and_a_dying_one_give_the_same_bytes(
    tiny_model: Path, data: Path, whole: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    used: dict[int, int] = {}
    give = engine_replicas.Replica.give

    def watched(replica, unit) -> None:
        give(replica, unit)
        used[replica.number] = used.get(replica.number, 0) + 1
        if replica.number == 1 and used[1] == 3:
            os.kill(replica.process.pid, signal.SIGKILL)

    monkeypatch.setattr(engine_replicas.Replica, "give", watched)
    metrics = evaluate.evaluate(config(tiny_model, data, 2), tmp_path)["sums"]
    assert same(tmp_path, whole)
    assert metrics["engine"]["replicas"] == 2
    assert used[0] >= 2
    assert used[1] == 3
    assert sum(used.values()) == 24 + 1  # 72 completions in batches of 3, one of them twice
    assert "replica 1 was killed by SIGKILL; its 3 completions go to the other 1" in capsys.readouterr().out


def test_deadly_work_ends_in_one_sentence(tiny_model: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    give = engine_replicas.Replica.give

    def watched(replica, unit) -> None:
        give(replica, unit)
        if any(index == 0 for index, _ in unit):
            os.kill(replica.process.pid, signal.SIGKILL)

    monkeypatch.setattr(engine_replicas.Replica, "give", watched)
    with pytest.raises(UserError, match=r"replica \d was killed by SIGKILL.*are kept.*eval.replicas lower") as error:
        evaluate.evaluate(config(tiny_model, data, 2), tmp_path)
    assert "\n" not in str(error.value)


def test_a_model_that_does_not_load_is_one_sentence(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_model, tmp_path / "model")
    settings = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**settings, "model_type": "no_such_type", "architectures": ["X"]}))
    with pytest.raises(UserError, match="cannot"):
        evaluate.evaluate(config(broken, data, 2), tmp_path / "out")
    assert not [c for c in psutil.Process().children(recursive=True) if "replica_worker" in " ".join(c.cmdline())]


def test_killed_at_a_random_moment_with_replicas_ends_in_the_same_file(
    tiny_model: Path, data: Path, whole: Path, tmp_path: Path
) -> None:
    """Two starts of an evaluation and its replicas: most of its seconds are imports."""
    frozen, out = tmp_path / "frozen.json", tmp_path / "out"
    write_json(frozen, to_plain(config(tiny_model, data, 2)))
    command = [sys.executable, "-m", "mft_cli", "eval", f"--frozen={frozen}", f"--out={out}"]
    journal = out / "sums" / "generations.jsonl"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (journal.is_file() and journal.stat().st_size):
        time.sleep(0.002)
    time.sleep(random.Random(time.time_ns()).uniform(0, 0.1))
    assert process.poll() is None
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=10)[1], "replicas outlive a killed evaluation"
    assert 0 < len(journal.read_text().splitlines()) < 72
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert same(out, whole)
