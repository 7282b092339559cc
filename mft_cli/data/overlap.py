"""Which benchmark questions stand in training rows: equal, nearly whole, with changed numbers, or by phrase alone.

One pass over the rows, batches of them at a time: words become numbers, and every n-gram of a batch is hashed and
looked up in one go. What a kind means is in `KINDS`. An n-gram alone proves nothing: competition problems end in the
same sentences ("where m and n are relatively prime positive integers"), so a question counts as present only if nearly
all of its n-grams stand in one row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from mft_cli.data.questions import digest, words

LONG, SHORT = 13, 8  # words of an n-gram
LONG_FROM = 2 * LONG  # questions of fewer words are looked for by the shorter n-gram, below SHORT words by equality
SAME, NEAR = 0.8, 0.5  # share of a question's n-grams that stand in one row
KINDS = {
    "exact": "the same text (spaces aside)",
    "normalised": "the same words and numbers (case and punctuation aside)",
    "ngram": f"at least {SAME:.0%} of its n-grams in one row, and every number of it",
    "near": f"not one of these, but at least {NEAR:.0%} of its n-grams when numbers are left out: changed numbers or end",
    "phrase": "shares n-grams with a row, but fewer",
}
COUNTED = ("exact", "normalised", "ngram")  # contamination; the others are said apart
RANK = {kind: rank for rank, kind in enumerate(KINDS)}
BATCH = 2000
BLOOM_BITS = 24


@dataclass(frozen=True)
class TrainingRow:
    """`key`: where it stands; `questions`: what is asked; `others`: the rest of its text."""

    key: str
    questions: tuple[str, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hit:
    """One benchmark question in one training row."""

    question: int
    kind: str
    coverage: float  # share of the question's n-grams in the row, numbers left out
    key: str
    text: str


@dataclass
class Overlap:
    """What a scan found. `hits` holds the best row of each question, and `rows` how many rows had each kind of it."""

    hits: dict[int, Hit] = field(default_factory=dict)
    rows: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    row_keys: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # row -> questions that count
    scanned: int = 0


class _Vocabulary(dict[str, int]):
    """Word -> small integer; all numbers are one word, and 0 separates texts."""

    def __missing__(self, word: str) -> int:
        self[word] = number = 1 if word[0].isdigit() else len(self) + 2
        return number


class _Grams:
    """The n-grams of some questions, by hash."""

    def __init__(self, n: int, questions: Sequence[tuple[int, list[int]]], total: np.ndarray):
        self.n = n
        hashes = [np.unique(_hashes(np.array(ids, dtype=np.uint64), n)) for _, ids in questions]
        for (number, _), grams in zip(questions, hashes, strict=True):
            total[number] = len(grams)
        flat = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        owner = np.repeat([number for number, _ in questions], [len(h) for h in hashes]).astype(np.int64)
        order = np.argsort(flat, kind="stable")
        self.hashes, starts = np.unique(flat[order], return_index=True)
        self.owners, self.starts = owner[order], np.append(starts, len(flat))
        self.bloom = np.zeros(1 << BLOOM_BITS, dtype=bool)
        self.bloom[self.hashes >> np.uint64(64 - BLOOM_BITS)] = True

    def pairs(self, ids: np.ndarray, rows: np.ndarray, questions: int) -> tuple[np.ndarray, np.ndarray]:
        """(row * questions + question, distinct n-grams shared) of a batch; `rows` says which row a word is of."""
        if len(ids) < self.n or not len(self.hashes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        hashes = _hashes(ids, self.n)
        at = np.nonzero(self.bloom[hashes >> np.uint64(64 - BLOOM_BITS)])[0]
        slot = np.minimum(np.searchsorted(self.hashes, hashes[at]), len(self.hashes) - 1)
        real = self.hashes[slot] == hashes[at]
        both = np.unique(rows[at[real]] * len(self.hashes) + slot[real])  # an n-gram counts once in a row
        row, gram = both // len(self.hashes), both % len(self.hashes)
        counts = self.starts[gram + 1] - self.starts[gram]
        first = np.repeat(self.starts[gram] - (np.cumsum(counts) - counts), counts)
        owners = self.owners[first + np.arange(counts.sum())]
        return np.unique(np.repeat(row, counts) * questions + owners, return_counts=True)


def _hashes(ids: np.ndarray, n: int) -> np.ndarray:
    """A 64-bit polynomial hash of every n consecutive words."""
    if len(ids) < n:
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        spread = (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        spread ^= spread >> np.uint64(29)
        total = np.zeros(len(ids) - n + 1, np.uint64)
        for k in range(n):
            total *= np.uint64(0xD6E8FEB86659FD93)
            total += spread[k : k + len(total)]
        total ^= total >> np.uint64(32)
        total *= np.uint64(0xBF58476D1CE4E5B9)
    return total ^ (total >> np.uint64(29))


class Index:
    """Questions that can be looked for in rows."""

    def __init__(self, questions: Sequence[str]):
        self.texts = [" ".join(text.split()) for text in questions]
        self.words = [words(text) for text in questions]
        self.vocabulary = _Vocabulary()
        self.total = np.zeros(len(questions), dtype=np.int64)
        self.n = [LONG if len(w) >= LONG_FROM else SHORT for w in self.words]
        ids = [[self.vocabulary[word] for word in tokens] for tokens in self.words]
        self.grams = [
            _Grams(n, [(i, ids[i]) for i in range(len(ids)) if self.n[i] == n and len(ids[i]) >= n], self.total)
            for n in (SHORT, LONG)
        ]
        self.by_digest: dict[int, list[int]] = defaultdict(list)
        for number, tokens in enumerate(self.words):
            if tokens:
                self.by_digest[digest(tokens)].append(number)

    def scan(self, rows: Iterable[TrainingRow]) -> Overlap:
        """Look for every question in every row."""
        matches, rows = Overlap(), iter(rows)
        while batch := list(islice(rows, BATCH)):
            self._scan_batch(batch, matches)
            matches.scanned += len(batch)
        return matches

    def _scan_batch(self, batch: list[TrainingRow], matches: Overlap) -> None:
        texts = [[words(text) for text in (*row.questions, *row.others)] for row in batch]
        ids: list[int] = []
        ends = [0]
        for parts in texts:
            for part in parts:
                ids.extend(map(self.vocabulary.__getitem__, part))
                ids.append(0)
            ends.append(len(ids))
        row_of = np.repeat(np.arange(len(batch)), np.diff(ends))
        flat = np.array(ids, dtype=np.uint64)
        equal = [self._equal(row, parts) for row, parts in zip(batch, texts, strict=True)]
        for row, kinds in zip(batch, equal, strict=True):
            for question, kind in kinds.items():
                self._add(matches, question, kind, 1.0, row)
        for grams in self.grams:
            keys, counts = grams.pairs(flat, row_of, len(self.texts))
            shares = counts / self.total[keys % len(self.texts)]
            for key, share in zip(keys.tolist(), shares.tolist(), strict=True):
                index, question = divmod(key, len(self.texts))
                if question not in equal[index]:
                    kind = "phrase" if share < NEAR else self._kind(question, texts[index])
                    self._add(matches, question, kind, share, batch[index])

    def _equal(self, row: TrainingRow, parts: list[list[str]]) -> dict[int, str]:
        result = {}
        for text, tokens in zip(row.questions, parts, strict=False):
            for question in self.by_digest.get(digest(tokens), ()):
                result[question] = "exact" if " ".join(text.split()) == self.texts[question] else "normalised"
        return result

    def _kind(self, question: int, parts: list[list[str]]) -> str:
        """The kind of a match that is not an equality: plain n-grams, then numbers, then n-grams of words, in one text."""
        n, tokens = self.n[question], self.words[question]
        mine, numbers = _ngrams(tokens, n), Counter(filter(_is_number, tokens))
        prose = {gram for gram in _ngrams(_numberless(tokens), n) if _is_prose(gram)}
        kind = "phrase"
        for part in parts:
            if len(mine & _ngrams(part, n)) >= SAME * len(mine) and not numbers - Counter(filter(_is_number, part)):
                return "ngram"
            if prose and len(prose & _ngrams(_numberless(part), n)) >= NEAR * len(prose):
                kind = "near"
        return kind

    def _add(self, matches: Overlap, question: int, kind: str, coverage: float, row: TrainingRow) -> None:
        matches.rows[question][kind] += 1
        if kind in COUNTED:
            matches.row_keys[row.key].add(question)
        before = matches.hits.get(question)
        if before is None or (RANK[kind], -coverage) < (RANK[before.kind], -before.coverage):
            text = row.questions[0] if kind in ("exact", "normalised") else "\n".join((*row.questions, *row.others))
            matches.hits[question] = Hit(question, kind, coverage, row.key, text)


def _ngrams(tokens: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def _is_number(word: str) -> bool:
    return word[0].isdigit()


def _numberless(tokens: list[str]) -> list[str]:
    return ["0" if _is_number(word) else word for word in tokens]


def _is_prose(gram: tuple[str, ...]) -> bool:
    """Half of it are words: without their numbers, formulas of one form are all alike."""
    return 2 * sum(len(word) > 1 and word.isalpha() for word in gram) >= len(gram)
