"""The tables, as rows of finished words. The page, Markdown and the terminal print the same cells."""

from __future__ import annotations

from dataclasses import dataclass

from mft_cli.report import wording
from mft_cli.report.compare.pairs import Pair, decided
from mft_cli.report.read.fields import Record
from mft_cli.report.read.runs import Evaluation, Run
from mft_cli.report.summary import Summary
from mft_cli.report.wording import NONE

STATE_WORDS = {"": NONE, "done": "done", "running": "RUNNING", "stopped": "STOPPED", "failed": "FAILED"}


@dataclass
class ScoreRow:
    """One evaluation."""

    label: str
    benchmark: str
    finished: bool
    n: str
    accuracy: str
    interval: str
    value: float | None
    bounds: tuple[float, float] | None
    unparsed: str
    truncated: str
    timed_out: str
    gold: str
    gold_interval: str
    contaminated: str
    run_state: str
    how: str
    prompt_text: str


def score_rows(summary: Summary, benchmark: str) -> list[ScoreRow]:
    """The scores on one benchmark."""
    states = {run.label: run for run in summary.runs}
    evaluations = [evaluation for evaluation in summary.evaluations if evaluation.benchmark == benchmark]
    return [score_row(evaluation, states[evaluation.run]) for evaluation in evaluations]


def score_row(evaluation: Evaluation, run: Run) -> ScoreRow:
    """One evaluation as words; what is not known is a dash, never a zero."""
    metrics = evaluation.metrics or {}
    gold = metrics.get("gold_logprob") or {}
    interval = metrics.get("interval")
    # The words are a dash exactly where the interval is missing or no pair of numbers.
    bounds = (interval[0], interval[1]) if interval and wording.percent_interval(interval) != NONE else None
    value = metrics.get("accuracy")
    return ScoreRow(
        label=evaluation.label,
        benchmark=evaluation.benchmark,
        finished=evaluation.metrics is not None,
        n=wording.whole(metrics.get("n")),
        accuracy=wording.percent(value),
        interval=wording.percent_interval(interval),
        value=value if wording.is_number(value) else None,
        bounds=bounds,
        unparsed=wording.whole(metrics.get("unparsed")),
        truncated=wording.whole(metrics.get("truncated")),
        timed_out=wording.whole(metrics.get("timed_out")),
        gold=wording.decimal(gold.get("mean"), wording.digits_for(gold.get("interval"))),
        gold_interval=wording.decimal_interval(gold.get("interval"), wording.digits_for(gold.get("interval"))),
        contaminated=wording.one_line(str(metrics.get("contaminated") or "")),
        run_state=STATE_WORDS.get(run.state, run.state) if run.unfinished else "",
        how=how(metrics),
        prompt_text=wording.shortened(str(metrics.get("prompt_text") or ""), 2000),
    )


def how(metrics: Record) -> str:
    """Under which conditions a score was made, in one line."""
    engine = metrics.get("engine")
    engine = engine if isinstance(engine, dict) else {}
    prompt = metrics.get("prompt")
    prompt = prompt.get("name") or prompt.get("kind") if isinstance(prompt, dict) else prompt
    seconds = metrics.get("seconds")
    total = sum(value for value in seconds.values() if wording.is_number(value)) if isinstance(seconds, dict) else None
    parts = (
        ("prompt", prompt),
        ("engine", " ".join(str(engine[key]) for key in ("name", "version", "dtype") if engine.get(key))),
        ("completions a problem", metrics.get("samples")),
        ("interval", metrics.get("interval_method")),
        ("took", wording.duration(total) if total else None),
    )
    return wording.one_line("; ".join(f"{name} {value}" for name, value in parts if value))


@dataclass
class PairRow:
    """One comparison."""

    pair: Pair
    first: str
    second: str
    refused: str
    n: str
    difference: str
    interval: str
    p: str
    p_holm: str
    gained: str
    lost: str
    detectable: str
    verdict: str
    decided: bool
    same_text: str
    gold_difference: str
    gold_interval: str
    gold_verdict: str
    cautions: list[str]


def pair_row(pair: Pair) -> PairRow:
    """One comparison as words."""
    gold = pair.gold
    same = f"{pair.same_text[0]} of {pair.same_text[1]}" if pair.same_text else NONE
    return PairRow(
        pair=pair,
        first=pair.first,
        second=pair.second,
        refused=pair.refused,
        n=str(pair.n),
        difference=wording.points(pair.difference),
        interval=wording.points_interval(pair.interval),
        p=wording.probability(pair.p),
        p_holm=wording.probability(pair.p_holm),
        gained=str(len(pair.gained)),
        lost=str(len(pair.lost)),
        detectable=NONE if pair.detectable is None else f"{100 * pair.detectable:.1f}",
        verdict=pair.verdict,
        decided=decided(pair.verdict),
        same_text=same,
        gold_difference=wording.signed(gold.difference, wording.digits_for(gold.interval)) if gold else NONE,
        gold_interval=wording.signed_interval(gold.interval, wording.digits_for(gold.interval)) if gold else NONE,
        gold_verdict=gold.verdict if gold else pair.gold_refused,
        cautions=pair.cautions,
    )


