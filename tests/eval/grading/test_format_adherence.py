"""Format adherence of generated critiques."""

import pytest

from mft_cli.eval.grading.format_adherence import adherence_metrics, format_adherence

WHOLE = "<think><critique>good</critique><reasoning>2+2=4</reasoning></think><ans>\\boxed{4}</ans>"


def test_a_whole_critique_has_everything() -> None:
    assert all(format_adherence(WHOLE).values())


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("good2+2=4\\boxed{4}", {"all_tags", "in_order", "boxed_answer", "format", "strict"}),
        (WHOLE.replace("</critique>", ""), {"all_tags", "in_order", "format", "strict"}),
        (WHOLE + "<ans>\\boxed{5}</ans>", {"in_order"}),
        (WHOLE.replace("\\boxed{4}", "4"), {"boxed_answer", "format", "strict"}),
        (WHOLE.replace("{4}", "{\\frac12}"), {"strict"}),
        ("<ans>\\boxed{4}</ans>" + WHOLE.partition("<ans>")[0], {"in_order", "format", "strict"}),
        ("", {"all_tags", "in_order", "boxed_answer", "format", "strict"}),
    ],
)
def test_what_lacks_is_told_apart(text: str, lacking: set[str]) -> None:
    assert {name for name, value in format_adherence(text).items() if not value} == lacking


def test_shares_with_an_interval() -> None:
    metrics = adherence_metrics([WHOLE, WHOLE, "no format", WHOLE.replace("{4}", "{x}")])
    assert (metrics["n"], metrics["format"], metrics["strict"], metrics["all_tags"]) == (4, 0.75, 0.5, 0.75)
    assert metrics["interval"][0] < 0.75 < metrics["interval"][1]
