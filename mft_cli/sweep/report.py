"""The sweep report: sentences, tables and plots as sweep.html, sweep.md, sweep.json and PNG; the text goes to the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from mft_cli.config.schema.base import Values
from mft_cli.console import text_table
from mft_cli.files import write_atomically
from mft_cli.report.render import markdown, page, plots
from mft_cli.report.render.document import Picture, TextTable, tables_document
from mft_cli.report.wording import NONE, count, decimal, decimal_interval, one_line, signed, signed_interval
from mft_cli.sweep.ledger import Ledger
from mft_cli.sweep.objective import lower_is_better
from mft_cli.sweep.results import Comparison, Results, Score, Setting, results

MANY = 12  # values of a key: with more, a map of two keys is not a map
LUCK = "the best of many is partly luck, so its score looks better than a new run's would"
READING = (
    "A setting is one value for every swept key but the seed. Its score is the mean over its seeds; the interval is "
    "Student's, 95 %, for the mean over seeds drawn like these. It covers the seed (order, masks, new weights, and the "
    "draw of the validation rows), not the draw of the benchmark's problems.",
    "The best is the setting with the best mean. It is compared with every other setting, on the seeds that both have "
    "(paired: what a seed does to both cancels), else unpaired (Welch). The intervals hold together at 95 % (Bonferroni).",
    "Where the interval of a difference holds zero, the best is not distinguishable from that setting by these seeds. Seeds "
    "that all have the same score give no interval: that they agree does not make sure.",
    f"The score that chose is not the score to report: {LUCK}. Report a benchmark that did not choose.",
)


def build(ledger: Ledger, out: Path, select: str | None = None) -> str:
    """Write the report into `out`. Returns the text for the terminal. Raises UserError if there is nothing to report."""
    sweep_results = results(ledger, select)
    sentences, tables, pictures = in_short(sweep_results), all_tables(sweep_results), draw(sweep_results)
    title = f"Sweep {ledger.root.resolve().name}"
    out.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (out / f"{picture.name}.png").write_bytes(picture.light)
    write_atomically(out / "sweep.json", json.dumps(as_json(sweep_results), indent=2) + "\n")
    document = tables_document(title, sentences, tables, pictures, READING)
    write_atomically(out / "sweep.md", markdown.render(document))
    write_atomically(out / "sweep.html", page.render(document))
    blocks = [f"{one_line(t.title)}\n" + "\n".join(text_table([t.head, *t.rows])) for t in tables]
    return "\n\n".join([*blocks, "\n".join(sentences), f"report: {out / 'sweep.html'}\n        {out / 'sweep.md'}"])


# ---- words ----------------------------------------------------------------------------------------------------------


def in_short(sweep_results: Results) -> list[str]:
    """The findings in sentences, what is missing first."""
    lines = []
    if sweep_results.unfinished:
        states = ", ".join(f"{job.number} ({job.state})" for job in sweep_results.unfinished[:10])
        lines.append(f"{count(len(sweep_results.unfinished), 'job')} not done and left out: {states}.")
    if sweep_results.best is None or sweep_results.selected_by is None:
        names = ", ".join(sweep_results.metrics) or "none"
        return [
            *lines,
            f"Nothing was chosen: no run has a validation loss (data.validation.rows=N). Scores there are: {names}; "
            f"select=<name> chooses by one of them.",
        ]
    lines += [chosen(sweep_results.best, sweep_results.selected_by), told(sweep_results)]
    best = sweep_results.best
    tests = [
        f"{metric} {with_interval(best.scores[metric])}"
        for metric in sweep_results.test_metrics
        if metric in best.scores
    ]
    if tests:
        lines.append(f"Reported for it on what did not choose it: {'; '.join(tests)}.")
    else:
        lines.append(f"No benchmark is left that did not choose: {LUCK}.")
    return lines


def chosen(best: Setting, metric: str) -> str:
    way = "lower" if lower_is_better(metric) else "higher"
    score = best.scores[metric]
    return f"Best by {metric} ({way} is better): {best.label}, {with_interval(score)} over {count(len(score.by_seed), 'seed')}."


def told(sweep_results: Results) -> str:
    """Whether the best is the best."""
    if not sweep_results.comparisons:
        return "There is no other setting to compare it with."
    if all(comparison.interval is None and comparison.paired > 1 for comparison in sweep_results.comparisons):
        return "The difference is the same in every seed, which says nothing of chance: more seeds, or a finer score."
    if all(comparison.interval is None for comparison in sweep_results.comparisons):
        return "One seed a setting: whether the best is more than luck cannot be said. Sweep seed=1,2,3 too."
    if not sweep_results.rivals:
        first = sweep_results.comparisons[0]
        return f"It is better than every other setting; the nearest is {first.other}, {margin(first)} worse."
    named = "; ".join(f"{comparison.other} ({margin(comparison)})" for comparison in sweep_results.rivals[:6])
    more = f" and {len(sweep_results.rivals) - 6} more" if len(sweep_results.rivals) > 6 else ""
    return f"It is not distinguishable from {count(len(sweep_results.rivals), 'other setting')} by these seeds: {named}{more}."


def margin(comparison: Comparison) -> str:
    why = "(the same in every seed)" if comparison.paired > 1 else "(too few seeds)"
    return (
        f"{signed(comparison.difference, 4)} {signed_interval(comparison.interval, 4) if comparison.interval else why}"
    )


def with_interval(score: Score) -> str:
    seeds = len(score.by_seed)
    why = "(one seed)" if seeds == 1 else f"(the same in {seeds} seeds)"
    return f"{decimal(score.mean, 4)} {decimal_interval(score.interval, 4) if score.interval else why}"


# ---- tables ---------------------------------------------------------------------------------------------------------


def all_tables(sweep_results: Results) -> list[TextTable]:
    """Scores of every setting, and the best against the others."""
    head = ("setting", "seeds", *(f"{metric} [95 %]" for metric in sweep_results.metrics))
    rows = [score_row(sweep_results, setting) for setting in sweep_results.settings]
    tables = [TextTable("Scores", head, rows, f"Mean over seeds: {', '.join(sweep_results.seeds)}.")]
    if sweep_results.comparisons and sweep_results.best:
        caption = f"How much better {sweep_results.best.label} is by {sweep_results.selected_by}; all intervals together hold at 95 %."
        rows = [(c.other, str(c.paired or "unpaired"), margin(c), verdict(c)) for c in sweep_results.comparisons]
        tables.append(
            TextTable("The best against the others", ("setting", "common seeds", "better by", "verdict"), rows, caption)
        )
    return tables


def score_row(sweep_results: Results, setting: Setting) -> tuple[str, ...]:
    mark = " (best)" if setting is sweep_results.best else ""
    seeds = max((len(score.by_seed) for score in setting.scores.values()), default=0)
    cells = [with_interval(setting.scores[m]) if m in setting.scores else NONE for m in sweep_results.metrics]
    return (one_line(setting.label) + mark, str(seeds), *cells)


def verdict(comparison: Comparison) -> str:
    if comparison.interval is None:
        return "no spread over seeds to tell by" if comparison.paired > 1 else "too few seeds to tell"
    return "worse than the best" if comparison.decided else "not distinguishable"


# ---- files ----------------------------------------------------------------------------------------------------------


def draw(sweep_results: Results) -> list[Picture]:
    """A line for one swept key, a map for two with few values, else every key by itself."""
    pictures = []
    for metric in sweep_results.metrics:
        have = [setting for setting in sweep_results.settings if metric in setting.scores]
        made = {setting.values: point(sweep_results, setting, metric) for setting in have}
        name = "sweep-" + "".join(c if c.isalnum() or c in "-_" else "-" for c in metric)
        values = [len({setting.values[i] for setting in have}) for i in range(len(sweep_results.keys))]
        if len(sweep_results.keys) == 2 and max(values) <= MANY:
            pair = {(v[0], v[1]): p for v, p in made.items()}
            keys = (sweep_results.keys[0], sweep_results.keys[1])
            images = [plots.sweep_map(metric, keys, pair, dark) for dark in (False, True)]
            pictures.append(Picture(f"{metric} against {keys[0]} and {keys[1]}", images[0], images[1], name))
            continue
        for i, key in enumerate(sweep_results.keys):
            # with several keys, a setting stands at its own value of this one, whatever the others are
            line = [plots.Point(v[i], p.values, p.mean, p.interval, p.best) for v, p in made.items()]
            images = [plots.sweep_line(metric, key, line, dark) for dark in (False, True)]
            last = f"-{key.replace('.', '-').replace('/', '-')}" if len(sweep_results.keys) > 1 else ""
            pictures.append(Picture(f"{metric} against {key}", images[0], images[1], name + last))
    return pictures


def point(sweep_results: Results, setting: Setting, metric: str) -> plots.Point:
    score = setting.scores[metric]
    return plots.Point(
        "".join(setting.values[:1]),
        list(score.by_seed.values()),
        score.mean,
        score.interval,
        setting is sweep_results.best,
    )


def as_json(sweep_results: Results) -> Values:
    """Everything, for other programs."""
    return {
        "keys": sweep_results.keys,
        "selected_by": sweep_results.selected_by,
        "best": sweep_results.best.label if sweep_results.best else None,
        "seeds": sweep_results.seeds,
        "unfinished": [job.number for job in sweep_results.unfinished],
        "settings": [
            {
                "values": dict(zip(sweep_results.keys, setting.values, strict=True)),
                "scores": {
                    m: {"mean": s.mean, "interval": s.interval, "seeds": s.by_seed} for m, s in setting.scores.items()
                },
            }
            for setting in sweep_results.settings
        ],
        "best_against": [
            {
                "other": c.other,
                "difference": c.difference,
                "interval": c.interval,
                "paired": c.paired,
                "decided": c.decided,
            }
            for c in sweep_results.comparisons
        ],
    }
