"""The files of a sweep: damage is one sentence with the file, never another job or another setting."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mft_cli.errors import RankFailed, UserError
from mft_cli.files import read_sealed, write_json, write_sealed
from mft_cli.sweep import jobs
from mft_cli.sweep.command import retry, status
from mft_cli.sweep.ledger import Ledger

DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "a bit flipped": lambda data: data.replace(b"seed", b"seee", 1).replace(b"mft_local", b"mft_locam"),
    "garbage": lambda data: b"\xff\x00" * 40,
    "another type": lambda data: b"[1]",
    "nested for ever": lambda data: b"[" * 200_000,
}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A sweep with one job."""
    made = Ledger(tmp_path / "sweep")
    write_sealed(made.facts, {"command": ["mft"], "launcher": {"name": "mft_local"}})
    job = made.add(["seed=1"])
    made.freeze(job.number, {"seed": 1})
    return made


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["jobs/0000.json", "jobs/0000.config.json", "sweep.json"])
def test_damage(ledger: Ledger, name: str, damage: str):
    path = ledger.root / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    reads = {
        "jobs/0000.json": lambda: ledger.all(), "jobs/0000.config.json": lambda: ledger.values(0),
        "sweep.json": lambda: retry(ledger, 1),
    }  # fmt: skip
    with pytest.raises(UserError, match=f"{path} is damaged") as error:
        reads[name]()
    assert "\n" not in str(error.value)


def test_what_was_written_is_read(ledger: Ledger):
    assert ledger.values(0) == {"seed": 1}
    assert not ledger.freeze(0, {"seed": 1})
    assert ledger.update(0, message="ü", objective=0.1) == ledger.get(0)
    assert ledger.add(["seed=1"]).number == 0


def test_a_ledger_of_before_digests_is_read(ledger: Ledger):
    path = ledger.record(0)
    write_json(path, {k: v for k, v in json.loads(path.read_text()).items() if k != "digest"})
    assert ledger.get(0).overrides == ["seed=1"]
    assert read_sealed(path)["state"] == "waiting"


def test_a_job_that_is_deleted_is_made_again(ledger: Ledger):
    ledger.record(0).unlink()
    assert ledger.add(["seed=1"]).number == 0


def test_a_record_that_is_gone_is_told_and_entered_again_under_its_number(ledger: Ledger):
    """Status and report would show one job less."""
    for seed in (2, 3):
        job = ledger.add([f"seed={seed}"])
        ledger.freeze(job.number, {"seed": seed})
    ledger.record(1).unlink()
    for read in (lambda: status(ledger), lambda: retry(ledger, 1)):
        with pytest.raises(UserError, match=r"0001\.json is gone"):
            read()
    assert ledger.add(["seed=2"]).number == 1
    assert [job.overrides for job in ledger.all()] == [["seed=1"], ["seed=2"], ["seed=3"]]
    assert ledger.add(["seed=4"]).number == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RankFailed("run: rank 1 was killed"), 1),
        (OSError(errno.ENOSPC, "no space"), 2),
        (MemoryError(), 2),
        (UserError("lr"), 2),
    ],
)
def test_a_job_that_fails_by_no_defect_of_mft_shows_no_traceback(ledger: Ledger, monkeypatch, capsys, error, code: int):
    verb = SimpleNamespace(read=lambda values: values, folder=lambda config: ledger.root / "run")
    monkeypatch.setattr(jobs, "VERBS", {"train": verb})

    def fail(config: object) -> None:
        raise error

    job = jobs.run_job(ledger, 0, fail)
    assert (job.state, job.exit_code) == ("failed", code)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert job.message in told
