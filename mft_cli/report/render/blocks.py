"""Sections that are a table with a sentence: agreement, consistency, domains, the measures, failure detection.

The page, Markdown and `mft compare` print the same blocks. Every cell is finished text.
"""

from __future__ import annotations

from mft_cli.report import wording
from mft_cli.report.compare.domains import Cell
from mft_cli.report.render.measures import Block, Metrics, measures
from mft_cli.report.summary import Summary
from mft_cli.report.wording import NONE


def blocks(summary: Summary) -> list[Block]:
    """Those that have something to say."""
    across = (agreement(summary), consistency(summary), domains(summary))
    signs = (overlap(summary), failures(summary))
    made = (*across, *measures(summary.evaluations), *signs)
    return [block for block in made if block.rows]


def agreement(summary: Summary) -> Block:
    """Which share of the problems the runs decide alike."""
    rows = []
    for shared in summary.agreements:
        counts = ", ".join(f"{k}: {number}" for k, number in enumerate(shared.solved_by))
        others = wording.count(len(shared.left_out), "run")
        without = f" (without {others} on other problems)" if shared.left_out else ""
        rows.append(
            [shared.benchmark, f"{len(shared.runs)}{without}", str(shared.n), counts, wording.percent(shared.same),
             wording.decimal(shared.kappa, 2)]
        )  # fmt: skip
    return Block(
        "agreement",
        "Agreement of the runs",
        "How many problems are solved by 0, 1, ... all runs; the share of problems on which two runs have the same "
        "outcome, as a mean over pairs; and Fleiss' kappa: 0 where the runs agree as often as chance would have it.",
        ["benchmark", "runs", "problems", "solved by so many runs", "same outcome", "kappa"],
        rows,
    )


def consistency(summary: Summary) -> Block:
    """Whether a gain holds on all benchmarks."""
    rows = []
    for gains in summary.consistency:
        each = "; ".join(
            f"{name} {wording.points(gain)} {wording.points_interval(interval)}"
            for name, gain, interval in zip(gains.benchmarks, gains.gains, gains.intervals, strict=True)
        )
        spread = f"{100 * gains.spread:.1f} ({100 * gains.noise:.1f})"
        rows.append(
            [f"{gains.second} {wording.MINUS} {gains.first}", wording.points(gains.mean),
             wording.points_interval(gains.interval), wording.points_interval(gains.interval_over_benchmarks), spread,
             f"{gains.improved} of {len(gains.gains)}", each]
        )  # fmt: skip
    return Block(
        "consistency",
        "Consistency across benchmarks",
        "Paired gains in points. The first interval is for these benchmarks, the second takes them as a draw of possible "
        "ones. Spread: the standard deviation of the gains; in parentheses what problems and seeds alone would give.",
        ["second − first", "mean gain", "[95 %], these benchmarks", "[95 %], any benchmarks", "spread (noise)", "improved",
         "each"],
        rows,
    )  # fmt: skip


def domains(summary: Summary) -> Block:
    """Trained on what, good at what."""
    table = summary.domains
    head = ["trained on", "model", *(f"{d}: {name}" for d, name in table.columns)] if table else []
    rows = [[d, label, *map(_cell, cells)] for d, label, cells in table.rows] if table else []
    return Block(
        "domains",
        "Across domains",
        "Accuracy in %, mean over seeds; in parentheses the paired gain over the same model without this training, with "
        "its 95 % interval. ◆ marks a benchmark of the domain that the model was trained on.",
        head,
        rows,
    )


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return NONE
    gain = (
        f" ({wording.points(cell.gain)} {wording.points_interval(cell.gain_interval)})" if cell.gain is not None else ""
    )
    mark = (" ◆" if cell.in_domain else "") + (" CONTAMINATED" if cell.contaminated else "")
    return f"{100 * cell.accuracy:.1f}{gain}{mark}"


def overlap(summary: Summary) -> Block:
    """Scores with and without the problems that were trained on."""
    rows = []
    for evaluation in summary.evaluations:
        counts = (evaluation.metrics or {}).get("overlap") or {}
        if not wording.is_number(counts.get("problems")) or not counts["problems"]:
            continue
        rest = f"{wording.percent(counts.get('accuracy_rest'))} {wording.percent_interval(counts.get('interval_rest'))}"
        rows.append([evaluation.label, evaluation.benchmark, f"{counts['problems']} of {counts.get('of')}",
                     wording.percent(counts.get("accuracy_trained_on")), rest])  # fmt: skip
    return Block(
        "overlap",
        "Problems that were trained on",
        "Benchmark questions that are among the model's training questions, and the score without them.",
        ["run", "benchmark", "trained on", "accuracy on these", "accuracy on the rest [95 %]"],
        rows,
    )


def failures(summary: Summary) -> Block:
    """How well mean entropy tells wrong answers from right ones."""
    rows = []
    for evaluation in summary.evaluations:
        detection = (evaluation.metrics or {}).get("failure_detection")
        if detection:
            rows.append([evaluation.label, evaluation.benchmark, *_failure_cells(detection)])
    return Block(
        "failures",
        "Failure detection",
        "Mean token entropy of a completion as a sign that its answer is wrong. AUROC: the probability that a wrong answer "
        "has the higher entropy (0.5: no sign at all). Flagged: above the threshold. AURC: the mean risk over all "
        "coverages; a useless sign leaves it at the risk. The last column compares with the disagreement of several "
        "samples in telling wrong majority answers (entropy − disagreement).",
        ["run", "benchmark", "wrong of n", "AUROC [95 %]", "threshold, nats", "flagged", "precision [95 %]",
         "recall [95 %]", "risk → AURC", "AUROC against disagreement"],
        rows,
    )  # fmt: skip


def _failure_cells(detection: Metrics) -> list[str]:
    both = detection.get("agreement") or {}
    against = NONE
    if wording.is_number(both.get("difference")):
        areas = (
            f"{wording.decimal(both.get('auroc_entropy'))} against {wording.decimal(both.get('auroc_disagreement'))}"
        )
        against = f"{areas}: {wording.signed(both['difference'], 3)} {wording.signed_interval(both.get('interval'))}"
    return [
        f"{detection.get('wrong', NONE)} of {detection.get('n', NONE)}",
        f"{wording.decimal(detection.get('auroc'))} {wording.decimal_interval(detection.get('interval'))}",
        wording.significant(detection.get("threshold")),
        str(detection.get("flagged", NONE)),
        f"{wording.percent(detection.get('precision'))} {wording.percent_interval(detection.get('precision_interval'))}",
        f"{wording.percent(detection.get('recall'))} {wording.percent_interval(detection.get('recall_interval'))}",
        f"{wording.decimal(detection.get('risk'))} → {wording.decimal(detection.get('aurc'))}",
        against,
    ]
