"""The usual forms of data files train with one line; others say which fields are there and which keys to set."""

from __future__ import annotations

import bz2
import json
import lzma
from pathlib import Path

import pytest

from mft_cli.config.schema.inputs import DataConfig, PromptConfig, SourceConfig
from mft_cli.data.layouts import resolve_local
from mft_cli.data.prompts import Renderer
from mft_cli.data.sources import load_rows
from mft_cli.data.tokenized import encode_source
from mft_cli.errors import UserError

Q, A = "What is 1 plus 2?", "It is 3."
CHAT = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
SHAREGPT = [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]
FORMS = {
    "question, answer": {"question": Q, "answer": A},
    "question, response, answer": {"question": Q, "response": A, "answer": "3"},
    "problem, solution": {"problem": Q, "solution": A, "level": 3},
    "query, response": {"query": Q, "response": A},
    "prompt, completion": {"prompt": Q, "completion": A},
    "instruction, output": {"instruction": Q, "output": A},
    "instruction, input, output": {"instruction": "Add.", "input": Q, "output": A},
    "messages": {"messages": CHAT, "prompt": Q},
    "conversations": {"id": "x", "conversations": SHAREGPT},
    "prompt, completion as messages": {"prompt": CHAT[:1], "completion": CHAT[1:]},
}


def source(tmp_path: Path, row, **more) -> SourceConfig:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for _ in range(2)))
    return SourceConfig(path=str(file), layout="auto", **more)


@pytest.mark.parametrize("form", FORMS)
def test_the_usual_forms_are_detected_told_and_tokenized(tmp_path: Path, tokenizer, form: str):
    asked = source(tmp_path, FORMS[form])
    rows = load_rows(asked, name="mine", seed=1)
    assert rows.form.startswith("mine: rows of the form ")
    assert rows.source.layout != "auto"
    data = DataConfig(sources={"mine": asked}, cache=False)
    examples = encode_source("mine", asked, Renderer(tokenizer, PromptConfig()), data, 1).examples
    text = tokenizer.decode(examples.tokens[: examples.lengths[0]])
    assert Q in text
    trained = tokenizer.decode(examples.tokens[: examples.lengths[0]][examples.loss_mask[: examples.lengths[0]]])
    assert trained == A + "<|im_end|>"


def test_plain_text_is_trained_on_as_a_whole(tmp_path: Path, tokenizer):
    asked = source(tmp_path, {"text": "Once upon a time."})
    data = DataConfig(sources={"mine": asked}, cache=False)
    examples = encode_source("mine", asked, Renderer(tokenizer, PromptConfig()), data, 1).examples
    first = examples.tokens[: examples.lengths[0]][examples.loss_mask[: examples.lengths[0]]]
    assert tokenizer.decode(first) == "Once upon a time.<|im_end|>"


def test_the_short_answer_beside_a_response_is_the_answer(tmp_path: Path):
    row = load_rows(source(tmp_path, FORMS["question, response, answer"]), name="s", seed=1).rows[0]
    assert (row.response, row.answer) == (A, "3")


def test_fields_that_are_named_are_taken(tmp_path: Path):
    row = load_rows(
        source(tmp_path, {"question": Q, "response": A, "answer": "3"}, response="answer"), name="s", seed=1
    ).rows[0]
    assert (row.question, row.response) == (Q, "3")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"frage": Q, "antwort": A},
            "is none of the usual forms; fields: frage, antwort. Set data.sources.mine.question=FIELD",
        ),
        (
            {"question": Q, "response": A, "output": A},
            "question=question, response=response or as question=question, response=output",
        ),
    ],
)
def test_what_is_not_detected_names_the_fields_and_the_keys(tmp_path: Path, row, says: str):
    with pytest.raises(UserError) as error:
        resolve_local(DataConfig(sources={"mine": source(tmp_path, row)}))
    assert says in str(error.value)


ROW = json.dumps({"question": Q, "response": A})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", b"\xef\xbb\xbf" + ROW.encode()),
        ("bom.json", b"\xef\xbb\xbf[" + ROW.encode() + b"]"),
        ("rows.tsv", f"question\tresponse\n{Q}\t{A}\n".encode()),
        ("rows.jsonl.bz2", bz2.compress(ROW.encode())),
        ("rows.jsonl.xz", lzma.compress(ROW.encode())),
    ],
)
def test_files_of_these_kinds_are_read(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    row = load_rows(SourceConfig(path=str(tmp_path / name)), name="s", seed=1).rows[0]
    assert (row.question, row.response) == (Q, A)


def test_zstandard_is_read(tmp_path: Path):
    import pyarrow

    with pyarrow.output_stream(str(tmp_path / "rows.jsonl.zst"), compression="zstd") as file:
        file.write(ROW.encode())
    assert load_rows(SourceConfig(path=str(tmp_path / "rows.jsonl.zst")), name="s", seed=1).rows[0].response == A


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("NaN", "field 'response' is empty"),
        ("Infinity", "field 'response' is empty"),
        ("9" * 5000, "field 'response' is an integer of 5,000 digits, expected text"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ],
    ids=["nan", "infinity", "huge integer", "deep"],
)
def test_values_that_are_none_make_bad_rows_not_crashes(tmp_path: Path, value: str, says: str):
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"question": "What?", "response": {value}}}\n{ROW}\n')
    with pytest.raises(UserError, match=says):
        load_rows(SourceConfig(path=str(file)), name="s", seed=1)
    kept = load_rows(SourceConfig(path=str(file)), name="s", seed=1, on_bad_row="drop")
    assert len(kept.rows) == len(kept.bad) == 1


def test_a_file_of_one_deep_value_is_one_sentence(tmp_path: Path):
    file = tmp_path / "rows.json"
    file.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        load_rows(SourceConfig(path=str(file)), name="s", seed=1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "the file is empty"),
        (b"[{}]", "expected a JSON object, found list"),
        ('{"a": 1}'.encode("utf-16"), "invalid JSON"),
    ],
)
def test_a_file_without_a_readable_row_says_why(tmp_path: Path, text: bytes, said: str):
    (tmp_path / "rows.jsonl").write_bytes(text)
    with pytest.raises(UserError, match=rf"no row that can be read.*{said}"):
        load_rows(SourceConfig(path=str(tmp_path / "rows.jsonl"), layout="auto"), name="s", seed=1)
