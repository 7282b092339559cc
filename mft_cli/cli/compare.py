"""`mft compare`: its help, its options and what it calls."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import read_options
from mft_cli.config.schema.base import STRICT, key
from mft_cli.console import text_table
from mft_cli.errors import UserError
from mft_cli.models.folder import weights_now
from mft_cli.report import write
from mft_cli.report.compare.pairs import Pair
from mft_cli.report.read.folders import read_compared
from mft_cli.report.render import tables
from mft_cli.report.render.blocks import blocks
from mft_cli.report.render.measures import Block
from mft_cli.report.summary import Summary, summarise
from mft_cli.report.wording import NONE, one_line, percent, probability, signed, signed_interval


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft compare`."""

    out: Path = key(Path("outputs/compare"), "Folder of the report.")
    baseline: str | None = key(
        None, "The run, its folder or the setting that others are compared with; null: the plainest."
    )


def main(arguments: list[str]) -> None:
    options, named = read_options(Options, "compare", arguments)
    if not named:
        raise UserError("mft compare needs run or evaluation folders: mft compare outputs/a outputs/b")
    compare([Path(folder) for folder in named], options.out, options.baseline)


HEAD = ("second − first", "n", "difference [95 %]", "gained/lost", "same outcome", "p", "Holm", "detectable", "verdict")
LISTED = 12  # flips named for a direction in the terminal


def compare(folders: list[Path], out: Path, baseline: str | None = None) -> Summary:
    """Print every paired comparison and write report.html, .md, .json and flips.txt into `out`.

    Raises UserError where fewer than two evaluations share a benchmark, and for an unknown baseline.
    """
    summary = summarise(read_compared(folders), baseline, weights_now)
    shared = [pair for pair in summary.pairs if not pair.refused]
    if not summary.pairs:
        names = ", ".join(
            f"{run.label} ({', '.join(e.benchmark for e in run.evaluations) or 'none'})" for run in summary.runs
        )
        raise UserError(f"nothing to compare: no benchmark was evaluated twice; found {names}")
    paths = write(summary, out)  # before a word is printed: what reads the words may close its end (| head)
    for notice in summary.notices:
        if notice.level != "note":
            print(f"{notice.level.upper()}: {one_line(notice.where)}: {one_line(notice.text)}")
    for benchmark in dict.fromkeys(pair.benchmark for pair in shared):
        print(f"\n{benchmark}")
        print("\n".join(_scores(summary, benchmark)))
        print("\n".join(_pairs([pair for pair in shared if pair.benchmark == benchmark])))
        print("".join(_likelihoods([pair for pair in shared if pair.benchmark == benchmark])), end="")
    _print_seeds(summary)
    print(f"\n{tables.how_many(summary)}")
    print("detectable: the smallest true difference that such a comparison finds in four of five repetitions")
    for block in blocks(summary):
        print("\n".join(_block(block)))
    print("\n".join(chain.from_iterable(_flips(pair) for pair in shared[:6] if pair.generated)))
    flips = sum(len(pair.gained) + len(pair.lost) for pair in summary.pairs if pair.generated)
    shown = sum(len(part.shown) for part in summary.flips)
    print(
        f"\nboth completions of {shown} of {flips} flips: {paths.html}\nof all: {paths.flips}\nall numbers: {paths.json}"
    )
    return summary


def _print_seeds(summary: Summary) -> None:
    if summary.group_pairs:
        print(
            f"\nsettings with several seeds: intervals over problems and seeds; Holm over {len(summary.group_pairs)} tests"
        )
    for benchmark in dict.fromkeys(pair.benchmark for pair in summary.group_pairs):
        pairs = [pair for pair in summary.group_pairs if pair.benchmark == benchmark]
        print("\n".join([f"\n{benchmark}", *_pairs(pairs)]))
        for pair in pairs:
            if pair.seed_share is not None:
                share = f"{percent(pair.seed_share)} of the variance from seeds, {pair.test}"
                print(f"  {one_line(pair.second)}: {', '.join(pair.cautions)}; {share}")


def _scores(summary: Summary, benchmark: str) -> list[str]:
    rows = tables.score_rows(summary, benchmark)
    return [f"  {one_line(row.label)}: {row.accuracy} {row.interval} of {row.n}" for row in rows if row.finished]


def _pairs(pairs: list[Pair]) -> list[str]:
    rows: list[tuple[str, ...]] = [HEAD]
    for pair in pairs:
        row = tables.pair_row(pair)
        name = one_line(f"{row.second} − {row.first}")
        if pair.refused:
            rows.append((name, NONE, f"not compared: {one_line(pair.refused)}", *[NONE] * 6))
            continue
        rows.append((name, row.n, f"{row.difference} {row.interval}", f"+{row.gained}/−{row.lost}",
                     percent(pair.agreement), row.p, row.p_holm, row.detectable, row.verdict))  # fmt: skip
    return ["  " + line for line in text_table(rows)]


def _likelihoods(pairs: list[Pair]) -> Iterator[str]:
    """Of texts that were only read: lines with the differences of their log-likelihoods."""
    for pair in pairs:
        if not pair.generated and pair.gold and pair.gold.interval is not None:
            bounds = signed_interval(list(pair.gold.interval), 4)
            yield (
                f"  log-likelihood of a token, {one_line(pair.second)} − {one_line(pair.first)}: "
                f"{signed(pair.gold.difference, 4)} {bounds} nats, p {probability(pair.gold.p)}: {pair.gold.verdict}\n"
            )


def _block(block: Block) -> list[str]:
    lines = ["", block.title]
    for row in block.rows:
        lines.append("  " + "; ".join(f"{head} {one_line(cell)}" for head, cell in zip(block.head, row, strict=True)))
    return lines


def _flips(pair: Pair) -> list[str]:
    lines = [f"\nflips on {one_line(pair.benchmark)}, {one_line(pair.second)} − {one_line(pair.first)}"]
    for name, ids in (("gained", pair.gained), ("lost", pair.lost)):
        more = f" and {len(ids) - LISTED} more" if len(ids) > LISTED else ""
        lines.append(f"  {name} {len(ids)}: {', '.join(map(one_line, ids[:LISTED])) or 'none'}{more}")
    return lines


HELP = """mft compare: runs on the same problems, pair by pair

  mft compare outputs/sft-s1 outputs/masked-s1              two runs
  mft compare outputs/a outputs/b baseline=b                differences to b (default: the model before training, else
                                                            plain sft, else the first one named)
  mft compare outputs/sft-s* outputs/masked-s*              many seeds: seeds within settings, common seeds paired
  mft compare outputs/a/eval/gsm8k scores/                  evaluation folders; scores/ from mft score
  mft compare outputs/a outputs/b out=outputs/mine

For every benchmark: paired difference with a 95 % interval, McNemar's exact test, Holm's correction, flips, agreement,
and the smallest difference that could have been detected. Writes report.html (both completions of 20 flips a pair), flips.txt
(of all), report.md and report.json into out (default outputs/compare). What is computed: docs/compare.md
"""
