"""Encoding (spans, lines, limits, cache) and packing (every example once, shifted labels, any layout the same)."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mft_cli.config.schema.inputs import DataConfig, PromptConfig, SourceConfig, ValidationConfig
from mft_cli.data.encode import ARRAYS
from mft_cli.data.examples import Examples
from mft_cli.data.load import load, validation_size
from mft_cli.data.pack import IGNORE, Order, make_batch, pack_examples
from mft_cli.data.prompts import Renderer
from mft_cli.data.tokenized import encode_source
from mft_cli.errors import UserError
from tests.support.tiny import problems


def encode(tokenizer, file: Path, data: DataConfig | None = None, **source: object) -> tuple[Examples, list[str]]:
    config = SourceConfig(path=str(file), **{"response": "answer", **source})
    encoded = encode_source("s", config, Renderer(tokenizer, PromptConfig()), data or DataConfig(), 1)
    return encoded.examples, encoded.lines


def test_tokens_are_prompt_then_response(tokenizer, problem_file: Path):
    examples, _ = encode(tokenizer, problem_file)
    renderer = Renderer(tokenizer, PromptConfig())
    for i, row in enumerate(problems(40)):
        here = examples.place(i)
        prompt, response = renderer.prompt_ids(row["question"]), renderer.response_ids(row["answer"])
        assert examples.tokens[here].tolist() == prompt + response
        assert examples.loss_mask[here].tolist() == [False] * len(prompt) + [True] * len(response)
    assert examples.labels.tolist() == [len(renderer.response_ids(r["answer"])) for r in problems(40)]


def test_lines_follow_the_text(tokenizer, problem_file: Path):
    examples, _ = encode(tokenizer, problem_file)
    for i, row in enumerate(problems(40)):
        here = examples.place(i)
        tokens, lines = examples.tokens[here], examples.lines[here]
        for number, line in enumerate(row["answer"].split("\n")):
            text = tokenizer.decode(tokens[lines == number])
            assert text.replace("<|im_end|>", "").strip("\n") == line.strip("\n")


def test_spans_are_found_by_offsets(tokenizer, tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    rows = [{"question": "q", "answer": "First <c>look at it</c> then say 7.", "part": "say 7"}]
    file.write_text(json.dumps(rows[0]))
    examples, _ = encode(tokenizer, file, spans={"critique": "/<c>(.*)</c>/", "end": "part"})
    assert examples.span_names == ("critique", "end")
    inside = [tokenizer.decode(examples.tokens[(examples.spans >> bit) & 1 == 1]) for bit in (0, 1)]
    assert inside[0].strip() in "look at it"
    assert "at" in inside[0]
    assert inside[1].strip() in "say 7"
    with pytest.raises(UserError, match="span 'end' is not in the response"):
        encode(tokenizer, file, spans={"end": "/absent/"})


@pytest.mark.parametrize("layout", ["question_response", "messages"])
def test_loss_on_everything_trains_on_the_prompt_too(tokenizer, tmp_path: Path, layout: str):
    file = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Say 7."}]
    file.write_text(json.dumps({"question": "q", "answer": "Say 7.", "messages": turns}))
    examples, _ = encode(tokenizer, file, layout=layout, loss_on="everything")
    same, _ = encode(tokenizer, file, layout=layout)
    assert examples.loss_mask.all()
    assert examples.labels.tolist() == [len(examples.tokens) - 1]
    assert np.array_equal(examples.tokens, same.tokens)
    assert np.array_equal(examples.lines, same.lines)
    assert not same.loss_mask.all()


def test_limits_are_counted(tokenizer, problem_file: Path):
    examples, _ = encode(tokenizer, problem_file)
    limit = int(np.sort(examples.lengths)[-6])
    with pytest.raises(UserError, match=f"longer than data.max_length={limit}"):
        encode(tokenizer, problem_file, DataConfig(max_length=limit))
    long = int((examples.lengths > limit).sum())
    dropped, lines = encode(tokenizer, problem_file, DataConfig(max_length=limit, on_long="drop"))
    assert len(dropped) == len(examples) - long
    assert any(f"{long:,} of {len(examples):,} examples over {limit} tokens dropped" in line for line in lines)
    cut, lines = encode(tokenizer, problem_file, DataConfig(max_length=limit, on_long="truncate"))
    lost = int(examples.labels.sum() - cut.labels.sum())
    assert len(cut) == len(examples)
    assert cut.lengths.max() == limit
    assert any(f"{lost:,} of" in line for line in lines)
    nothing, lines = encode(
        tokenizer, problem_file, DataConfig(max_length=int(examples.lengths.min()), on_long="truncate")
    )
    assert (nothing.labels > 0).all()


def test_cache_is_read_and_keyed(tokenizer, problem_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path))
    first, lines = encode(tokenizer, problem_file)
    again, same = encode(tokenizer, problem_file)
    assert lines == same
    assert isinstance(again.tokens, np.memmap)
    assert np.array_equal(first.tokens, again.tokens)
    assert encode(tokenizer, problem_file, DataConfig(max_length=512))[1][-1] == lines[-1]  # limits come after it
    keys = {lines[-1], encode(tokenizer, problem_file, rows=30)[1][-1]}
    tokenizer.add_tokens(["<new>"])
    keys.add(encode(tokenizer, problem_file)[1][-1])
    copy = tmp_path / "copy.jsonl"
    copy.write_text(problem_file.read_text().replace("plus", "and"))
    keys.add(encode(tokenizer, copy)[1][-1])
    assert len({k.rsplit("cache", 1)[1] for k in keys}) == 4


def test_a_later_start_reads_no_row(tokenizer, problem_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path))
    renderer, data = (
        Renderer(tokenizer, PromptConfig()),
        DataConfig(sources={"s": SourceConfig(str(problem_file), response="answer")}),
    )
    first = load(data, renderer, 1)
    monkeypatch.setattr("mft_cli.data.tokenized.read_opened", None)
    again = load(data, renderer, 2)  # nothing is drawn: the seed does not matter
    assert (again.lines, again.digests) == (first.lines, first.digests)
    assert np.array_equal(again.training_questions(), first.training_questions())
    assert [again.train.key(i) for i in range(40)] == [f"{problem_file}:{i + 1}" for i in range(40)]


@pytest.mark.parametrize("on_bad_row", ["error", "drop"])
def test_processes_share_the_rows_and_change_nothing(
    tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_bad_row: str
):
    file = tmp_path / "rows.jsonl"
    rows = problems(40)
    if on_bad_row == "drop":
        rows[17]["answer"] = "<|im_end|>"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(cache=False, on_bad_row=on_bad_row)
    alone, lines = encode(tokenizer, file, data, spans={"steps": "/Step|That/"})
    monkeypatch.setattr("mft_cli.data.encode.BLOCK", 7)
    monkeypatch.setattr("mft_cli.data.encode.ROWS_A_PROCESS", 10)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    shared, same = encode(tokenizer, file, data, spans={"steps": "/Step|That/"})
    assert lines == same
    for field in fields(Examples):
        np.testing.assert_array_equal(getattr(alone, field.name), getattr(shared, field.name), strict=True)
    assert alone.spans.any()


CACHED = (*(f"{name}.npy" for name in ARRAYS), "lines.json", "digests.json")


@pytest.mark.parametrize("name", CACHED)
def test_a_damaged_cache_is_made_again(
    tokenizer, problem_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
):
    """A flipped bit of a token is a token, too: only a digest tells."""
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path))
    whole, _ = encode(tokenizer, problem_file)
    (path,) = (tmp_path / "tokenized").glob(f"*/{name}")
    content = path.read_bytes()
    for torn in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], b"", None):
        path.unlink()  # not written over: examples are mapped from it
        if torn is not None:
            path.write_bytes(torn)
        again, _ = encode(tokenizer, problem_file)
        assert np.array_equal(again.tokens, whole.tokens)
        assert np.array_equal(again.keys, whole.keys)
        assert path.read_bytes().strip() == content.strip()  # a text without its last line break is the same


def test_mixture_validation_and_fraction(tokenizer, problem_file: Path):
    sources = {
        n: SourceConfig(path=str(problem_file), response="answer", rows=r, mask_ratio=m)
        for n, r, m in (("a", 20, 0.1), ("b", 10, None))
    }
    renderer = Renderer(tokenizer, PromptConfig())
    loaded = load(DataConfig(sources=sources, validation=ValidationConfig(rows=6)), renderer, 1)
    assert (len(loaded.train), len(loaded.validation)) == (24, 6)
    assert not set(loaded.train.ids.tolist()) & set(loaded.validation.ids.tolist())
    assert set(np.unique(loaded.train.ratio[~np.isnan(loaded.train.ratio)]).tolist()) == {np.float32(0.1)}
    half = load(DataConfig(sources=sources, validation=ValidationConfig(rows=6), fraction=0.5), renderer, 1)
    assert len(half.train) == 12
    assert set(half.train.ids.tolist()) < set(loaded.train.ids.tolist())
    assert half.validation.ids.tolist() == loaded.validation.ids.tolist()


def test_a_mixture_is_mapped_too(tokenizer, problem_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path))
    spans = ({"answer": "/#### (.*)/"}, {"steps": "/That/", "answer": "/#### (.*)/"})
    sources = {
        n: SourceConfig(path=str(problem_file), response="answer", spans=s) for n, s in zip("ab", spans, strict=True)
    }
    renderer = Renderer(tokenizer, PromptConfig())
    data = DataConfig(sources=sources, max_length=60, on_long="truncate")
    mapped = [load(data, renderer, 1).train for _ in range(2)]
    assert all(isinstance(examples.tokens, np.memmap) for examples in mapped)
    plain = load(replace(data, cache=False), renderer, 1).train
    for examples in mapped:
        for field in fields(Examples):
            np.testing.assert_array_equal(getattr(examples, field.name), getattr(plain, field.name))
    assert plain.span_names == ("answer", "steps")
    assert np.array_equal(plain.flat("spans")[: plain.lengths[0]] & 1, plain.spans[plain.place(40)] & 1)


def test_a_share_of_the_training_rows_validates(tokenizer, problem_file: Path):
    renderer = Renderer(tokenizer, PromptConfig())
    source = SourceConfig(path=str(problem_file), response="answer")

    def split(fraction: float, seed: int = 1, rows: int | None = None):
        asked = DataConfig(sources={"a": replace(source, rows=rows)}, validation=ValidationConfig(fraction=fraction))
        return load(asked, renderer, seed)

    first, again, other = split(0.15), split(0.15), split(0.15, seed=2)
    assert (len(first.train), len(first.validation)) == (34, 6)
    assert not set(first.train.ids.tolist()) & set(first.validation.ids.tolist())
    assert again.validation.ids.tolist() == first.validation.ids.tolist() != other.validation.ids.tolist()
    same = load(DataConfig(sources={"a": source}, validation=ValidationConfig(rows=6)), renderer, 1)
    assert same.validation.ids.tolist() == first.validation.ids.tolist()
    for fraction, rows in ((0.1, 4), (0.99, 1), (0.01, 40)):
        with pytest.raises(UserError, match=f"fraction={fraction}: of {rows} training rows (0|1) would validate"):
            split(fraction, rows=rows)


@pytest.mark.parametrize(
    ("fraction", "rows", "validating"),
    [(0.1, 15, 2), (0.1, 14, 1), (0.1, 25, 3), (0.15, 10, 2), (0.35, 10, 4), (0.29, 50, 15), (1e-3, 500, 1)],
)
def test_the_share_is_rounded_as_it_is_written(fraction: float, rows: int, validating: int):
    """Halves go up; 0.15 x 10, 0.35 x 10 and 0.29 x 50 are halves on paper and below them in binary."""
    assert validation_size(fraction, rows) == validating


# ---- packing --------------------------------------------------------------------------------------------------------


def fake(lengths: list[int]) -> Examples:
    total = sum(lengths)
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 99, total).astype(np.int32)
    return Examples.of(np.arange(1, len(lengths) + 1) * 7919, lengths, tokens, rng.random(total) < 0.5)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(50, 120), st.booleans())
def test_every_example_lies_in_one_row_that_holds_it(lengths, row_length, packing):
    rows = pack_examples(np.array(lengths), row_length, packing)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= row_length for row in rows)
    if not packing:
        assert all(len(row) == 1 for row in rows)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_labels_are_shifted_within_each_example(lengths):
    examples = fake(lengths)
    rows = pack_examples(np.array(lengths), 40, True)
    batch = make_batch(examples, rows, 0, pad_id=2)
    found = {}
    for r, row in enumerate(rows):
        at = 0
        for i in row:
            n = lengths[i]
            s = int(examples.starts[i])
            tokens, loss_mask = examples.tokens[s : s + n], examples.loss_mask[s : s + n]
            expected = [int(t) if k else IGNORE for t, k in zip(tokens[1:], loss_mask[1:], strict=True)] + [IGNORE]
            assert batch.labels[r, at : at + n].tolist() == expected
            assert batch.positions[r, at : at + n].tolist() == list(range(n))
            assert batch.input_ids[r, at : at + n].tolist() == tokens.tolist()
            found[i] = True
            at += n
        assert not batch.real[r, at:].any()
        assert sum(batch.lengths[r]) == batch.input_ids.shape[1]
    assert len(found) == len(lengths)
    assert int((batch.labels != IGNORE).sum()) == int(examples.labels.sum())


def test_an_empty_micro_batch_is_one_position_without_a_label():
    batch = make_batch(fake([3]), [], 0, pad_id=2)
    assert batch.input_ids.tolist() == [[2]]
    assert batch.labels.tolist() == [[IGNORE]]
    assert batch.lengths == [[1]]


def test_order_shows_every_example_once_an_epoch_and_keeps_the_last_step():
    examples = fake([2] * 23)
    order = Order(examples, seed=1, global_batch_size=5)
    assert order.steps_per_epoch == 5
    epochs = [[order.step(e * 5 + k) for k in range(5)] for e in range(3)]
    for e, steps in enumerate(epochs):
        assert all(epoch == e for epoch, _ in steps)
        assert [len(chosen) for _, chosen in steps] == [5, 5, 5, 5, 3]
        assert sorted(np.concatenate([c for _, c in steps]).tolist()) == list(range(23))
    assert not np.array_equal(epochs[0][0][1], epochs[1][0][1])
    again = Order(replace(examples), seed=1, global_batch_size=5)
    assert np.array_equal(again.step(7)[1], order.step(7)[1])
    assert torch.is_tensor(make_batch(examples, [[0]], 0, 2).input_ids)
