"""Tables of what a benchmark measures besides its accuracy: by base problem, by kind of variant, pass@k, instructions ...

Every cell is finished text; what a metrics.json lacks is a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mft_cli.report import wording
from mft_cli.report.read.fields import Record
from mft_cli.report.read.runs import Evaluation
from mft_cli.report.wording import NONE

Metrics = Record


@dataclass(frozen=True)
class Block:
    """One section that is a table with a sentence."""

    id: str
    title: str
    text: str
    head: list[str]
    rows: list[list[str]]


def measures(evaluations: list[Evaluation]) -> list[Block]:
    """Those that have something to say."""
    return [
        block
        for make in (base_problems, variants, samples, instructions, programs, preferences, passes)
        if (block := make(evaluations)).rows
    ]


def _with(evaluations: list[Evaluation], key: str) -> Iterator[tuple[Evaluation, Metrics, Metrics]]:
    """Evaluations whose metrics have an object under `key`: the evaluation, all its metrics, the object."""
    for evaluation in evaluations:
        measured = (evaluation.metrics or {}).get(key)
        if isinstance(measured, dict) and measured:
            yield evaluation, evaluation.metrics or {}, measured


def _rows(evaluations: list[Evaluation], key: str, cells: Callable[[Metrics, Metrics], list[str]]) -> list[list[str]]:
    return [
        [evaluation.label, evaluation.benchmark, *cells(metrics, measured)]
        for evaluation, metrics, measured in _with(evaluations, key)
    ]


def _share(values: Metrics, name: str, interval: str = "interval") -> str:
    text = wording.percent(values.get(name))
    return text if values.get(interval) is None else f"{text} {wording.percent_interval(values.get(interval))}"


def base_problems(evaluations: list[Evaluation]) -> Block:
    """Variants of base problems, such as GSM-IC's: the measures of Shi et al. 2023."""

    def cells(metrics: Metrics, groups: Metrics) -> list[str]:
        return [
            wording.whole(groups.get("problems")),
            _share({**groups, "accuracy": metrics.get("accuracy")}, "accuracy", "accuracy_interval"),
            _share(groups, "macro_accuracy", "macro_interval"),
            _share(groups, "robust_accuracy", "robust_interval"),
            wording.percent(groups.get("clean_accuracy")),
            wording.decimal(groups.get("normalised_accuracy")),
            wording.decimal(groups.get("normalised_robust_accuracy")),
        ]

    return Block(
        "base-problems",
        "Variants and their base problems",
        "Accuracy over variants (micro accuracy in Shi et al. 2023) with its interval over base problems; the mean over base "
        "problems; the share of base problems of which every variant is right (macro accuracy there); and the first and third "
        "divided by the accuracy on the base problems themselves (normalised accuracy there), where that was measured.",
        ["run", "benchmark", "base problems", "over variants [95 %]", "over base problems [95 %]",
         "every variant right [95 %]", "base problems themselves", "normalised", "every variant right, normalised"],
        _rows(evaluations, "groups", cells),
    )  # fmt: skip


def variants(evaluations: list[Evaluation]) -> Block:
    """Accuracy for each kind of variant: topic, role and number of GSM-IC's irrelevant sentence."""
    rows = []
    for evaluation, _, groups in _with(evaluations, "groups"):
        for label, value, measured in _labels(groups):
            accuracy = _share(measured, "accuracy", "accuracy_interval")
            robust = _share(measured, "robust_accuracy", "robust_interval")
            rows.append([evaluation.label, evaluation.benchmark, label, wording.shortened(wording.one_line(value), 80),
                         wording.whole(measured.get("n")), accuracy, wording.whole(measured.get("problems")), robust])  # fmt: skip
    return Block(
        "variants",
        "By kind of variant",
        "As above, for the variants of one kind alone. Base problems differ in how many variants of a kind they have.",
        ["run", "benchmark", "label", "value", "completions", "over variants [95 %]", "base problems",
         "every variant right [95 %]"],
        rows,
    )  # fmt: skip


