"""Every benchmark: it composes, its real file has the published rows with gold answers, and suites are the papers'."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mft_cli.answers.numbers import parse_number
from mft_cli.config import compose as config
from mft_cli.config import load, validate
from mft_cli.config.checks_eval import check_benchmarks
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import PromptConfig, SourceConfig
from mft_cli.data.prompts import Renderer
from mft_cli.errors import UserError
from mft_cli.eval.grading.graders import GRADERS, gold_parts
from mft_cli.eval.listing import listing
from mft_cli.eval.plan import Subject, pick_prompt, render
from mft_cli.eval.problems import half_a_digit, last_boxed, load_problems
from mft_cli.eval.score import score_file
from mft_cli.models.folder import ModelFolder
from tests.support.tiny import ROOT, data_dir, mft, needs_data, problems

LISTED, SUITES, BROKEN = listing()
NAMES = [row["benchmark"] for row in LISTED]
# Rows of the files under MFT_DATA_DIR; a benchmark whose file is not there is skipped aloud.
REAL = {
    "gsm8k": 1319, "math500": 500, "math5000": 5000, "amc23": 40, "amc23_avg16": 40, "aime24": 30, "aime24_avg16": 30,
    "aime25": 30, "aime25_avg16": 30, "olympiadbench": 675, "svamp": 1000, "asdiv": 2305, "multiarith": 600,
    "humaneval": 164, "humaneval_plus": 164, "ifeval": 541, "alpaca_eval_1": 805,
}  # fmt: skip


def benchmark(name: str) -> BenchmarkConfig:
    return load.compose_eval([name]).eval.benchmarks[name]


# ---- the YAML files -------------------------------------------------------------------------------------------------


def test_every_file_composes_and_is_a_benchmark_or_a_suite():
    assert not BROKEN
    files = {file.stem for file in (config.CONF / "eval").glob("*.yaml")} - {"none"}
    assert files == set(NAMES) | set(SUITES)
    assert all(set(members) <= set(NAMES) for members in SUITES.values())
    asked = set(SUITES)
    assert {"math", "code", "instructions"} | {
        f"paper_{p}" for p in ("masked_thought", "masked_critique", "mask_finetune")
    } <= asked


def test_perplexity_is_of_texts_that_are_named():
    (row,) = [row for row in LISTED if row["benchmark"] == "perplexity"]
    assert (row["here"], row["source"], row["problems"]) == ("yours", "", None)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "perplexity"])
def test_a_benchmark_says_where_it_comes_from(name: str):
    one = benchmark(name)
    assert one.problems or name in ("finqa_arithmetic", "gsm_ic_clean"), "the published number of problems"
    assert one.source.derived_from, "the contamination guard needs the benchmark's tag"
    check_benchmarks(EvalConfig(benchmarks={name: one}))
    assert "arXiv" in (text := (config.CONF / "eval" / f"{name}.yaml").read_text()) or len(text.splitlines()[1]) > 40


def test_an_unknown_answer_type_is_told():
    one = {"source": {"path": "x"}, "answer_type": "numbr"}
    with pytest.raises(UserError, match=r"answer_type=.numbr.: expected one of number, math, .*did you mean number"):
        validate.build(BenchmarkConfig, one)


# ---- real files -----------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(("name", "rows"), REAL.items())
def test_real_file(name: str, rows: int):
    one = benchmark(name)
    if not any((data_dir() / file).is_file() for file in one.source.local):
        pytest.skip(f"none of {one.source.local} is under MFT_DATA_DIR: {name} is NOT TESTED on its real file")
    found, where = load_problems(name, one, 0)
    assert len(found) == rows
    assert "WARNING" not in where
    assert len({problem.id for problem in found}) == rows
    for problem in found:
        assert problem.row.question.strip()
        assert readable(one, problem.gold), (problem.row.key, problem.gold)
    if name.startswith("aime25"):
        assert not any("reason step by step" in problem.row.question for problem in found)


def readable(one: BenchmarkConfig, gold: str) -> bool:
    """Whether a gold is what graders.py says of its answer type."""
    if one.answer_type in ("code", "instructions", "judged"):
        parts = json.loads(gold)
        lists = [parts["instruction_id_list"], parts["kwargs"]] if one.answer_type == "instructions" else []
        return list(parts) == one.gold_fields and (not lists or len(lists[0]) == len(lists[1]) > 0)
    answer = gold_parts(gold)["answer"]
    if one.answer_type == "number":
        return parse_number(answer) is not None
    return bool(answer.strip()) and answer.count("{") == answer.count("}") and "boxed" not in answer


@needs_data
def test_olympiadbench_keeps_unit_tolerance_and_several_answers():
    found, _ = load_problems("olympiadbench", benchmark("olympiadbench"), 0)
    parts = [gold_parts(problem.gold) for problem in found]
    assert all(part.keys() == {"answer", "unit", "tolerance", "multiple"} for part in parts)
    assert sum(part["multiple"] for part in parts) == 94
    assert sum(part["unit"] is not None for part in parts) == 8
    assert [part for part in parts if part["tolerance"] is not None] == [
        {"answer": "4.2", "unit": "%", "tolerance": 0.1, "multiple": False}
    ]


@needs_data
def test_two_files_of_the_same_problems_have_the_same_gold():
    small, _ = load_problems("math500", benchmark("math500"), 0)
    large, _ = load_problems("math5000", benchmark("math5000"), 0)
    golds = {problem.row.question.strip(): problem.gold for problem in large}
    # the last box is the answer field
    assert all(golds[problem.row.question.strip()] == problem.gold for problem in small)


def test_a_published_number_that_is_not_there_is_told(tmp_path: Path):
    (tmp_path / "rows.json").write_text(json.dumps(problems(3)))
    one = BenchmarkConfig(source=SourceConfig(path=str(tmp_path / "rows.json"), response="answer"), gold_marker="####")
    assert "WARNING" not in load_problems("own", one, 0)[1]
    one.problems = 4
    assert "own was published with 4 problems, here are 3" in load_problems("own", one, 0)[1]


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{x \in \{1,2\}}", r"x \in \{1,2\}"),
        (r"thus $\boxed 2$.", "2"),
        (r"\boxed{never closed", None),
        ("none", None),
    ],
)
def test_last_boxed(text: str, boxed: str | None):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(("gold", "half"), [("93.5%", 0.05), ("380", 0.5), ("$ 1,234.25", 0.005), ("-0.4", 0.05)])
def test_half_a_unit_of_the_last_decimal(gold: str, half: float):
    assert half_a_digit(gold) == pytest.approx(half)


# ---- files that this test writes, in the published form ----------------------------------------------------------------


def write(folder: Path, name: str, rows: list, as_json: bool = False) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if as_json else "".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up rows of the benchmarks whose data cannot be had here, in the form of their files."""
    for task, ask, answer in (
        ("boolean_expressions", "not ( True ) and ( True ) is", "False"),
        ("formal_fallacies", "Is the argument, given the explicitly stated premises, deductively valid or invalid?", "invalid"),
        ("web_of_lies", "Ann lies. Bob says Ann tells the truth. Does Bob tell the truth?", "No"),
    ):  # fmt: skip
        write(tmp_path, f"bbh/{task}.jsonl", [{"input": ask, "target": answer}])
    hub = {
        "question": "Where is snow?",
        "choices": {"label": list("ABCDE"), "text": ["desert", "alps", "oven", "sun", "lava"]},
        "answerKey": "B",
    }
    listed = [{"label": str(i), "text": t} for i, t in enumerate(["lead", "gold", "wood", "iron", "tin"], 1)]
    own = {"question": {"stem": "What floats?", "choices": listed}, "answerKey": "3"}
    write(tmp_path, "commonsense_qa/validation.jsonl", [hub])
    write(tmp_path, "arc/ARC-Challenge-Test.jsonl", [own])
    (tmp_path / "gpqa").mkdir()
    header = "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,Explanation\n"
    (tmp_path / "gpqa" / "gpqa_diamond.csv").write_text(
        header + '"Why, then?",right,"wrong, 1",wrong 2,wrong 3,So it is.\n'
    )
    table = [["", "2016", "2015"], ["revenue", "$ 5", "$ 4"]]
    asked = {"what was the change?": "25%", "did it rise?": "", "which?": "revenue", "how much?": "1,000.5"}
    page = {"pre_text": ["before ."], "post_text": ["after ."], "table": table}
    rows = [{**page, "qa": {"question": q, "answer": a}} for q, a in {**asked, "sum?": "1.2 million"}.items()]
    write(tmp_path, "finqa/test.json", rows, as_json=True)
    monkeypatch.setenv("MFT_DATA_DIR", str(tmp_path))
    return tmp_path


