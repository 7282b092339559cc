"""Rows from files of every format, bad rows named, draws seeded and nested."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from mft_cli.config.checks_sources import check_source
from mft_cli.config.compose import CONF, run_with_hydra
from mft_cli.config.schema.inputs import SourceConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.validate import build
from mft_cli.data.conversations import split_turns
from mft_cli.data.sources import load_rows
from mft_cli.errors import UserError
from tests.support.tiny import needs_data

ROWS = [{"question": f"q{i}", "answer": f"a {i}\nsecond line, with comma", "n": i} for i in range(10)]


def write(folder: Path, kind: str) -> Path:
    file = folder / f"rows.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(r) + "\n\n" for r in ROWS))
    elif kind == "json":
        file.write_text(json.dumps(ROWS))
    elif kind == "csv":
        with open(file, "w", newline="") as out:
            writer = csv.DictWriter(out, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        parquet.write_table(pa.Table.from_pylist(ROWS), file)
    return file


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str):
    found = load_rows(SourceConfig(path=str(write(tmp_path, kind)), response="answer"), name="s", seed=1)
    assert [(r.question, r.response) for r in found.rows] == [(r["question"], r["answer"]) for r in ROWS]
    assert len({r.id for r in found.rows}) == len(ROWS)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": "q"}', ["answer", "fields: question"]),
        ('{"question": "q", "answer": ""}', ["answer", "empty"]),
        ('{"question": "q", "answer": "a"', ["invalid JSON"]),
        ('["q", "a"]', ["expected a JSON object"]),
        ('{"question": "q", "answer": {"x": 1}}', ["answer", "dict"]),
        ('{"question": "q", "answer": "bad \\ud800"}', ["answer", "UTF-8"]),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path: Path, line: str, words: list[str]):
    file = tmp_path / "rows.jsonl"
    good = json.dumps({"question": "q", "answer": "a"})
    file.write_text(f"{good}\n{line}\n{good}\n")
    source = SourceConfig(path=str(file), response="answer")
    with pytest.raises(UserError) as caught:
        load_rows(source, name="s", seed=1)
    assert f"{file}:2" in str(caught.value)
    assert "on_bad_row=drop" in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    dropped = load_rows(source, name="s", seed=1, on_bad_row="drop")
    assert len(dropped.rows) == 2
    assert len(dropped.bad) == 1
    assert "1 bad rows dropped" in dropped.summary()


def test_no_usable_row_is_an_error(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    with pytest.raises(UserError, match="no usable row"):
        load_rows(SourceConfig(path=str(file)), name="s", seed=1, on_bad_row="drop")


def test_rows_and_fraction_are_seeded_and_nest(tmp_path: Path):
    path = str(write(tmp_path, "jsonl"))

    def taken(seed: int = 1, **more: object) -> set[str]:
        return {
            r.question for r in load_rows(SourceConfig(path=path, response="answer", **more), name="s", seed=seed).rows
        }

    assert len(taken(rows=4)) == 4
    assert taken(rows=4) < taken(rows=7)
    assert taken(fraction=0.3) < taken(fraction=0.6)
    assert taken(rows=4) == taken(rows=4)
    assert any(taken(rows=4) != taken(seed=s, rows=4) for s in (2, 3, 4))
    with pytest.raises(UserError, match="rows=11, but only 10"):
        taken(rows=11)


def test_local_copies_go_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, "jsonl")
    monkeypatch.setenv("MFT_DATA_DIR", str(tmp_path))
    source = SourceConfig(path="no/such-dataset", local=["absent.jsonl", "rows.jsonl"], response="answer")
    assert len(load_rows(source, name="s", seed=1).rows) == 10
    monkeypatch.setenv("MFT_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="MFT_DATA_DIR"):
        load_rows(source, name="s", seed=1)
    monkeypatch.delenv("MFT_DATA_DIR")
    with pytest.raises(UserError, match=r"no/such-dataset.*MFT_DATA_DIR"):
        load_rows(source, name="s", seed=1)


def test_a_folder_in_the_hubs_layout(tmp_path: Path):
    (tmp_path / "set").mkdir()
    lines = "".join(json.dumps(r) + "\n" for r in ROWS)
    (tmp_path / "set" / "train.jsonl").write_text(lines)
    found = load_rows(SourceConfig(path=str(tmp_path / "set"), response="answer"), name="s", seed=1)
    assert [r.question for r in found.rows] == [r["question"] for r in ROWS]
    with pytest.raises(UserError, match="cannot be loaded"):
        load_rows(SourceConfig(path=str(tmp_path / "set"), split="test", response="answer"), name="s", seed=1)


def test_keep_if_reads_csv_truth(tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text("prompt,critique,answer_match\np,c,True\np,c,False\np,c,true\n")
    source = SourceConfig(path=str(file), question="prompt", response="critique", keep_if={"answer_match": True})
    found = load_rows(source, name="s", seed=1)
    assert (len(found.rows), found.filtered) == (2, 1)


def test_conversations(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    turns = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "u2"}]
    text = "### Human: u### Assistant: a\nb### Human: again### Assistant: c"
    file.write_text(json.dumps({"messages": messages, "conversations": turns, "text": text}) + "\n")

    def read(layout: str, field: str) -> list[dict[str, str]]:
        source = SourceConfig(path=str(file), layout=layout, messages=field)
        return load_rows(source, name="s", seed=1).rows[0].messages

    assert read("messages", "messages") == messages
    assert read("sharegpt", "conversations") == messages[1:]  # the question without an answer is left out
    assert [m["content"] for m in read("text_turns", "text")] == ["u", "a\nb", "again", "c"]
    assert split_turns("no turns") == []
    with pytest.raises(UserError, match="expected a list of turns"):
        read("messages", "text")


def test_response_is_cleaned_and_fields_joined(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"i": "do", "x": "this", "o": {"text": ["48/2=<<48/2=24>>24"]}}) + "\n")
    source = SourceConfig(path=str(file), question="i+x", response="o.text.0", remove="<<[^>]*>>")
    row = load_rows(source, name="s", seed=1).rows[0]
    assert (row.question, row.response) == ("do\n\nthis", "48/2=24")


def test_gsm_symbolic_splits_are_disjoint():
    def read(split: str, seed: int = 0):
        options = {"seed": seed}
        source = SourceConfig(
            path="generated:gsm_symbolic",
            split=split,
            rows=300,
            response="metadata.answer_cot",
            answer="answer",
            options=options,
        )
        return load_rows(source, name="g", seed=1).rows

    train, test, held = read("train"), read("test"), read("heldout")
    questions = [{r.question for r in rows} for rows in (train, test, held)]
    assert all(len(q) == 300 for q in questions)
    assert not questions[0] & questions[1]
    assert not {r.question for r in read("train", seed=5)} & questions[1]
    templates = [{r.meta["template"] for r in rows} for rows in (train, test, held)]
    assert not templates[0] & templates[2]
    assert templates[1] <= templates[0] | {r.meta["template"] for r in read("train", seed=5)}
    for row in train:
        assert row.response.rsplit("####", 1)[1].strip() == row.answer
    assert [r.question for r in read("train")] == [r.question for r in train]
    with pytest.raises(UserError, match="train, test and heldout"):
        read("validation")


@needs_data
def test_real_gsm8k():
    source = SourceConfig(path="openai/gsm8k", local=["gsm8k/train.jsonl"], response="answer", remove="<<[^>]*>>")
    rows = load_rows(source, name="gsm8k", seed=1).rows
    assert len(rows) == 7473
    assert not any("<<" in r.response for r in rows)
    assert all("####" in r.response for r in rows)


@needs_data
@pytest.mark.parametrize(
    "preset",
    ["data=code_alpaca", "experiment=paper_mask_finetune_llama2_code", "experiment=paper_mask_finetune_llama31_code"],
)
def test_real_code_alpaca_loads_by_its_presets(preset: str):
    """Two of its rows have no output: they are left out and counted, not a reason to stop."""
    found: list[TrainConfig] = []
    run_with_hydra("train", [preset], lambda values: found.append(build(TrainConfig, values)))
    rows = load_rows(
        found[0].data.sources["code_alpaca"], name="code_alpaca", seed=1, on_bad_row=found[0].data.on_bad_row
    )
    assert len(rows.rows) > 2000
    assert len(rows.bad) > 0


CRITIQUE = "<think><critique>It is right.</critique><reasoning>So it is.\\n</reasoning></think><ans>\\boxed{7}</ans>"


@pytest.mark.parametrize(
    "column",
    [
        "<critique>It is right.</critique><reasoning>So it is.\\n</reasoning><ans>\\boxed{7}</ans>",
        "<critique>It is right.<reasoning>So it is.\\n<ans>\\boxed{7}",
        CRITIQUE,
    ],
)
def test_a_critique_without_think_is_converted_and_counted(tmp_path: Path, column: str):
    values = yaml.safe_load((CONF / "data" / "critique.yaml").read_text())["sources"]["critique"]
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "q", "critique": column, "answer_match": True}))
    loaded = load_rows(SourceConfig(**{**values, "path": str(file)}), name="s", seed=1)
    assert loaded.rows[0].response == CRITIQUE
    assert ("1 responses changed by rewrite" in loaded.summary()) == (column != CRITIQUE)


def test_a_rewrite_that_is_none_is_told_with_its_key():
    with pytest.raises(
        UserError, match=r"^data\.sources\.s\.rewrite=\(a\): not a regular expression \(invalid group reference 2"
    ):
        check_source("data.sources.s", SourceConfig(path="x", rewrite={"(a)": r"\2"}))