def _labels(groups: Metrics) -> Iterator[tuple[str, str, Metrics]]:
    for label, values in (groups.get("labels") or {}).items():
        yield from ((label, value, measured) for value, measured in values.items())


def samples(evaluations: list[Evaluation]) -> Block:
    """pass@k and maj@k."""

    def cells(metrics: Metrics, passes: Metrics) -> list[str]:
        votes = metrics.get("majority_at") or {}
        return [
            wording.whole(metrics.get("samples")),
            _share(metrics, "accuracy"),
            ", ".join(f"{k}: {wording.percent(value)}" for k, value in passes.items()),
            ", ".join(f"{k}: {wording.percent(value)}" for k, value in votes.items()) or NONE,
        ]

    return Block(
        "samples",
        "Several completions a problem",
        "avg@k is the mean over all completions. pass@k: at least one of k is right, by the unbiased estimator. maj@k: the "
        "most frequent answer is right; of a tie the answer that came first counts.",
        ["run", "benchmark", "completions a problem", "avg@k [95 %]", "pass@k", "maj@k"],
        _rows(evaluations, "pass_at", cells),
    )


def instructions(evaluations: list[Evaluation]) -> Block:
    """IFEval's four numbers."""
    names = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")

    def cells(metrics: Metrics, measured: Metrics) -> list[str]:
        return [_share(part if isinstance(part := measured.get(name), dict) else {}, "value") for name in names]

    return Block(
        "instructions",
        "Instructions followed",
        "Share of completions that follow all of their instructions, and of all instructions; loose: after the first or last "
        "line or asterisks were taken away.",
        ["run", "benchmark", *(name.replace("_", ", ") for name in names)],
        _rows(evaluations, "instruction_following", cells),
    )


def programs(evaluations: list[Evaluation]) -> Block:
    """How programs ended."""

    def cells(metrics: Metrics, verdicts: Metrics) -> list[str]:
        words = ", ".join(f"{wording.one_line(name)} {wording.whole(count)}" for name, count in verdicts.items())
        return [words, wording.whole(metrics.get("retried")), wording.one_line(str(metrics.get("sandbox") or NONE))]

    return Block(
        "programs",
        "How programs ended",
        "Each completion's program by its verdict; how many ran over time and were repeated alone; and in what they ran.",
        ["run", "benchmark", "verdicts", "repeated alone", "sandbox"],
        _rows(evaluations, "verdicts", cells),
    )


def preferences(evaluations: list[Evaluation]) -> Block:
    """Win rates; they are in percent already."""

    def cells(metrics: Metrics, wins: Metrics) -> list[str]:
        rate = f"{wording.decimal(wins.get('win_rate'), 1)} % ± {wording.decimal(wins.get('standard_error'), 1)}"
        judge = wins.get("judge") if isinstance(wins.get("judge"), dict) else {}
        controlled = f"{wording.decimal(wins.get('length_controlled_win_rate'), 1)} %"
        return [rate, controlled, wording.one_line(str((judge or {}).get("model") or NONE))]

    return Block(
        "preferences",
        "Wins against the reference",
        "Share of outputs that the judge prefers to the reference's, ± standard error; and the same at equal length.",
        ["run", "benchmark", "win rate", "length-controlled", "judge"],
        _rows(evaluations, "preference", cells),
    )


def passes(evaluations: list[Evaluation]) -> Block:
    """What the second pass of two changed."""

    def cells(metrics: Metrics, first: Metrics) -> list[str]:
        corrected, broken = wording.whole(first.get("corrected")), wording.whole(first.get("broken"))
        return [_share(first, "accuracy"), _share(metrics, "accuracy"), corrected, broken]

    return Block(
        "passes",
        "Two passes",
        "Accuracy of the candidate solutions, of the answers after the critique, and how many answers that corrected and broke.",
        ["run", "benchmark", "first pass [95 %]", "second pass [95 %]", "corrected", "broken"],
        _rows(evaluations, "first_pass", cells),
    )
