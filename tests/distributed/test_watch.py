"""Ranks that keep the others waiting are named, once a wait; nothing is said or sent while all goes well."""

from __future__ import annotations

import time

import pytest
import torch.distributed as dist

from mft_cli.distributed import watch
from mft_cli.distributed.watch import Watch, listed


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> list[Watch]:
    """Three ranks of one process that share a store; a wait of 0.2 s is long."""
    monkeypatch.setattr(watch, "LEAST_S", 0.2)
    monkeypatch.setattr(watch, "LOOK_S", 0.02)
    monkeypatch.setattr(watch, "SETTLE_S", 0.3)
    store = dist.HashStore()
    made = [Watch(store, rank, 3, most_s=100.0) for rank in range(3)]
    for one in made:
        one.seconds.extend([0.01] * 5)
        one.start()
    return made


def test_a_rank_that_does_not_come_is_named_once(ranks: list[Watch], capsys: pytest.CaptureFixture[str]) -> None:
    with ranks[0].waiting(), ranks[2].waiting():
        time.sleep(1.2)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith("rank 1 is behind: the others have waited ")
    assert "; a step takes 0.0 s; look at logs/rank<N>.log" in said
    assert [r.behind for r in ranks] == ["rank 1 is", "", "rank 1 is"]


def test_the_lowest_that_waits_says_it_when_the_first_rank_is_behind(ranks, capsys) -> None:
    with ranks[1].waiting(), ranks[2].waiting():
        time.sleep(1.2)
    assert capsys.readouterr().out.startswith("rank 0 is behind")


def test_nothing_is_said_of_a_wait_that_all_share_or_that_ends(ranks, capsys) -> None:
    with ranks[0].waiting(), ranks[1].waiting(), ranks[2].waiting():  # the device keeps all of them waiting
        time.sleep(1.0)
    for one in ranks:
        with one.waiting():
            time.sleep(0.05)
    assert capsys.readouterr().out == ""
    assert not ranks[0].store.check(["mft/waits/2/0"])


def test_a_line_comes_before_the_wait_is_given_up() -> None:
    one = Watch(dist.HashStore(), 0, 2, most_s=40.0)
    assert one.limit_s() == 20.0  # not after five minutes
    one.seconds.extend([5.0, 6.0, 900.0])
    assert Watch(dist.HashStore(), 0, 2, most_s=1200.0).limit_s() == watch.FIRST_S
    one.most_s = 1200.0
    assert one.limit_s() == 60.0


def test_ranks_are_listed_in_runs() -> None:
    assert listed([3]) == "rank 3 is"
    assert listed([0, 4, 5, 6, 9]) == "ranks 0, 4-6, 9 are"
    assert listed([]) == ""