def prompts(name: str, tokenizer) -> list[tuple[str, str]]:
    """(rendered prompt, gold) of every problem, in a prompt without any text of its own."""
    one = benchmark(name)
    renderer = Renderer(tokenizer, PromptConfig(name="bare", kind="template"))
    found, _ = load_problems(name, one, 0)
    subject = Subject(ModelFolder(Path(), "", "", (), None, {}, None, Path()), tokenizer, {})
    return [(tokenizer.decode(render(renderer, problem, one, subject)[0]), problem.gold) for problem in found]


def test_logic_commonsense_and_science_without_code(written: Path, tokenizer):
    logic = prompts("bbh_logic", tokenizer)
    assert [gold for _, gold in logic] == ["False", "invalid", "No"]
    assert logic[0][0].startswith("not ( True ) and ( True ) is\n\nThink step by step.")
    ((asked, gold),) = prompts("commonsense_qa", tokenizer)
    assert asked.startswith(
        "Where is snow?\nA. desert\nB. alps\nC. oven\nD. sun\nE. lava\n\nThink step by step. End with"
    )
    assert json.loads(gold) == {
        "answer": "B",
        "choices": {"A": "desert", "B": "alps", "C": "oven", "D": "sun", "E": "lava"},
    }
    ((asked, gold),) = prompts("arc_challenge", tokenizer)
    assert asked.startswith("What floats?\nA. lead\nB. gold\nC. wood\n")  # labels 1 to 5 in the file
    assert gold_parts(gold)["answer"] == "C"


