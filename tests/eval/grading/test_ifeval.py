"""Each verifiable instruction with a text that follows it and one that does not, and the whole benchmark's arguments."""

from __future__ import annotations

import importlib.util
import json

import pytest

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.errors import UserError
from mft_cli.eval.grading.ifeval import CHECKS, follows, sentences
from mft_cli.eval.grading.instructions import grade_instructions, instruction_metrics, loose_variants
from tests.support.tiny import data_dir, needs_data

HAS_LANGDETECT = importlib.util.find_spec("langdetect") is not None
NEEDS_LANGUAGE = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")
needs_langdetect = pytest.mark.skipif(
    not HAS_LANGDETECT, reason="NOT TESTED: langdetect is not installed (pip install langdetect==1.0.9)"
)
ENGLISH = "the quick brown fox jumps over the lazy dog and then it sleeps in the warm sun for an hour"
# (instruction, arguments, texts that follow it, texts that do not)
CASES = [
    ("keywords:existence", {"keywords": ["sun", "Rain"]}, ["Rain, then SUN", "sunrain"], ["Sun only", "r a i n sun"]),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "at least"}, ["War and war"], ["A war"]),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "less than"}, ["A war"], ["war, warm"]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock", "c++"]}, ["Rocks and rocky"], ["We will Rock.", "in C++."]),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "at least"}, ["Q, q"], ["quick"]),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, ["no"], ["# yes"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***\na\n***\nb\n***"], ["a", "a***  ***b"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["one two three"], ["one two."]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["one two"], ["one two three"]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, ["One. Two."], ["One, Mr. Two."]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, ["Only one"], ["One! Two?"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Elm"},
        ["First.\n\nelm, and", 'First.\n\n"Elm" trees'],
        ["First.\n\nOak", "Elm.", "a\n\nelm\n\nc"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Bye.\nP.P.S More", "p. p. s. x"], ["P.S. More"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye.\nP.S. More"], ["Bye. PS More"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] at [address]"], ["[name] (x)"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n* b", "x\n - a\n- b"], ["* a", "* a\n* b\n* c"]),
    ("detectable_format:title", {}, ["<<A title>>\ntext"], ["<< >>", "<title>", "<<a\nb>>"]),
    ("detectable_format:constrained_response", {}, ["So: My answer is no."], ["My answer is perhaps.", "no"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and *b c*", "**a** x *b*"], ["*a*", "* *  *x*"]),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb"],
        ["Section 1", "section 1 section 2", "Section A Section B"],
    ),
    ("detectable_format:json_format", {}, ['{"a": [1]}', '```json\n{"a": 1}\n```', "```\n[1]\n```"], ["Here: {}", "{'a': 1}"]),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, "DER HUND UND DIE KATZE SIND IM HAUS"]),
    ("change_case:english_lowercase", {}, [ENGLISH], [ENGLISH.title(), "der hund und die katze sind im haus geblieben"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, ["NASA and ESA"], ["NASA's Esa"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, ["WELL-KNOWN"], ["I AM"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, ["say hi. Hi!"], ["Sure. Say hi. Hi!"]),
    ("combination:two_responses", {}, ["one\n******\ntwo"], ["one", "one******one", "a******b******c"]),
    ("startend:end_checker", {"end_phrase": "Peace!"}, ["Bye. peace!", 'So: "Peace!"'], ["Peace! Bye", "Peace"]),
    ("startend:quotation", {}, ['"all of it"', '  "x"\n'], ['"', "'x'", '"x" y']),
    ("punctuation:no_comma", {}, ["none; here."], ["one, two"]),
    ("language:response_language", {"language": "de"}, ["Der Hund und die Katze sind heute im Haus geblieben."], [ENGLISH]),
    ("language:response_language", {"language": "hi"}, ["यह एक बहुत अच्छा दिन है और हम खुश हैं।"], [ENGLISH]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_each_instruction(name, arguments, right, wrong):
    if name in NEEDS_LANGUAGE and not HAS_LANGDETECT:
        pytest.skip("NOT TESTED: langdetect is not installed (pip install langdetect==1.0.9)")
    assert [t for t in right if not follows(name, arguments, t)] == []
    assert [t for t in wrong if follows(name, arguments, t)] == []


def test_every_instruction_has_a_case():
    assert {case[0] for case in CASES} == set(CHECKS)
    assert len(CHECKS) == 25


def test_an_empty_text_follows_nothing():
    for name, arguments, *_ in CASES:
        assert not follows(name, arguments, " \n")


def test_absent_arguments_may_be_null():
    assert follows("punctuation:no_comma", {"num_words": None, "language": None}, "fine")


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("keywords:rhyme", {}, "keywords:rhyme.*is not known"),
        ("keywords:frequency", {"word": "x"}, "arguments.*do not fit"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "around"}, "'around' is not known"),
    ],
)
def test_what_is_not_understood_is_said(name, arguments, match):
    with pytest.raises(UserError, match=match):
        follows(name, arguments, "text")


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("One. Two! Three? Four", 4), ("Dr. J. Smith went at 5 p.m. to the U.S. embassy.", 1), ("1. Go.\n2. Stop.", 2),
        ('He said "Go." Then he left.', 2), ("It costs 3.50 dollars... or more.", 1), ("Really?! Yes.", 2), ("", 0),
        ("这是一句。还有一句！", 2), ("It was I. You knew.", 2), ("a list:\n* one\n* two", 1), ("Visit a.b.com today.", 1),
    ],
)  # fmt: skip
def test_sentences(text, n):
    assert sentences(text) == n


