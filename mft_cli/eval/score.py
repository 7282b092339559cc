"""Completions to scores: generations.jsonl to scores.jsonl and metrics.json. Needs no model and no torch."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import cast

from mft_cli import answers
from mft_cli.answers.extraction import CONCLUSION, LAST_NUMBER
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.errors import UserError
from mft_cli.eval.completions import arrange
from mft_cli.eval.contamination import split_accuracy
from mft_cli.eval.grading.format_adherence import adherence_metrics
from mft_cli.eval.grading.graders import SCORING_VERSION, UNPARSED, grade, more_metrics
from mft_cli.eval.grading.perplexity import perplexity_lines
from mft_cli.eval.group_metrics import group_lines, group_metrics
from mft_cli.eval.journal import Record, dump, read_lines
from mft_cli.eval.metrics_file import Metrics, read_metrics, write_metrics
from mft_cli.files import JsonObject, file_digest, write_atomically
from mft_cli.stats import intervals
from mft_cli.stats import significance as stats
from mft_cli.stats.failure_detection import failure_detection

GUESSED = 0.1  # share of answers that nothing announces, above which the summary says so
UNREADABLE = "have no readable answer: the prompt and the markers may not fit the model"
UNDECIDED = "have no clear verdict of the judge in either order: look at what eval.judge replies"
LOUD = 0.05  # share of unparsed or truncated completions above which the summary says so first


def score_file(
    generations: Path,
    name: str,
    benchmark: BenchmarkConfig,
    out: Path,
    gold_by_id: dict[str, str] | None = None,
    *,
    eval_config: EvalConfig | None = None,
    extra: JsonObject | None = None,
    warnings: Sequence[str] = (),
    common_samples: bool = False,
    expects_format: bool = False,
) -> Metrics:
    """Score a file of completions; writes scores.jsonl and metrics.json into out and returns the metrics.

    The completions of another folder are kept beside them, in order and by our ids, so that pages can show them.
    A line needs an id and `completion`, and may have `sample` and `gold` (`mft_cli.eval.completions.arrange`). `extra`
    is added to the metrics and `warnings` stand first among its own; `eval_config` gives workers, time limit, seed and
    number of problems. `expects_format`: the model was trained to write critiques, so adherence to their format is
    measured even where no completion has a tag. Raises UserError for a file that is not complete.
    """
    config = eval_config or EvalConfig()
    started = time.perf_counter()
    records, _ = read_lines(generations)
    if not records:
        raise UserError(f"{generations}: no completions; expected JSON lines with id, sample and completion")
    ordered, golds = arrange(generations, name, benchmark, records, gold_by_id, config, common_samples=common_samples)
    kept = keep_completions(generations, out, ordered)
    scores = grade(ordered, benchmark, config)
    facts: JsonObject = {
        **summarise(name, ordered, scores, len(golds), config.failure_threshold),
        **group_metrics(ordered, scores, benchmark, out),
        **more_metrics(scores, benchmark),
        "generations_digest": file_digest(kept),
        **(extra or {}),
    }
    texts = [record["completion"] for record in ordered]
    if expects_format or any("<critique>" in text for text in texts):
        facts["format_adherence"] = adherence_metrics(texts)
    metrics = cast(Metrics, facts)
    split_accuracy(metrics, scores)
    metrics["warnings"] = [*warnings, *metrics["warnings"]]
    metrics.setdefault("seconds", {})["score"] = round(time.perf_counter() - started, 3)
    write_atomically(out / "scores.jsonl", "".join(dump(s) for s in scores))
    write_metrics(out, metrics)
    return metrics


def keep_completions(generations: Path, out: Path, records: Sequence[Record]) -> Path:
    """The file of completions that lies beside the scores. Raises UserError where that would replace an evaluation's."""
    kept = out / "generations.jsonl"
    if kept.is_file() and kept.samefile(generations):
        return kept
    before = read_metrics(out)
    ours = None if isinstance(before, str) or "settings_digest" in before else before.get("generations_digest")
    if kept.is_file() and file_digest(kept) != ours:
        raise UserError(f"out={out}: holds completions of an evaluation; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, "".join(dump(record) for record in records))
    return kept


# ---- numbers --------------------------------------------------------------------------------------------------------


def summarise(
    name: str, records: Sequence[Record], scores: Sequence[Record], n: int, threshold: float | None = None
) -> Metrics:
    """The metrics of complete, ordered scores: `n` problems with the same number of samples each."""
    samples = len(scores) // n
    groups = [scores[i : i + samples] for i in range(0, len(scores), samples)]
    right = [sum(s["correct"] for s in group) for group in groups]
    shares = [r / samples for r in right]
    accuracy = math.fsum(shares) / n
    alike = set(shares) in ({0.0}, {1.0})  # a bootstrap of equal values has an interval of no width
    whole = set(shares) <= {0.0, 1.0}  # texts count by the share of their tokens that were guessed
    wilson = (samples == 1 and whole) or alike or n == 1
    interval = intervals.wilson(math.fsum(shares), n) if wilson else intervals.bootstrap_mean(shares)
    status = Counter(s["status"] for s in scores)
    truncated = sum(r.get("finish_reason") == "length" for r in records)
    unreadable = UNDECIDED if "preference" in scores[0] else UNREADABLE
    guessed = sum(s.get("answer_from") in (CONCLUSION, LAST_NUMBER) for s in scores)
    metrics: Metrics = {
        "benchmark": name,
        "scoring_version": SCORING_VERSION,
        "n": n,
        "samples": samples,
        "accuracy": accuracy,
        "interval": list(interval),
        "interval_method": "wilson" if wilson else f"bootstrap over problems ({intervals.DRAWS} draws, seed 0)",
        "correct": sum(right),
        "unparsed": status[UNPARSED],
        "truncated": truncated,
        "timed_out": status["timed_out"],
        "gold_logprob": None,
        "contaminated": None,
        "warnings": loud_warnings(len(scores), status[UNPARSED], truncated, status["timed_out"], guessed, unreadable),
    }
    if samples > 1:
        ks = sorted({k for k in (1, 2, 4, 8, 16, 32, 64, samples) if k <= samples})
        metrics["pass_at"] = {str(k): math.fsum(stats.pass_at_k(samples, r, k) for r in right) / n for k in ks}
        metrics["majority_at"] = {str(samples): sum(_majority_right(group) for group in groups) / n}
        metrics["majority_tie_rule"] = "the answer whose first sample came first"
    if detection := failure_detection(_signals(records, scores, samples), threshold):
        metrics["failure_detection"] = detection
    return metrics


def _signals(records: Sequence[Record], scores: Sequence[Record], samples: int) -> list[list[Record]]:
    """What failure detection reads, problem by problem."""
    rows = [
        {"id": s["id"], "correct": s["correct"], "vote": _label(s["answer"]), "mean_entropy": _entropy(r)}
        for r, s in zip(records, scores, strict=True)
    ]
    return [rows[i : i + samples] for i in range(0, len(rows), samples)]


def _entropy(record: Record) -> float | None:
    value = record.get("mean_entropy")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def loud_warnings(
    total: int, unparsed: int, truncated: int, timed_out: int, guessed: int, unreadable: str
) -> list[str]:
    """What must be read before the accuracy: shares of wrong-by-form completions above 5 %, of guessed ones above 10 %."""
    kinds = (
        (truncated, "reached the token limit (finish_reason length): raise max_new_tokens or look at the completions"),
        (unparsed, unreadable),
        (timed_out, "took too long to compare"),
    )
    warnings = [f"{count} of {total} completions {text}" for count, text in kinds if count > LOUD * total]
    if guessed > GUESSED * total:
        warnings.append(
            f"{guessed} of {total} answers are a conclusion's number or the last number of a completion that announces none: "
            "the prompt does not say how to answer, or the model does not follow it"
        )
    return warnings


def summary(metrics: Metrics, reused: bool = False) -> str:
    """The last lines of a benchmark; shares above 5 % of unreadable or cut completions come first."""
    first = "".join(f"WARNING: {metrics['benchmark']}: {warning}\n" for warning in metrics["warnings"])
    low, high = metrics["interval"]
    counts = f"{metrics['unparsed']} unparsed, {metrics['truncated']} truncated, {metrics['timed_out']} timed out"
    of = metrics["n"] * metrics["samples"]
    gold = metrics.get("gold_logprob")
    tail = f"; gold log-likelihood {gold['mean']:.4f} per token" if gold else ""
    tail += " (reused)" if reused else ""
    line = (
        f"{first}{metrics['benchmark']}: "
        f"accuracy {100 * metrics['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] "
        f"({metrics['correct']} of {of} right; {counts}){tail}"
    )
    if read := metrics.get("perplexity"):
        guessed = f"next token guessed {100 * metrics['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        (line,) = perplexity_lines(metrics["benchmark"], read)
        return f"{first}{line}; {guessed}{' (reused)' if reused else ''}"
    kinds = (_sample_lines, _instruction_lines, _format_lines, _preference_lines, group_lines)
    return "\n".join([line, *(more for lines in kinds for more in lines(metrics))])


def _sample_lines(metrics: Metrics) -> list[str]:
    """pass@k and maj@k, where there are several samples."""
    if "pass_at" not in metrics:
        return []
    kinds = (("pass", metrics["pass_at"]), ("maj", metrics["majority_at"]))
    shares = [f"{name}@{k} {100 * value:.1f} %" for name, values in kinds for k, value in values.items()]
    return [f"{metrics['benchmark']}: {', '.join(shares)}"]


def _instruction_lines(metrics: Metrics) -> list[str]:
    """IFEval's four numbers."""
    kinds = metrics.get("instruction_following") or {}
    shares = [
        f"{name.replace('_', ' ')} {100 * kinds[name]['value']:.1f} %" for name in kinds if name != "by_instruction"
    ]
    return [f"{metrics['benchmark']}: {', '.join(shares)}"] if shares else []


def _format_lines(metrics: Metrics) -> list[str]:
    """Format adherence of a model that writes critiques."""
    if (shares := metrics.get("format_adherence")) is None:
        return []
    parts = ("all_tags", "in_order", "boxed_answer", "strict")
    told = ", ".join(f"{name.replace('_', ' ')} {100 * shares[name]:.1f} %" for name in parts)
    return [f"{metrics['benchmark']}: format {100 * shares['format']:.1f} % ({told})"]


def _preference_lines(metrics: Metrics) -> list[str]:
    """Win rates of a judged benchmark."""
    if (wins := metrics.get("preference")) is None:
        return []
    return [
        f"{metrics['benchmark']}: win rate {wins['win_rate']:.1f} % (standard error {wins['standard_error']:.1f}), "
        f"length-controlled {wins['length_controlled_win_rate']:.1f} %, judged by {wins['judge']['model']}, "
        f"{wins['unclear']} of {wins['replies']} replies unclear"
    ]


def _majority_right(group: Sequence[Record]) -> bool:
    votes = [_label(s["answer"]) for s in group]
    winner = stats.majority(votes)
    return winner is not None and bool(group[votes.index(winner)]["correct"])


def _label(answer: str | None) -> Hashable | None:
    """Equal answers are one vote, by their canonical form."""
    return None if answer is None else answers.canonical(answer)