def test_gpqa_options_are_shuffled(written: Path, tokenizer):
    ((asked, gold),) = prompts("gpqa_diamond", tokenizer)
    parts = gold_parts(gold)
    assert parts["choices"][parts["answer"]] == "right"
    assert sorted(parts["choices"].values()) == ["right", "wrong 2", "wrong 3", "wrong, 1"]
    assert f"{parts['answer']}. right\n" in asked
    letters = set()
    for seed in range(12):
        one = benchmark("gpqa_diamond")
        one.source.choices_seed = seed
        letters.add(gold_parts(load_problems("gpqa_diamond", one, 0)[0][0].gold)["answer"])
    assert len(letters) == 4


def test_financial_arithmetic_takes_the_numbers(written: Path, tokenizer):
    found = prompts("finqa_arithmetic", tokenizer)
    assert [gold_parts(gold) for _, gold in found] == [
        {"answer": "25%", "tolerance": 0.5},
        {"answer": "1,000.5", "tolerance": 0.05},
    ]
    assert found[0][0].startswith(
        "before .\n\n | 2016 | 2015\nrevenue | $ 5 | $ 4\n\nafter .\n\nwhat was the change?\n\nThink"
    )
    assert "3 left out by keep_if" in load_problems("finqa_arithmetic", benchmark("finqa_arithmetic"), 0)[1]
    exact = benchmark("finqa_arithmetic")
    exact.round_to_gold = False
    assert [p.gold for p in load_problems("finqa_arithmetic", exact, 0)[0]] == ["25%", "1,000.5"]


@pytest.mark.parametrize("name", ["bbh_logic", "commonsense_qa", "arc_challenge", "gpqa_diamond", "finqa_arithmetic"])
def test_gold_answers_are_right_and_others_wrong(name: str, written: Path, tmp_path: Path):
    one = benchmark(name)
    if one.answer_type not in GRADERS:
        pytest.skip(f"no grader of answer_type {one.answer_type} is in this version: {name} is NOT graded here")
    found, _ = load_problems(name, one, 0)
    for said, accuracy in ((lambda a: f"Hence. The answer is {a}.", 1.0), (lambda a: "The answer is (Q).", 0.0)):
        lines = [{"id": p.id, "sample": 0, "completion": said(gold_parts(p.gold)["answer"])} for p in found]
        write(tmp_path, "g.jsonl", lines)
        assert score_file(tmp_path / "g.jsonl", name, one, tmp_path / "out")["accuracy"] == accuracy


# ---- eval= ----------------------------------------------------------------------------------------------------------


