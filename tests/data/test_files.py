"""Rows from files of every kind, from several files, from an address, and multiple-choice rows in every form."""

import gzip
import http.server
import json
import threading
from pathlib import Path

import pytest

from mft_cli.config.schema.inputs import PromptConfig, SourceConfig, expand
from mft_cli.data.files import BadRow, local_files
from mft_cli.data.multiple_choice import read_choices
from mft_cli.data.prompts import Renderer
from mft_cli.data.sources import load_rows
from mft_cli.errors import UserError

ROWS = [{"question": f"q{i}?", "response": f"r{i}"} for i in range(4)]


def rows_of(source: SourceConfig):
    return load_rows(source, name="s", seed=1)


def questions(source: SourceConfig) -> list[str]:
    return [row.question for row in rows_of(source).rows]


# ---- files ----------------------------------------------------------------------------------------------------------


def test_gzip_and_xml(tmp_path: Path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert questions(SourceConfig(path=str(tmp_path / "rows.jsonl.gz"))) == ["q0?", "q1?", "q2?", "q3?"]
    (tmp_path / "rows.xml").write_text(
        "<?xml version='1.0' encoding='UTF-8'?><file><set>"
        "<item id='7'><body>Two&amp;two </body><ask>How many?</ask><answer>4 (apples)</answer></item>"
        "<item id='8'><body>One</body><ask>And now?</ask><answer/></item></set></file>"
    )
    source = SourceConfig(
        path=str(tmp_path / "rows.xml"),
        question="{body} {ask}",
        response="id",
        answer="answer",
        remove_answer=r"\s+\(.*",
    )
    with pytest.raises(UserError, match="item 1: field 'answer' is empty"):
        rows_of(source)
    source.keep_if = {"answer": "/./"}
    (row,) = rows_of(source).rows
    assert (row.question, row.response, row.answer) == ("Two&two How many?", "7", "4")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.xml", b"<a><b>", "cannot be read as xml"),
        ("rows.jsonl.gz", b"no archive", "cannot be read as jsonl"),
        ("rows.jsonl.gz", gzip.compress(b"x" * 1000, mtime=0)[:20], "cannot be read as jsonl"),
        ("rows.json", b"[{", "invalid JSON"),
        ("rows.json", b'"\xff"', "UTF-8"),
        ("rows.json", b"{}", "expected a JSON list"),
        ("rows.bin", b"", "cannot tell the format"),
    ],
)
def test_broken_files_are_named_in_one_sentence(tmp_path: Path, name: str, content: bytes, says: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        rows_of(SourceConfig(path=str(tmp_path / name)))
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_braces_stand_for_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert expand("a{b, c}d{1,2}") == ["abd1", "abd2", "acd1", "acd2"]
    assert expand("a{b}") == ["a{b}"]
    for part in ("x", "y"):
        (tmp_path / f"{part}.json").write_text(
            json.dumps([{**row, "question": part + row["question"]} for row in ROWS])
        )
    found = rows_of(SourceConfig(path=str(tmp_path / "{y,x}.json")))
    assert [row.question for row in found.rows] == [f"{part}q{i}?" for part in "yx" for i in range(4)]
    assert len({row.id for row in found.rows}) == 8
    assert found.location == f"{tmp_path}/y.json + {tmp_path}/x.json"
    assert found.digest != rows_of(SourceConfig(path=str(tmp_path / "{x,y}.json"))).digest
    with pytest.raises(UserError, match=r"z\.json: no such file"):
        rows_of(SourceConfig(path=str(tmp_path / "{x,z}.json")))
    monkeypatch.setenv("MFT_DATA_DIR", str(tmp_path))
    assert local_files(SourceConfig(path="some/hub-set", local=["{x,z}.json", "{x,y}.json"])) == [
        tmp_path / "x.json", tmp_path / "y.json"
    ]  # fmt: skip


def test_an_address_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        source = SourceConfig(path=f"{address}/rows.json", local=["mine/rows.json"])
        with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set.*mine/rows.json"):  # the tests set it
            rows_of(source)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        with pytest.raises(UserError, match=r"cannot be downloaded .*404"):
            rows_of(SourceConfig(path=f"{address}/none.json"))
        first = rows_of(source)
        server.shutdown()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = rows_of(source)
    assert [row.question for row in again.rows] == ["q0?", "q1?", "q2?", "q3?"]
    assert again.digest == first.digest
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rows.json").write_text(json.dumps(ROWS[:1]))
    monkeypatch.setenv("MFT_DATA_DIR", str(tmp_path))
    assert questions(source) == ["q0?"]  # a copy of one's own goes first


# ---- fields ---------------------------------------------------------------------------------------------------------


def test_fields_alternatives_templates_and_tables(tmp_path: Path):
    table = [["", "2016", "2015"], ["revenue", 5, 4.5]]
    row = {
        "a": {"b": "x"},
        "text": ["one", "two"],
        "table": table,
        "n": None,
        "odd|name": "literal",
        "r": "r",
        "ask": "Why? Say so.",
    }
    (tmp_path / "rows.json").write_text(json.dumps([row]))

    def question(path: str, **more) -> str:
        return questions(SourceConfig(path=str(tmp_path / "rows.json"), question=path, response="r", **more))[0]

    assert question("nothing|a.b|r") == "x"
    assert question("odd|name") == "literal"
    assert question("n+a.b") == "x"
    assert question("{text}\n\n{table}\n{a.b}: {n}?") == "one\ntwo\n\n | 2016 | 2015\nrevenue | 5 | 4.5\nx: ?"
    assert question("ask", remove_question=r"\s*Say so\.$") == "Why?"
    with pytest.raises(UserError, match=r"no field 'z.1'; fields: a, text, table"):
        question("{z.1}")
    with pytest.raises(UserError, match="is list, expected text"):
        question("text")


def test_unique_and_patterns_leave_rows_out_and_count_them(tmp_path: Path):
    rows = [
        {"question": f"q{i}", "response": "r", "base": i // 3, "value": v}
        for i, v in enumerate(["1", "2%", "x", "4", "y", "6"])
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = rows_of(SourceConfig(path=str(tmp_path / "rows.json"), unique="base", keep_if={"value": r"/^\d+%?$/"}))
    assert [row.question for row in found.rows] == ["q0", "q3"]
    assert "2 left out by keep_if" in found.summary()
    assert "2 repetitions left out by unique" in found.summary()


def test_a_benchmark_may_have_no_response(tmp_path: Path):
    (tmp_path / "rows.json").write_text(json.dumps([{"question": "q"}]))
    assert rows_of(SourceConfig(path=str(tmp_path / "rows.json"), response=None)).rows[0].response == ""


# ---- multiple choice ------------------------------------------------------------------------------------------------

TEXTS = ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ([TEXTS], "B"),
        ([TEXTS], 1),
        ([TEXTS], "green"),
        (TEXTS, "green"),
        ([{"text": TEXTS, "label": ["A", "B", "C"]}], "B"),
        ([{"text": TEXTS, "label": ["1", "2", "3"]}], "2"),
        ([{"text": TEXTS, "label": ["1", "2", "3"]}], 2),  # a label of the file goes before a place
        ([{"A": "red", "B": "green", "C": "blue"}], "B"),
        ([[{"label": c, "text": t} for c, t in zip("ABC", TEXTS, strict=True)]], "B"),
    ],
)
def test_options_in_every_form(given, answer):
    assert read_choices(given, answer, None, "q", "file:1") == (dict(zip("ABC", TEXTS, strict=True)), "B")


@pytest.mark.parametrize(
    ("given", "answer", "says"),
    [
        ([TEXTS], "D", "none of the options"),
        ([TEXTS], 3, "none of the options"),
        ([["a", "b", "b"]], "b", "or several of them"),
        ([["only"]], 0, "expected 2 to 26 options"),
        ([["a", " "]], 0, "expected 2 to 26 options"),
        (["text"], 0, "expected a list of texts"),
    ],
)
def test_bad_options_are_bad_rows(given, answer, says):
    with pytest.raises(BadRow, match=f"file:1: .*{says}"):
        read_choices(given, answer, None, "q", "file:1")


def test_options_are_shuffled_by_a_seeded_draw_whatever_their_order():
    places = dict.fromkeys("ABC", 0)
    for i in range(300):
        shown, right = read_choices([TEXTS], "green", 0, f"q{i}", "x")
        assert sorted(shown.values()) == sorted(TEXTS)
        assert shown[right] == "green"
        assert read_choices([TEXTS[::-1]], "green", 0, f"q{i}", "x") == (shown, right)
        places[right] += 1
    assert all(70 < count < 130 for count in places.values())  # 100 each, standard deviation 8
    draws = [read_choices([TEXTS], "green", seed, "q", "x")[0] for seed in range(8)]
    assert len({tuple(d.values()) for d in draws}) > 2


def test_options_are_rendered_by_the_one_renderer(tokenizer, tmp_path: Path):
    row = {"question": "Which {choices}?", "options": ["one", "two"], "right": 1, "why": "Because."}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    source = SourceConfig(path=str(tmp_path / "rows.json"), response="why", answer="right", choices=["options"])
    (row,) = rows_of(source).rows
    assert (row.choices, row.answer) == ({"A": "one", "B": "two"}, "B")
    plain = PromptConfig(name="p", kind="template", template="Q: {question}\nA:")
    own = PromptConfig(name="p", kind="template", template="{question}|{choices}|", option="({letter}) {text}")
    assert Renderer(tokenizer, plain).prompt_text(row.question, None, row.choices, "Pick.") == (
        "Q: Which {choices}?\nA. one\nB. two\n\nPick.\nA:"
    )
    assert Renderer(tokenizer, own).prompt_text(row.question, None, row.choices) == "Which {choices}?|(A) one\n(B) two|"
    renderer = Renderer(tokenizer, plain)
    trained = renderer.encode(
        renderer.segments(row.question, row.response, row.answer, row.system, row.choices)[0].text
    )
    assert trained == renderer.prompt_ids(row.question, row.system, row.choices)
    with pytest.raises(ValueError, match="control token"):
        renderer.prompt_ids("q", None, {"A": "x", "B": "<|im_end|>"})
