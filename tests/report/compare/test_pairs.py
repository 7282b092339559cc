"""What the comparison finds, refuses and says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.errors import UserError
from mft_cli.report.compare.flips import chosen
from mft_cli.report.compare.pairs import UNDECIDED, GoldPair, Pair, correct_for_number, decide
from mft_cli.report.read.runs import read_runs
from mft_cli.report.render.terminal import GOLD_TITLE, terminal_table
from mft_cli.report.summary import Summary, as_json, summarise
from mft_cli.stats import significance as stats
from tests.support.fake_runs import PROBLEMS, fake_evaluation, fake_run, write_json, write_lines


def summary_of(*folders: Path) -> Summary:
    return summarise(read_runs(list(folders)))


def two_runs(root: Path, first: set[int] | range, second: set[int] | range, **more: object) -> list[Path]:
    """An SFT run and a masked run that solve the given problems."""
    a, b = fake_run(root / "sft"), fake_run(root / "masked", method="masked_thought")
    fake_evaluation(a, correct=first)
    fake_evaluation(b, correct=second, **more)  # type: ignore[arg-type]
    return [a, b]


def texts(summary: Summary, level: str = "") -> str:
    return "\n".join(f"{one.where}: {one.text}" for one in summary.notices if level in ("", one.level))


def test_flips_and_difference_are_counted(tmp_path: Path) -> None:
    summary = summary_of(*two_runs(tmp_path, range(0, 10), range(5, 30), shift=0.1))
    (pair,) = summary.pairs
    assert (pair.first, pair.second, pair.n) == ("sft", "masked", PROBLEMS)
    assert pair.difference == pytest.approx(15 / PROBLEMS)
    assert pair.lost == [f"test-{i}" for i in range(5)]
    assert pair.gained == [f"test-{i}" for i in range(10, 30)]
    assert pair.p == pytest.approx(0.004077, abs=1e-5)  # exact McNemar for 20 against 5, two-sided
    assert pair.p_holm == pair.p
    assert pair.verdict == "higher"
    assert pair.gold is not None
    assert pair.gold.difference == pytest.approx(0.1)
    assert pair.gold.verdict == "higher"


def test_small_difference_is_not_decided(tmp_path: Path) -> None:
    summary = summary_of(*two_runs(tmp_path, range(0, 10), range(2, 13)))
    (pair,) = summary.pairs
    assert pair.verdict == UNDECIDED
    assert pair.detectable is not None
    assert pair.detectable > (pair.difference or 0)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"n": PROBLEMS - 3}, "the problem sets differ: 3 problems only in sft, 0 only in masked"),
        ({"gold_of": {4: "999"}}, "the gold answers of 1 problem differ, the first is test-4"),
        ({"finished": False}, "the evaluation of masked is not finished (no metrics.json)"),
    ],
)
def test_pairing_is_refused(tmp_path: Path, more: dict[str, object], reason: str) -> None:
    summary = summary_of(*two_runs(tmp_path, range(10), range(20), **more))
    (pair,) = summary.pairs
    assert pair.refused == reason
    assert pair.difference is None
    assert pair.p is None
    assert "not finished" in texts(summary) if "finished" in more else f"Not compared: {reason}." in texts(summary)


def test_other_tokenization_refuses_gold_only(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, range(10), range(20))
    rows = [{"id": f"test-{i}", "logprob_sum": -10.0, "tokens": 21} for i in range(PROBLEMS)]
    write_lines(runs[1] / "eval/gsm8k/gold.jsonl", rows)
    (pair,) = summary_of(*runs).pairs
    assert not pair.refused
    assert "different numbers of tokens" in pair.gold_refused


def test_same_text_is_pointed_out(tmp_path: Path) -> None:
    summary = summary_of(*two_runs(tmp_path, range(10), range(10)))
    assert "produced the same text for all 40 completions" in texts(summary, "alarm")
    assert "same text" not in texts(summary_of(*two_runs(tmp_path / "other", range(10), range(11))))


def test_contamination_and_warnings_come_first(tmp_path: Path) -> None:
    metrics = {"contaminated": "metamath was made from gsm8k", "warnings": ["no stop text"]}
    summary = summary_of(*two_runs(tmp_path, range(10), range(20), metrics=metrics))
    assert summary.notices[0].level == "alarm"
    assert "CONTAMINATED: metamath was made from gsm8k." in summary.notices[0].text
    assert "no stop text" in texts(summary, "warning")
    assert summary.pairs[0].contaminated == ["masked"]


def test_changed_files_are_noticed(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, range(10), range(20))
    metrics = json.loads((runs[0] / "eval/gsm8k/metrics.json").read_text())
    write_json(runs[0] / "eval/gsm8k/metrics.json", metrics | {"accuracy": 0.9})
    with open(runs[1] / "eval/gsm8k/generations.jsonl", "a") as file:
        file.write("\n")
    alarms = texts(summary_of(*runs), "alarm")
    assert "metrics.json says 90.0 %, scores.jsonl gives 25.0 %" in alarms
    assert "its digest has changed" in alarms


def test_unfinished_runs_and_evaluations_are_said(tmp_path: Path) -> None:
    failed = fake_run(tmp_path / "a", state="failed", steps=3, message="out of memory")
    (failed / "state.json").write_text('{"state": "failed", "message": "out of memory"}')  # steps are not in it
    stopped = fake_run(tmp_path / "b", state="stopped", steps=50)
    fake_evaluation(stopped, n=9, finished=False)
    summary = summary_of(failed, stopped)
    assert "The run failed at step 3: out of memory" in texts(summary, "alarm")
    assert "not finished: stopped at step 50 of 120" in texts(summary)
    assert "The evaluation is not finished: 8 completions, no scores, no metrics.json." in texts(summary)
    assert "last line is torn" in texts(summary)
    assert "not finished" in terminal_table(summary.runs)


def test_seeds_are_grouped(tmp_path: Path) -> None:
    for method, start in (("sft", 0), ("masked_thought", 8)):
        for seed in (1, 2, 3):
            run = fake_run(tmp_path / f"{method}-gsm8k-s{seed}-ab{seed}", method=method, seed=seed)
            fake_evaluation(run, correct=set(range(start, 20 + start + seed)))
    summary = summary_of(tmp_path)
    assert [group.label for group in summary.groups] == ["sft-gsm8k (3 seeds)", "masked_thought-gsm8k (3 seeds)"]
    score = summary.groups[0].scores[0]
    assert score.mean == pytest.approx(22 / PROBLEMS)
    assert score.deviation == pytest.approx(1 / PROBLEMS)
    assert [label for label, _ in score.values] == [f"sft-gsm8k-s{seed}-ab{seed}" for seed in (1, 2, 3)]
    (pair,) = summary.group_pairs
    assert pair.difference == pytest.approx(0.0)
    assert pair.p == 1.0
    assert pair.test.startswith("t on")
    assert len(summary.pairs) == 15


def test_groups_with_one_name_are_told_apart(tmp_path: Path) -> None:
    for ratio in (0.2, 0.4):
        for seed in (1, 2):
            settings = {"method.mask_ratio": ratio}
            fake_run(tmp_path / f"m-s{seed}-{ratio}", method="masked_thought", seed=seed, settings=settings)
    labels = [group.label for group in summary_of(tmp_path).groups]
    assert labels == ["m mask_ratio=0.2 (2 seeds)", "m mask_ratio=0.4 (2 seeds)"]


def test_differing_settings(tmp_path: Path) -> None:
    base = fake_run(tmp_path / "base", method=None)
    sft = fake_run(tmp_path / "sft")
    masked = fake_run(tmp_path / "masked", method="masked_thought", settings={"train.learning_rate": 2e-5})
    summary = summary_of(base, sft, masked)
    rows = {row.key: row.values for row in summary.settings}
    assert rows["train.learning_rate"] == ["–", "1e-05", "2e-05"]
    assert rows["method.mask_ratio"] == ["–", "(not set)", "0.4"]
    assert "train.epochs" not in rows
    assert summary.same_settings > 3


def test_holm() -> None:
    pairs = [Pair("x", "a", "b", p=p) for p in (0.04, 0.01, 0.03, None)]
    correct_for_number(pairs)
    assert [pair.p_holm for pair in pairs] == [pytest.approx(0.06), pytest.approx(0.03), pytest.approx(0.06), None]


def test_several_completions_a_problem(tmp_path: Path) -> None:
    (pair,) = summary_of(*two_runs(tmp_path, range(10), range(20), samples=2)).pairs
    # ten gained, none lost: of 2^10 sign patterns two are as extreme
    assert pair.p == pytest.approx(2 / 2**10, abs=2e-3)
    assert pair.difference == pytest.approx(0.25)
    assert (len(pair.gained), len(pair.lost)) == (10, 0)


def test_other_checkpoints_are_entries_of_their_own(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "sft")
    fake_evaluation(run, correct=range(10))
    fake_evaluation(run, correct=range(12), place="eval-best")
    (pair,) = summary_of(run).pairs
    assert (pair.first, pair.second) == ("sft", "sft @ best")


def test_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in (
        (tmp_path / "empty", "not a run folder and holds none"),
        (tmp_path / "none", "is not a folder"),
    ):
        with pytest.raises(UserError, match=words):
            read_runs([folder])


def test_same_names_and_same_folders(tmp_path: Path) -> None:
    a, b = fake_run(tmp_path / "one" / "run"), fake_run(tmp_path / "two" / "run")
    assert [run.label for run in read_runs([a, tmp_path, b])] == ["one/run", "two/run"]


def test_resumed_log_counts_a_step_once(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=3)
    rows = [{"kind": "train", "step": step, "loss": loss} for step, loss in ((1, 9.0), (2, 8.0), (3, 7.0), (2, 6.0))]
    write_lines(run / "metrics.jsonl", rows)
    assert [(row["step"], row["loss"]) for row in read_runs([run])[0].training] == [(1, 9.0), (2, 6.0), (3, 7.0)]


def test_report_json_is_strict(tmp_path: Path) -> None:
    text = json.dumps(as_json(summary_of(*two_runs(tmp_path, range(9), range(20)))), allow_nan=False)
    assert json.loads(text)["pairs"][0]["first"] == "sft"


def test_broken_files_are_survived(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    folder = fake_evaluation(run, correct=range(3))
    (run / "config.yaml").write_text("a: [1\nb: ]")
    (run / "state.json").write_text("{")
    (folder / "scores.jsonl").write_bytes(b'{"id": 1}\n[1]\n\xff\xfe\n{"id": 2, "correct": true, "gold": null}\n')
    (folder / "gold.jsonl").write_text('{"id": 1}\n{"logprob_sum": null}\n')
    notes = texts(summary_of(run))
    for words in ("config.yaml cannot be read", "state.json cannot be read", "2 unreadable lines"):
        assert words in notes


@pytest.mark.parametrize(("gained", "lost", "expected"), [(50, 50, (10, 10)), (50, 3, (17, 3)), (2, 50, (2, 18))])
def test_shown_flips_are_balanced(gained: int, lost: int, expected: tuple[int, int]) -> None:
    shown = chosen([str(i) for i in range(gained)], [str(i) for i in range(lost)], 20)
    assert (len(shown[0]), len(shown[1])) == expected


def test_terminal_table(tmp_path: Path) -> None:
    lines = terminal_table(two_runs(tmp_path, range(0, 10), range(5, 30), shift=0.1)).splitlines()
    assert lines[0].split("  ")[0] == "run"
    assert lines[2].startswith("sft ")
    assert "25.0 % [14.2, 40.2]" in lines[2]
    assert "+37.5 [" in lines[3]
    assert lines[3].endswith("higher")
    gold = lines[lines.index(GOLD_TITLE) + 3 :]
    assert gold[0].endswith("–  –")
    assert "+0.100 [+0.091, +0.109]" in gold[1]
    assert gold[1].endswith("higher")


def test_no_table_of_log_likelihoods_where_there_are_none(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, range(0, 10), range(5, 30))
    for run in runs:
        path = run / "eval" / "gsm8k" / "metrics.json"
        write_json(path, json.loads(path.read_text()) | {"gold_logprob": None})
    assert GOLD_TITLE not in terminal_table(runs)


def test_time_in_steps_counts_steps_that_were_not_logged(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=30)
    write_lines(run / "metrics.jsonl", [{"kind": "train", "step": step, "step_s": 2.0} for step in (10, 20, 30)])
    assert read_runs([run])[0].seconds_in_steps == pytest.approx(60.0)


def test_surroundings_that_differ(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / name, steps=1) for name in "ab"]
    record = json.loads((runs[1] / "run.json").read_text())
    write_json(runs[1] / "run.json", record | {"packages": {"torch": "2.12.0"}, "precision": "bf16"})
    rows = {row.key: row.values for row in summary_of(*runs).surroundings}
    assert rows == {"packages: torch": ["2.11.0", "2.12.0"]}


def test_equal_warnings_are_one_notice_that_names_its_places(tmp_path: Path) -> None:
    folders = [fake_run(tmp_path / name) for name in ("a", "b")]
    for folder, cut in zip(folders, (12, 19), strict=True):
        for benchmark in ("gsm8k", "math500"):
            fake_evaluation(
                folder, benchmark, metrics={"warnings": [f"{cut} of 40 completions reached the token limit"]}
            )
        fake_evaluation(folder, "aime24", metrics={"warnings": ["trained on 3 of 30 questions"]})
    fake_evaluation(folders[0], "svamp", metrics={"warnings": ["33 prompts were refused"]})
    found = [one for one in summary_of(*folders).notices if one.level == "warning"]
    assert [(one.where, one.text) for one in found] == [
        ("a, aime24; b, aime24", "trained on 3 of 30 questions"),
        (
            "a, gsm8k (12 of 40); a, math500 (12 of 40); b, gsm8k (19 of 40); b, math500 (19 of 40)",
            "Completions reached the token limit",
        ),
        ("a, svamp", "33 prompts were refused"),
    ]


def test_a_long_list_of_places_is_cut(tmp_path: Path) -> None:
    for number in range(20):
        fake_run(tmp_path / f"run{number:02}")
    (notice,) = summary_of(*sorted(tmp_path.iterdir())).notices
    assert notice.where.startswith("run00; run01; ")
    assert notice.where.endswith("; run11; and 8 more")


def test_seeds_without_any_flip_have_an_interval(tmp_path: Path) -> None:
    """Two seeds of each method that solve the same problems: no variance is no certainty."""
    folders = []
    for method in ("sft", "masked_thought"):
        for seed in (1, 2):
            folders.append(fake_run(tmp_path / f"{method}-{seed}", method=method, seed=seed))
            fake_evaluation(
                folders[-1], correct=range(10), metrics={"warnings": ["CONTAMINATED: x"], "contaminated": "x"}
            )
    summary = summary_of(*folders)
    (pair,) = summary.group_pairs
    assert pair.difference == 0
    assert pair.interval == pytest.approx(stats.flips_interval(0, 0, PROBLEMS))
    assert (pair.p, pair.verdict) == (1.0, UNDECIDED)
    assert pair.detectable == pytest.approx(min(
        d for k in range(1, PROBLEMS) if (d := stats.minimum_detectable_effect(PROBLEMS, k / PROBLEMS)) < 1))  # fmt: skip
    assert [one.level for one in summary.notices if "CONTAMINATED" in one.text] == ["alarm"]


def test_gold_differences_over_seeds_cover_the_draw_of_seeds(tmp_path: Path) -> None:
    """Seeds move a run's log-likelihoods by far more than problems differ: averages over seeds must not look certain."""
    for method, shifts in (("sft", (0.0, 0.02, 0.04)), ("masked_thought", (0.03, 0.01, 0.05))):
        for seed, shift in enumerate(shifts, 1):
            run = fake_run(tmp_path / f"{method}-gsm8k-s{seed}-ab{seed}", method=method, seed=seed)
            fake_evaluation(run, correct=range(20), shift=shift)
    (pair,) = summary_of(tmp_path).group_pairs
    assert pair.gold is not None
    assert abs(pair.gold.difference or 0) == pytest.approx(0.01)
    assert pair.gold.test == "t on 2 and 39 degrees of freedom"
    low, high = pair.gold.interval or (0.0, 0.0)
    assert high - low > 0.08  # Student's on three differences alone: 0.099
    assert pair.gold.verdict == UNDECIDED