def test_a_name_a_list_a_suite_and_suites_that_overlap():
    def names(*asked: str) -> list[str]:
        return list(load.compose_eval(list(asked)).eval.benchmarks)

    assert names("svamp") == ["svamp"]
    assert names("svamp", "gsm8k") == ["svamp", "gsm8k"]
    assert names("math") == SUITES["math"]
    assert names("code", "humaneval", "reasoning") == [*SUITES["code"], *SUITES["reasoning"]]
    assert names("amc23", "amc23_avg16") == ["amc23", "amc23_avg16"]


def test_avg_at_16_is_the_greedy_benchmark_with_samples():
    for name in ("amc23", "aime24", "aime25"):
        greedy, sampled = benchmark(name), benchmark(f"{name}_avg16")
        assert (greedy.samples, greedy.temperature) == (1, 0.0)
        assert (sampled.samples, sampled.temperature, sampled.top_p) == (16, 0.6, 0.95)
        assert sampled.source == greedy.source
        assert sampled.instruction == greedy.instruction


def test_paper_suites_fix_prompt_shots_and_decoding(tokenizer):
    thought, critique, finetune = (
        load.compose_eval([f"paper_{p}"]).eval.benchmarks
        for p in ("masked_thought", "masked_critique", "mask_finetune")
    )
    own = EvalConfig(prompt=PromptConfig(name="other", kind="template"))
    for name, one in thought.items():
        prompt = pick_prompt(one, own, {"prompt": {"name": "trained"}}, tokenizer)  # a preset goes before both
        assert (prompt.name, one.max_new_tokens, one.temperature, one.instruction) == ("alpaca", 512, 0.0, None), name
    assert list(thought) == ["gsm8k", "gsm_ic_clean", "gsm_ic"]
    assert {one.prompt.kind for one in critique.values()} == {"chat"}
    assert {one.max_new_tokens for one in critique.values()} == {16384}
    assert all(one.samples == 1 and one.instruction for one in critique.values())
    assert len(finetune["gsm8k"].prompt.shots) == 8
    assert len(finetune["math5000"].prompt.shots) == 4
    assert finetune["ifeval"].limit == 100
    assert {n: one.instruction for n, one in finetune.items()} == dict.fromkeys(finetune)
    assert {one.temperature for one in finetune.values()} == {0.0}


def test_shots_end_in_answers_that_are_read_and_right():
    from mft_cli.answers.find import extract

    for name in ("gsm8k", "math5000"):
        prompt = load.compose_eval(["paper_mask_finetune"]).eval.benchmarks[name].prompt
        for shot in prompt.shots:
            gold = shot.response.rpartition("####")[2].strip() if name == "gsm8k" else last_boxed(shot.response)
            assert gold
            if parse_number(gold) is not None:
                assert parse_number(extract(shot.response)).value == parse_number(gold).value
            assert not any(stop in shot.response for stop in prompt.stop)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("gsm9k", ["eval=gsm9k", "no such benchmark or suite", "gsm8k", "mft eval list"]),
        ("[gsm8k,aime26]", ["eval=aime26", "aime2"]),
        ("paper_masked_thoughts", ["paper_masked_thought"]),
        ("zzzz", ["eval=zzzz", "mft eval list"]),
    ],
)
def test_an_unknown_name_is_one_sentence(asked: str, words: list[str], tmp_path: Path):
    done = mft("eval", "model.path=x", f"eval={asked}", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(word in done.stderr for word in words), done.stderr


# ---- a user's own benchmark -------------------------------------------------------------------------------------------


OWN = """# @package eval.benchmarks.capitals
# Capitals, my own.
problems: 2
source: {path: capitals.jsonl, question: ask, response: null, answer: number}
max_new_tokens: 4
instruction: Answer with a number.
"""


def test_a_users_yaml_is_a_benchmark_without_code(tmp_path: Path, tiny_model: Path):
    write(tmp_path, "capitals.jsonl", [{"ask": "Seats?", "number": 4}, {"ask": "Doors?", "number": 2}])
    (tmp_path / "mine" / "eval").mkdir(parents=True)
    (tmp_path / "mine" / "eval" / "capitals.yaml").write_text(OWN)
    (tmp_path / "mine" / "eval" / "both.yaml").write_text("# @package eval.benchmarks\ndefaults: [capitals, svamp]\n")
    listed = mft("eval", "list", "--config-dir", "mine", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[:3] for line in listed.stdout.splitlines() if line.startswith("capitals")] == [
        ["capitals", "2", "local"]
    ]
    assert any(line.split() == ["both", "capitals", "svamp"] for line in listed.stdout.splitlines())
    asked = ["eval", "--config-dir", "mine", f"model.path={tiny_model}", "eval.engine=hf", "run_dir=out"]
    misspelt = mft(*asked, "eval=capitols", cwd=tmp_path)
    assert misspelt.returncode == 2
    assert "did you mean capitals" in misspelt.stderr
    done = mft(*asked, "eval=capitals", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "eval" / "capitals" / "metrics.json").read_text())
    assert (metrics["n"], metrics["gold_logprob"]) == (2, None)
    first = json.loads((tmp_path / "out" / "eval" / "capitals" / "generations.jsonl").read_text().splitlines()[0])
    assert "Seats?\n\nAnswer with a number.<|im_end|>" in first["prompt"]
    assert not [w for w in metrics["warnings"] if "gold solutions" in w]


