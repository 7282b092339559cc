"""Problems whose outcome changed between two runs, with both texts; and how much of the text is the same at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mft_cli.report.compare.pairs import Pair
from mft_cli.report.compare.subjects import credit
from mft_cli.report.read.runs import Evaluation, Record
from mft_cli.report.wording import shortened

PER_PAIR = 20  # flips that the page shows for a pair
IN_ALL = 2000  # and in the whole report: it must stay openable
TEXT_LIMIT = 6000  # characters of one text in the page


@dataclass(frozen=True)
class Marked:
    """A completion in three pieces: the answer that was graded, and what stands before and after it."""

    before: str
    answer: str = ""
    after: str = ""


@dataclass
class Side:
    """One run's answer to a problem."""

    completion: Marked | None  # None where generations.jsonl lacks it
    answer: str
    answer_from: str  # what announced it: marker, box ...; empty in old files
    status: str
    finish_reason: str
    share: float  # of the problem's completions that are correct
    tokens: int | None


@dataclass
class Flip:
    """One problem that one run solved and the other did not (or solved more often)."""

    problem: str
    gained: bool
    gold: str
    prompt: str
    sample: int
    first: Side
    second: Side


@dataclass
class PairFlips:
    """The flips of one pair; what is not shown is counted."""

    pair: Pair
    shown: list[Flip]

    @property
    def left_out(self) -> int:
        """How many flips the page does not show."""
        return len(self.pair.gained) + len(self.pair.lost) - len(self.shown)


def same_text(first: Evaluation, second: Evaluation) -> tuple[int, int] | None:
    """How many completions are the same text, of how many; None where the two have other problems, or generated nothing."""
    a, b = first.completions(), second.completions()
    if not a or a.keys() != b.keys() or not first.generated:
        return None
    return sum(a[key].get("completion") == b[key].get("completion") for key in a), len(a)


def flipped(pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair.generated and (pair.gained or pair.lost)]


def collect(pairs: list[Pair], evaluations: dict[tuple[str, str], Evaluation]) -> list[PairFlips]:
    """Flips of every compared pair, within the page's limits; gained and lost in equal shares where both abound."""
    changed = flipped(pairs)
    limit = min(PER_PAIR, max(2, IN_ALL // len(changed))) if changed else 0
    return [_flips_of(pair, evaluations, chosen(pair.gained, pair.lost, limit), TEXT_LIMIT) for pair in changed]


def every(pairs: list[Pair], evaluations: dict[tuple[str, str], Evaluation]) -> Iterator[PairFlips]:
    """All flips of every compared pair, with whole texts."""
    return (_flips_of(pair, evaluations, (pair.gained, pair.lost), None) for pair in flipped(pairs))


def _flips_of(
    pair: Pair, evaluations: dict[tuple[str, str], Evaluation], problems: tuple[list[str], list[str]], limit: int | None
) -> PairFlips:
    sides = [_Side(evaluations[pair.benchmark, label], limit) for label in (pair.first, pair.second)]
    ways = [(problem, True) for problem in problems[0]] + [(problem, False) for problem in problems[1]]
    return PairFlips(pair, [_flip(problem, way, *sides) for problem, way in ways])


def chosen(gained: list[str], lost: list[str], limit: int) -> tuple[list[str], list[str]]:
    """At most `limit` of both; a side that has few leaves its room to the other."""
    room = max(limit // 2, limit - len(lost))
    return gained[:room], lost[: limit - len(gained[:room])]


class _Side:
    """An evaluation's rows by problem and sample."""

    def __init__(self, evaluation: Evaluation, limit: int | None):
        self.limit = limit
        self.completions = evaluation.completions()
        self.scores: dict[str, dict[int, Record]] = {}
        for row in evaluation.scores:
            self.scores.setdefault(str(row.get("id")), {})[int(row.get("sample") or 0)] = row

    def at(self, problem: str, sample: int) -> Side:
        """What stands in the page."""
        rows = self.scores[problem]
        row, text = rows.get(sample, {}), self.completions.get((problem, sample), {})
        completion = text.get("completion")
        return Side(
            completion=marked(str(completion), row.get("answer_span"), self.limit) if completion is not None else None,
            answer="" if row.get("answer") is None else str(row["answer"]),
            answer_from=str(row.get("answer_from") or ""),
            status=str(row.get("status") or ""),
            finish_reason=str(text.get("finish_reason") or ""),
            share=sum(map(credit, rows.values())) / len(rows),
            tokens=text.get("completion_tokens"),
        )


def _flip(problem: str, gained: bool, first: _Side, second: _Side) -> Flip:
    samples = sorted(first.scores[problem].keys() & second.scores[problem].keys())

    def outcome(side: _Side, number: int) -> bool:
        return side.scores[problem][number].get("correct") is True

    # With several samples, the one to look at is one that turned the way the problem did.
    turned = [s for s in samples if outcome(second, s) == gained and outcome(first, s) != gained]
    sample = (turned or samples or [0])[0]
    record = second.completions.get((problem, sample)) or first.completions.get((problem, sample)) or {}
    gold = next(iter(second.scores[problem].values())).get("gold")
    prompt = str(record.get("prompt") or "")
    if first.limit:
        prompt = shortened(prompt, first.limit)
    return Flip(problem, gained, str(gold), prompt, sample, first.at(problem, sample), second.at(problem, sample))


def marked(text: str, span: list[int] | None, limit: int | None) -> Marked:
    """The text around the characters [start, end) of the answer; a long one loses its middle, not the answer."""
    if span is None or not span[0] < span[1] <= len(text):
        return Marked(text if limit is None else without_middle(text, limit))
    before, answer, after = text[: span[0]], text[span[0] : span[1]], text[span[1] :]
    if limit is None:
        return Marked(before, answer, after)
    return Marked(without_middle(before, limit // 2), shortened(answer, limit // 4), shortened(after, limit // 4))


def without_middle(text: str, limit: int) -> str:
    """The start and the end of a long text, with the number of characters between them."""
    half = limit // 2
    return (
        text if len(text) <= limit else f"{text[:half]}\n… ({len(text) - 2 * half} more characters) …\n{text[-half:]}"
    )