def gold(**instructions) -> str:
    return json.dumps({"instruction_id_list": list(instructions), "kwargs": list(instructions.values()), "prompt": "?"})


def test_strict_and_loose_at_both_levels():
    two = gold(**{"punctuation:no_comma": {}, "startend:end_checker": {"end_phrase": "Bye"}})
    one = gold(**{"detectable_format:json_format": {}})
    texts = {("a", two): "Well, then\nno more\nBye", ("b", one): "{}", ("c", two): "x, y"}
    records = [{"id": id, "sample": 0, "gold": g, "completion": text} for (id, g), text in texts.items()]
    scores = grade_instructions(records, BenchmarkConfig(), EvalConfig())
    assert [s["correct"] for s in scores] == [False, True, False]
    assert [s["strict"] for s in scores] == [[False, True], [True], [False, False]]
    assert [s["loose"] for s in scores] == [[True, True], [True], [False, False]]  # "Well, then" is an opening line
    found = instruction_metrics(scores)["instruction_following"]
    values = {name: found[name]["value"] for name in found if name != "by_instruction"}
    assert values == {
        "prompt_strict": pytest.approx(1 / 3), "instruction_strict": pytest.approx(2 / 5),
        "prompt_loose": pytest.approx(2 / 3), "instruction_loose": pytest.approx(3 / 5),
    }  # fmt: skip
    assert found["instruction_strict"]["n"] == 5
    assert found["by_instruction"]["punctuation:no_comma"] == {"n": 2, "strict": 0, "loose": 1}
    low, high = found["instruction_loose"]["interval"]
    assert 0 <= low < 0.6 < high <= 1
    assert "prompt" not in json.dumps(scores)


def test_loose_variants():
    assert loose_variants("a\n*b*\nc") == ["a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]


def test_a_gold_without_its_fields_is_an_error():
    with pytest.raises(UserError, match=r"problem x.*gold_fields"):
        grade_instructions([{"id": "x", "completion": "a", "gold": "42"}], BenchmarkConfig(), EvalConfig())


@needs_data
def test_all_arguments_of_the_benchmark_are_understood():
    rows = [json.loads(line) for line in (data_dir() / "ifeval" / "input_data.jsonl").read_text().splitlines()]
    assert (len(rows), sum(len(r["instruction_id_list"]) for r in rows)) == (541, 834)
    assert {i for r in rows for i in r["instruction_id_list"]} == set(CHECKS)
    verdicts = set()
    for row in rows:
        for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if HAS_LANGDETECT or name not in NEEDS_LANGUAGE:
                verdicts.add((name, follows(name, arguments, row["prompt"])))
    assert len({name for name, _ in verdicts}) == (25 if HAS_LANGDETECT else 22)


@needs_data
def test_repeating_every_prompt_follows_just_that_instruction():
    rows = [json.loads(line) for line in (data_dir() / "ifeval" / "input_data.jsonl").read_text().splitlines()]
    seen = 0
    for row in rows:
        for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if name == "combination:repeat_prompt":
                seen += 1
                assert follows(name, arguments, arguments["prompt_to_repeat"].upper() + " Then the answer.")
                assert not follows(name, arguments, "Sure! " + arguments["prompt_to_repeat"])
    assert seen == 41


@needs_langdetect
def test_language_is_the_same_every_time():
    from mft_cli.eval.grading.language import is_language

    texts = ["Okay no", "Si, ciao", "12", "bonjour", "Hola amigo mio"]
    codes = ["en", "it", "fr", "es", "sw"]
    first = [[is_language(t, c) for c in codes] for t in texts]
    assert all([[is_language(t, c) for c in codes] for t in texts] == first for _ in range(5))


@pytest.mark.skipif(HAS_LANGDETECT, reason="langdetect is installed here")
def test_without_langdetect_the_user_hears_what_to_install():
    with pytest.raises(UserError, match="pip install langdetect"):
        follows("language:response_language", {"language": "de"}, "Guten Tag")


def test_a_sentence_may_begin_with_a_small_letter() -> None:
    assert sentences("it works. it is fine. we go. they stay! do you see?") == 5
    assert sentences('"Stop!" she said. then she left... and came back. e.g. this one.') == 3


def test_thoughts_are_not_judged() -> None:
    gold = json.dumps({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], "prompt": "x"})
    texts = ["<think>a, b</think>No commas here.", "<think>a, b", "fine</think>\n\nbut, no"]
    records = [{"id": str(i), "sample": 0, "completion": t, "gold": gold} for i, t in enumerate(texts)]
    scores = grade_instructions(records, BenchmarkConfig(), EvalConfig())
    assert [(s["correct"], s["status"]) for s in scores] == [(True, "ok"), (False, "unparsed"), (False, "ok")]
