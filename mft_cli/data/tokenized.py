"""A source's examples, tokenized once: later starts map them from the cache folder and read no row.

A cache folder's name is a digest of all that goes in: the file's bytes, the source's keys, the draw of its rows, the tokenizer's
bytes, the prompt and this package's code.
"""

from __future__ import annotations

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mft_cli.config.schema.inputs import DataConfig, SourceConfig
from mft_cli.data.encode import ARRAYS, Block, encode_rows, to_examples
from mft_cli.data.examples import BY_TOKEN, Examples, concatenate, joined_tokens
from mft_cli.data.prompts import Renderer
from mft_cli.data.sources import Rows, open_rows, read_opened
from mft_cli.errors import UserError
from mft_cli.files import cache_folder, digest_of, file_digest, read_json, read_object, replacing, write_json

DIGESTS = "digests.json"  # of the cache's other files
Asked = tuple[np.ndarray, np.ndarray]  # (row ids int64 [K], digests of their questions uint64 [K])


@dataclass
class Source:
    """A source's examples, what to print, and what to record of where they come from."""

    examples: Examples
    lines: list[str]
    asked: Asked
    location: str
    digest: str
    key: str  # of the cache


def encode_source(name: str, config: SourceConfig, renderer: Renderer, data: DataConfig, seed: int) -> Source:
    """Tokenized examples of a source. Raises UserError, for its rows by data.on_long and data.on_bad_row."""
    opened, raw = open_rows(config, name)
    key = cache_key(name, opened, renderer, data.on_bad_row, seed)
    folder = cache_folder() / "tokenized" / key
    stored = read_cache(folder) if data.cache else None
    if stored is None:
        rows = read_opened(opened, raw, name=name, seed=seed, on_bad_row=data.on_bad_row)
        stored = encode_rows(name, opened.source, rows.rows, renderer, data.on_bad_row), told(name, rows)
        if stored[0].bad:
            dropped = f"{len(stored[0].bad):,} rows dropped in tokenization (first: {stored[0].bad[0]})"
            stored[1].append(f"{name}: {dropped}")
        if data.cache:
            write_arrays(folder, {n: getattr(stored[0], n) for n in ARRAYS}, stored[1])
            stored = read_cache(folder) or stored  # mapped
    block, lines = stored
    examples, notes = limit_length(name, to_examples(block, opened.source), data)
    labels, tokens = int(examples.labels.sum()), int(examples.lengths.sum())
    size = f"{len(examples):,} examples, {tokens:,} tokens, {labels:,} label tokens"
    lines = [*lines, *notes, f"{name}: {size}, longest {int(examples.lengths.max())} (cache {key})"]
    return Source(examples, lines, (block.asked_ids, block.asked_digests), opened.location, opened.digest, key)


def mixture(sources: list[Source], cache: bool) -> Examples:
    """All sources' examples as one; with `cache` their tokens are mapped from a folder of their own."""
    parts = [source.examples for source in sources]
    if len(parts) == 1 or not cache:
        return concatenate(parts)
    folder = cache_folder() / "tokenized" / digest_of([source.key for source in sources])
    stored = read_arrays(folder, BY_TOKEN)
    if stored is None:
        write_arrays(folder, joined_tokens(parts), [])
        stored = read_arrays(folder, BY_TOKEN)
    return concatenate(parts, stored[0] if stored else None)


def told(name: str, rows: Rows) -> list[str]:
    """The lines on what was read."""
    return [*([rows.form] if rows.form else []), f"{name}: {rows.summary()}"]


def limit_length(name: str, examples: Examples, data: DataConfig) -> tuple[Examples, list[str]]:
    """Apply data.max_length. An example that is left without labels is always an error or a counted drop."""
    lengths, labels = examples.lengths, examples.labels
    long = lengths > data.max_length
    notes = []
    if long.any():
        worst = int(np.argmax(lengths))
        if data.on_long == "error":
            raise UserError(
                f"{name}: {int(long.sum()):,} of {len(examples):,} examples are longer than data.max_length="
                f"{data.max_length} tokens (longest {int(lengths[worst])}: {examples.key(worst)}); raise "
                f"data.max_length, or set data.on_long=drop or truncate"
            )
        if data.on_long == "drop":
            lost = int(labels[long].sum())
            examples = examples.take(np.flatnonzero(~long))
        else:
            examples = examples.truncated(data.max_length)
            lost = int(labels.sum() - examples.labels.sum())
        done = "dropped" if data.on_long == "drop" else "truncated"
        notes.append(
            f"{name}: {int(long.sum()):,} of {len(lengths):,} examples over {data.max_length} tokens {done}, "
            f"{lost:,} of {int(labels.sum()):,} label tokens lost"
        )
    empty = examples.labels == 0
    if empty.any():
        first = examples.key(int(np.argmax(empty)))
        if data.on_long != "truncate":
            raise UserError(f"{name}: {int(empty.sum()):,} examples have no label token (first: {first})")
        notes.append(f"{name}: {int(empty.sum()):,} examples dropped: nothing of the response is left (first: {first})")
        examples = examples.take(np.flatnonzero(~empty))
    if not len(examples):
        raise UserError(f"{name}: no example is left; set data.max_length higher")
    return examples, notes


# ---- cache ----------------------------------------------------------------------------------------------------------


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of everything that decides ids: the fast tokenizer's own bytes, special tokens and chat template."""
    parts = [tokenizer.backend_tokenizer.to_str(), str(tokenizer.chat_template), str(tokenizer.special_tokens_map)]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


@functools.cache
def code_digests() -> list[str]:
    """Of all files of this package: what is split off later counts, too."""
    return [file_digest(file) for file in sorted(Path(__file__).parent.glob("*.py"))]


def cache_key(name: str, opened: Rows, renderer: Renderer, on_bad_row: str, seed: int) -> str:
    source = opened.source
    drawn = seed if source.rows is not None or source.fraction < 1 else None
    prompt, tokenizer = asdict(renderer.prompt), tokenizer_digest(renderer.tokenizer)
    read = [name, asdict(source), opened.location, opened.digest, drawn, on_bad_row]
    return digest_of([read, prompt, list(renderer.allowed), tokenizer, code_digests()])


def write_arrays(folder: Path, arrays: dict[str, np.ndarray], lines: list[str]) -> None:
    """Written beside and renamed: a kill leaves no half cache, and two runs may write the same."""
    try:
        with replacing(folder) as temporary:
            temporary.mkdir()
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array)
            write_json(temporary / "lines.json", lines)
            write_json(temporary / DIGESTS, {path.name: file_digest(path) for path in sorted(temporary.iterdir())})
    except OSError as error:
        if read_arrays(folder, tuple(arrays)) is None:  # nobody else has written it either
            raise UserError(
                f"{folder}: the cache cannot be written ({error}); free space or set data.cache=false"
            ) from None


def read_arrays(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, Any], list[str]] | None:
    """(name -> array, mapped; the lines to print). None where there is none, or a file of it is not as it was written."""
    try:
        written = read_object(folder / DIGESTS)
        with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to others
            if list(pool.map(file_digest, [folder / name for name in written])) != list(written.values()):
                return None
        lines: list[str] = read_json(folder / "lines.json")
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}, lines
    except (OSError, ValueError):
        return None


def read_cache(folder: Path) -> tuple[Block, list[str]] | None:
    """A source's rows and its lines, see `read_arrays`."""
    stored = read_arrays(folder, ARRAYS)
    return None if stored is None else (Block(**stored[0]), stored[1])