def seed_rows(summary: Summary) -> list[tuple[str, ...]]:
    """Of every group and benchmark: settings, benchmark, mean and spread over seeds, each seed's own number, and the gold
    log-likelihood's mean and spread."""
    rows: list[tuple[str, ...]] = []
    for group in summary.groups:
        for score in group.scores:
            seeds = dict(zip([run.label for run in group.runs], group.seeds, strict=True))
            each = [f"s{seeds.get(label.split(' @ ')[0])}: {100 * value:.1f}" for label, value in score.values]
            label = group.label + (f" @ {score.checkpoint}" if score.checkpoint else "")
            spread = f"{100 * score.deviation:.1f}" if score.deviation is not None else NONE
            gold = (wording.decimal(score.gold_mean), wording.significant(score.gold_deviation))
            rows.append((label, score.benchmark, wording.percent(score.mean), spread, ", ".join(each), *gold))
    return rows


def in_short(summary: Summary) -> list[str]:
    """The findings in sentences: seed groups where there are any, else every run against the first one."""
    pairs = [pair for pair in summary.group_pairs or summary.pairs if not pair.refused]
    if not summary.group_pairs:
        firsts = {benchmark: pair.first for pair in reversed(pairs) for benchmark in [pair.benchmark]}
        pairs = [pair for pair in pairs if pair.first == firsts[pair.benchmark]]
    return [sentence(pair) for pair in pairs[:12]]


def how_many(summary: Summary) -> str:
    """How many comparisons were made: the more, the likelier one of them looks decided by chance."""
    refused = sum(bool(pair.refused) for pair in summary.pairs)
    words = wording.count(len(summary.pairs), "pair") + (f", {refused} of them not comparable" if refused else "")
    if summary.tests == 1:
        return f"{words}; one test, so there is no number to correct for."
    if summary.tests:
        words += f"; {summary.tests} tests, p corrected for their number by Holm's method"
    return f"{words}. The intervals are not corrected."


def sentence(pair: Pair) -> str:
    """One comparison as a sentence."""
    row = pair_row(pair)
    end = f" CONTAMINATED: {', '.join(pair.contaminated)}." if pair.contaminated else ""
    if decided(pair.verdict):
        size = row.difference.lstrip("+" + wording.MINUS)
        words = f"{pair.second} scores {size} points {pair.verdict} than {pair.first} on {pair.benchmark}"
        return f"{words} {row.interval}.{end}"
    words = f"{pair.second} against {pair.first} on {pair.benchmark}: {row.difference} points {row.interval}"
    seen = f"; a difference below {row.detectable} points would mostly go unseen" if row.detectable != NONE else ""
    return f"{words}, {pair.verdict}{seen}.{end}"


METHOD = (
    (
        "Accuracy and its interval",
        "Share of problems solved (with several completions a problem: their mean), with a 95 % interval over the draw "
        "of problems. The intervals of two runs may overlap although their paired difference is decided.",
    ),
    (
        "Difference",
        "Second minus first on the same problems, in percentage points, with a 95 % bootstrap interval over problems. "
        "Where the interval includes 0 the comparison is not decided: that is no evidence that the two are equal.",
    ),
    (
        "Flips and the exact test",
        "Gained: solved only by the second run; lost: only by the first. The p value is McNemar's exact test on these "
        "two numbers (with several completions a problem: random sign flips of the differences); in parentheses Holm's "
        "correction over all tests of this report.",
    ),
    (
        "Smallest detectable",
        "The smallest true difference that a comparison with this many problems and this much disagreement would find "
        "in four of five repetitions (two-sided 5 % level). Smaller differences would mostly go unseen.",
    ),
    (
        "Gold log-likelihood",
        "Mean log-probability that the model gives a token of the gold solution, in nats: it moves smoothly where accuracy "
        "jumps. Differences are paired and decided as those of the accuracy are: corrected for their number, over seeds "
        "where a setting has several; below 30 problems with Student's interval. "
        "It says how likely the reference text is, not whether the model solves the problem.",
    ),
    (
        "Seeds",
        "Intervals of single runs cover the draw of problems. Training again with another seed moves a score as well. "
        "Settings with several seeds are compared by a two-way random-effects model (seeds and problems): runs with a "
        "common seed are pairs, and the interval covers other problems and other seeds.",
    ),
)
