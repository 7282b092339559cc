"""Pages of mft analyze begin with what was found, and small numbers keep their digits."""

from __future__ import annotations

from pathlib import Path

from mft_cli.analysis import dependency_report, graph, landscape_report, resilience
from mft_cli.analysis.page import publish
from mft_cli.analysis.regions import REGIONS
from mft_cli.report.render.document import TextTable


def test_dependency_says_the_shares_and_what_differs() -> None:
    share = {region: {"mean": value, "interval": None} for region, value in zip(REGIONS, (0.5, 0.3, 0.2), strict=True)}
    intervals = ((0.01, 0.07), (-0.02, 0.01), (-0.05, 0.02))
    change = {
        r: {"mean": 0.04 - i / 50, "interval": x} for i, (r, x) in enumerate(zip(REGIONS, intervals, strict=True))
    }
    result = {
        "models": [{"label": "sft", "share": share}],
        "differences": [{"first": "sft", "second": "masked", "share": change}],
    }
    first, second = dependency_report.in_short(result)
    assert first == "sft: of what the three corruptions change, question 50.0 %, near 30.0 %, far 20.0 %."
    assert second.startswith("masked against sft, points of share [95 %]: question +4.0 [+1.0, +7.0], near +2.0")
    assert second.count("(not decided)") == 2


def test_small_numbers_keep_their_digits() -> None:
    value = {"mean": 0.00042, "interval": (0.00038, 0.00046)}
    assert dependency_report.shown(value) == "0.000420 [0.000380, 0.000460]"
    assert dependency_report.shown(value, difference=True).startswith("+0.000420 [+0.000380")
    assert dependency_report.shown({"mean": 1.0, "interval": None}) == "1.000 –"  # one example has no interval
    assert landscape_report.number(0.0000031) == "0.0000031"
    assert landscape_report.number(None) == "not finite"
    assert landscape_report.coordinates([-0.1, 0.0]) == "(−0.100, 0.000)"
    assert dependency_report.shown({"mean": -0.00001, "interval": (-0.01, 0.01)}) == "0.000 [−0.010, 0.010]"


def test_every_model_has_a_sentence_even_where_all_are_equal() -> None:
    rows = [("sft", "0.0 %", "[0.0, 39.0]", "0.0 %", "[0.0, 39.0]")] * 2
    assert resilience.in_short(rows) == ["sft: 0.0 % [0.0, 39.0] recovered, 0.0 % [0.0, 39.0] undisturbed."] * 2
    assert graph.in_short([("sft", "0.900", "[0.880, 0.920]", "1", "0", "9")]) == ["sft: AUROC 0.900 [0.880, 0.920]."]


def test_landscape_says_its_barrier_and_its_lowest_loss() -> None:
    scene = {
        "label": "sft → masked", "marks": [{"label": "sft"}, {"label": "masked"}], "barrier": 0.25, "not_finite": 1,
        "lowest": {"loss": 0.75, "at": [0.5]},
    }  # fmt: skip
    losses: dict[str, float | None] = {"sft": 1.0, "masked": 1.25}
    assert landscape_report.sentence(scene, "line", losses) == (
        "sft → masked: barrier 0.2500 between losses of 1.0000 and 1.2500; the lowest loss, 0.7500, is at (+0.500); "
        "1 point not finite."
    )
    assert "no barrier between" in landscape_report.sentence(scene | {"barrier": 0.0}, "line", losses)
    around = {"label": "sft", "marks": [{"label": "sft"}], "mean_rise": 0.5, "not_finite": 0, "lowest": scene["lowest"]}
    assert "loss 1.0000; around it 0.5000 higher on average" in landscape_report.sentence(around, "random", losses)


def test_the_page_begins_with_the_findings(tmp_path: Path) -> None:
    table = TextTable("numbers", ["a", "b"], [["x", "1"]])
    publish(tmp_path, "made", "Title", ["It is so."], "on 12 examples", {}, [table], {}, [])
    page = (tmp_path / "made.html").read_text(encoding="utf-8")
    assert page.index("It is so.") < page.index("on 12 examples")