def test_gold_tests_are_corrected_for_their_number() -> None:
    pairs = [Pair("b", "a", "c", gold=GoldPair(n=9, difference=0.1, interval=(0.01, 0.2), p=p)) for p in (0.03, 0.04)]
    decide(pairs)
    assert [pair.gold.verdict for pair in pairs if pair.gold] == [f"{UNDECIDED} after correction"] * 2
    assert pairs[0].gold is not None
    assert pairs[0].gold.p_holm == pytest.approx(0.06)


def test_scores_of_different_scoring_versions_are_not_paired(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, range(10), range(20), metrics={"scoring_version": 2})
    (pair,) = summary_of(*runs).pairs
    assert "scored by different rules (sft by version 1, masked by version 2)" in pair.refused
    metrics = runs[0] / "eval/gsm8k/metrics.json"
    write_json(metrics, json.loads(metrics.read_text()) | {"scoring_version": 2})
    assert not summary_of(*runs).pairs[0].refused


def stale(summary: Summary) -> list[str]:
    return [notice.where for notice in summary.notices if notice.text.startswith("STALE: ")]


def test_scores_of_other_weights_are_told(tmp_path: Path) -> None:
    metrics = {"model": {"weights_digest": "before"}, "engine": {"name": "hf"}}
    runs = two_runs(tmp_path, range(10), range(20), metrics=metrics)
    seen: list[Path] = []

    def now(folder: Path) -> str:
        seen.append(folder)
        return "after"

    assert stale(summarise(read_runs(runs), weights_now=now)) == ["masked, gsm8k"]
    assert seen == [runs[1] / "export"]
    assert not stale(summarise(read_runs(runs), weights_now=lambda folder: "before"))
    assert not stale(summarise(read_runs(runs), weights_now=lambda folder: None))  # the export was removed


def test_changed_scores_are_told_by_their_digest(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, range(10), range(20), metrics={"scores_digest": "0" * 64})
    assert "scores.jsonl is not the file of these scores" in texts(summary_of(*runs), "alarm")
