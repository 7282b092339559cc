"""Checkpoints appear whole or not at all, are verified, and survive a full disk."""

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from mft_cli.errors import UserError
from mft_cli.train import checkpoint
from mft_cli.train.checkpoint import Shard

TRAINER = {"position": {"step": 1}}


def one(value: float = 1.0) -> list[Shard]:
    return [Shard("w", torch.full((8, 8), value), (8, 8), 0, {"exp_avg": torch.zeros(8, 8)})]


def save(root: Path, step: int, shards: list[Shard]) -> Path:
    return checkpoint.save(root, step, shards, TRAINER)


def test_round_trip_and_names(tmp_path: Path):
    folder = save(tmp_path, 7, one(2.0))
    assert folder.name == "step-00000007"
    assert sorted(p.name for p in folder.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "trainer.json",
    ]
    assert checkpoint.verify(folder) is None
    loaded = checkpoint.Stored(folder)
    assert torch.equal(loaded.tensor("w"), torch.full((8, 8), 2.0))
    assert loaded.trainer == TRAINER


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_damaged_checkpoints_are_passed_over(tmp_path: Path, damage: str):
    for step in (1, 2, 3):
        save(tmp_path, step, one(step))
    file = tmp_path / "step-00000003" / ("manifest.json" if damage == "manifest" else "optimizer.safetensors")
    data = file.read_bytes()
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(data[:-10])
    else:
        file.write_bytes(data[:-4] + bytes(255 - b for b in data[-4:]))
    said: list[str] = []
    assert checkpoint.newest_verified(tmp_path, said.append) == tmp_path / "step-00000002"
    assert "step-00000003" in said[0]
    assert "damaged" in said[0]


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(tmp_path: Path):
    save(tmp_path, 1, one(1))
    save(tmp_path, 2, one(2)).rename(tmp_path / "step-00000005")
    assert "step 2 under another name" in str(checkpoint.verify(tmp_path / "step-00000005"))
    assert checkpoint.verify(tmp_path / "step-00000001") is None


def test_a_file_in_a_checkpoints_place_is_passed_over_and_replaced(tmp_path: Path):
    (tmp_path / "step-00000002").write_text("no folder")
    assert checkpoint.verify(tmp_path / "step-00000002")
    assert checkpoint.verify(save(tmp_path, 2, one(2))) is None
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_leftovers_of_killed_runs_are_no_checkpoints(tmp_path: Path):
    (tmp_path / ".tmp-step-00000009-123").mkdir(parents=True)
    (tmp_path / ".old-step-00000001-123").mkdir()
    save(tmp_path, 2, one())
    assert checkpoint.steps_in(tmp_path) == [2]
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_keep_last_and_best(tmp_path: Path):
    for step in range(1, 7):
        save(tmp_path, step, one())
    checkpoint.prune(tmp_path, 2, best=3)
    assert checkpoint.steps_in(tmp_path) == [6, 5, 3]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EPERM, errno.EROFS])
def test_what_a_disk_refuses_is_told_and_the_last_good_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    save(tmp_path, 1, one())

    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(UserError, match=f"{re.escape(os.strerror(number))}: the checkpoint of step 2 is not written"):
        save(tmp_path, 2, one())
    assert checkpoint.steps_in(tmp_path) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_disk(tmp_path: Path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.strip()}")
    try:
        save(tmp_path, 1, one())
        large = [Shard("w", torch.zeros(100_000), (100_000,))]
        with pytest.raises(UserError, match="No space left on device"):
            save(tmp_path, 2, large)
        assert checkpoint.newest_verified(tmp_path, print) == tmp_path / "step-00000001"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
