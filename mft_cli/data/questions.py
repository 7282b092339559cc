"""Questions in a form in which the same question is the same text: words, digests, and the file next to a model.

Letter case, punctuation, line breaks, Unicode forms and the writing of a number (1,000 or 1000; 5.0 or 5) do not count;
every word, number and arithmetic sign does. `training_questions.bin` in a run folder and in its exports holds the
digests of what the model was trained on, so that an evaluation can look its questions up without the training data.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mft_cli.data.sources import Row
from mft_cli.errors import UserError
from mft_cli.files import write_atomically

FILE = "training_questions.bin"
MAGIC = b"MFTQ0001"  # then the number of digests and the digests, sorted: 8 bytes each, little-endian
# A minus counts where an operand follows: x - 5, not nine-year-old.
WORD = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?|[+*/=<>^×÷]|[-−](?=\s?[\d(\\])")
# Thousands commas (10,000  10{,}000  10,\!000) and decimals that are zero. It starts with the rare character: a lookbehind
# in front would be tried at every place of the text.
WRITTEN = re.compile(r"(?:,(?<=\d,)(?:\\!)?|\{,\}(?<=\d\{,\}))(?=\d{3}(?!\d))|\.(?<=\d\.)0+(?!\d)")


def words(text: str) -> list[str]:
    """Words, numbers and arithmetic signs, in a form of their own."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).replace("’", "'")
    text = text.casefold().replace("'", "")
    return WORD.findall(WRITTEN.sub("", text))


def digest(tokens: list[str]) -> int:
    """64 bits of a question's words: with 400,000 training rows, a chance match of 1,000 questions has odds of 1e-11."""
    return int.from_bytes(hashlib.blake2b(" ".join(tokens).encode(), digest_size=8).digest(), "little")


def questions_of(row: Row) -> list[str]:
    """What a row asks: its question, or every user turn of a conversation."""
    if row.messages is None:
        return [row.question]
    return [turn["content"] for turn in row.messages if turn["role"] == "user"]


def digests_of(rows: Iterable[Row]) -> tuple[np.ndarray, np.ndarray]:
    """(row ids int64 [K], question digests uint64 [K]) of all questions that hold a word."""
    pairs = [(row.id, digest(tokens)) for row in rows for text in questions_of(row) if (tokens := words(text))]
    ids = np.fromiter((id for id, _ in pairs), dtype=np.int64, count=len(pairs))
    return ids, np.fromiter((value for _, value in pairs), dtype=np.uint64, count=len(pairs))


def write_questions(folder: Path, digests: np.ndarray) -> None:
    """The digests (uint64, any order) as training_questions.bin, whole or not at all."""
    kept = np.unique(digests.astype("<u8"))
    write_atomically(folder / FILE, MAGIC + len(kept).to_bytes(8, "little") + kept.tobytes())


def read_questions(folder: Path) -> np.ndarray | None:
    """Sorted digests (uint64) of what the model in this folder was trained on; None where nothing says so.

    Raises UserError for a damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    data = path.read_bytes()
    if data[:8] != MAGIC or len(data) != 16 + 8 * int.from_bytes(data[8:16], "little"):
        raise UserError(f"{path} is damaged or of another version; export the model again, or delete the file")
    return np.frombuffer(data, dtype="<u8", offset=16).astype(np.uint64)


def with_inherited(digests: np.ndarray, base: Path) -> np.ndarray:
    """The digests together with those of the model that a run went on from."""
    before = read_questions(base) if base.is_dir() else None
    return digests if before is None else np.union1d(digests, before)


def known(questions: Iterable[str], digests: np.ndarray) -> list[bool]:
    """Whether each question is among sorted `digests`."""
    tokens = [words(text) for text in questions]
    wanted_digests = np.array([digest(question) if question else 0 for question in tokens], dtype=np.uint64)
    return [bool(hit and question) for hit, question in zip(np.isin(wanted_digests, digests), tokens, strict=True)]