def test_a_yaml_without_its_package_line_is_told(tmp_path: Path):
    (tmp_path / "mine" / "eval").mkdir(parents=True)
    (tmp_path / "mine" / "eval" / "own.yaml").write_text("source: {path: generated:gsm_symbolic}\n")
    done = mft("eval", "--config-dir", "mine", "model.path=x", "eval=own", cwd=tmp_path)
    assert done.returncode == 2
    assert "# @package eval.benchmarks.<name>" in done.stderr


# ---- mft eval list ----------------------------------------------------------------------------------------------------


def test_list_is_quick_whole_and_without_torch(tmp_path: Path):
    code = (
        "import sys; sys.argv = ['mft', 'eval', 'list', 'json=true']\n"
        "from mft_cli.cli.main import main\n"
        "try: main()\nexcept SystemExit as e: assert e.code == 0, e.code\n"
        "assert not {'torch', 'datasets', 'transformers'} & set(sys.modules)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert time.monotonic() - start < 10  # 1 s on an idle machine; the bound is for a loaded one
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["benchmark"] for row in found["benchmarks"]] == NAMES
    assert found["suites"] == SUITES
    assert not found["problems"]


def test_list_says_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MFT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))

    def here() -> dict[str, str]:
        return {row["benchmark"]: row["here"] for row in listing()[0]}

    before = here()
    assert [before[n] for n in ("gsm8k", "svamp", "gsm_symbolic", "gsm_ic")] == ["hub", "web", "generated", "web"]
    write(tmp_path, "svamp/SVAMP.json", [], as_json=True)
    (tmp_path / "hf" / "openai___gsm8k" / "main" / "0.0.0").mkdir(parents=True)
    (tmp_path / "hf" / "HuggingFaceH4___math-500" / "default" / "0.0.0").mkdir(parents=True)
    from mft_cli.data.files import download_place

    for part in ("2step", "mstep"):
        place = download_place(
            f"https://raw.githubusercontent.com/google-research-datasets/GSM-IC/main/GSM-IC_{part}.json"
        )
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("[]")
    after = here()
    assert [after[n] for n in ("gsm8k", "svamp", "math500", "gsm_ic", "gsm_ic_2step")] == [
        "hub cache",
        "local",
        "hub cache",
        "downloaded",
        "downloaded",
    ]
    assert after["aime24"] == "hub"


def test_one_limit_for_all_benchmarks(tmp_path):
    """Of a smaller benchmark all, of a larger one the draw that its own limit makes, which goes first."""
    rows = [json.dumps({"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"}) for i in range(6)]
    (tmp_path / "sums.jsonl").write_text("\n".join(rows))
    source = SourceConfig(path=str(tmp_path / "sums.jsonl"), response="answer")
    one = BenchmarkConfig(source=source, gold_marker="####")
    own = dataclasses.replace(one, limit=4)
    four = [p.id for p in load_problems("sums", own, 0)[0]]
    assert [p.id for p in load_problems("sums", one, 0, 4)[0]] == four
    assert [p.id for p in load_problems("sums", own, 0, 2)[0]] == four
    assert len(load_problems("sums", one, 0, 100)[0]) == 6
