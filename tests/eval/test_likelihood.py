"""Choice tasks by log-likelihood: options and golds from rows, ranking, resume, and agreement with lm-evaluation-harness."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

import mft_cli
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.likelihood import LikelihoodConfig
from mft_cli.data.files import BadRow
from mft_cli.data.options import options_of, right_letters
from mft_cli.errors import UserError
from mft_cli.eval.evaluate import evaluate
from mft_cli.eval.grading.likelihood import best, grade_likelihood, likelihood_metrics
from mft_cli.eval.ranking import encode_pair, rank_missing
from tests.support.harness import harness, write_jsonl

ROWS: dict[str, list[dict[str, Any]]] = {
    "mmlu": [
        {"question": " What is 2 + 2? ", "subject": "elementary_mathematics", "choices": ["3", "4", "5", "6"], "answer": 1},
        {"question": "Which is a fruit?", "subject": "world_facts", "choices": ["apple", "stone", "tin", "rope"], "answer": 0},
    ],
    "hellaswag": [
        {
            "activity_label": "Cooking", "ctx_a": "Tom has an apple.", "ctx_b": "he", "ctx": "Tom has an apple. he",
            "endings": ["eats it [now].", "buys  4 more.", "is an apple [title] Step", "adds the numbers"], "label": label,
        }
        for label in ("0", "3")
    ],
    "arc_easy_ranked": [
        {"question": "How many apples?", "choices": {"text": ["seven", "a number", "two"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"question": "First we add?", "choices": {"text": ["yes", "no, we take 5 away", "x", "y"], "label": ["A", "B", "C", "D"]},
         "answerKey": "A"},
    ],
    "winogrande": [
        {"sentence": "Tom gave Ann the apple because _ was hungry.", "option1": "Tom", "option2": "Ann", "answer": "2"},
        {"sentence": "The box is in the bag, and _ is small.", "option1": "the box", "option2": "the bag", "answer": "1"},
    ],
    "truthfulqa_mc1": [
        {"question": "Is 7 a number?", "mc1_targets": {"choices": ["Yes.", "No.", "It is an apple."], "labels": [1, 0, 0]}},
        {"question": "Do apples add?", "mc1_targets": {"choices": ["They do not.", "They do."], "labels": [1, 0]}},
    ],
    "truthfulqa_mc2": [
        {"question": "Is 7 a number?", "mc2_targets": {"choices": ["Yes.", "It is.", "No.", "Never."], "labels": [1, 1, 0, 0]}},
        {"question": "Do apples add?", "mc2_targets": {"choices": ["No.", "They do not.", "They do."], "labels": [1, 1, 0]}},
    ],
}  # fmt: skip
FILES = {
    "mmlu": "mmlu/test.jsonl", "hellaswag": "hellaswag/validation.jsonl", "arc_easy_ranked": "arc_easy/test.jsonl",
    "winogrande": "winogrande/dev.jsonl", "truthfulqa_mc1": "truthfulqa/multiple_choice.jsonl",
}  # fmt: skip
HARNESS = {
    "mmlu": "mmlu/default/mmlu_elementary_mathematics.yaml", "hellaswag": "hellaswag/hellaswag.yaml",
    "arc_easy_ranked": "arc/arc_easy.yaml", "winogrande": "winogrande/default.yaml",
    "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml", "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
}  # fmt: skip
NAMES = list(ROWS)


def write_rows(folder: Path, name: str) -> Path:
    return write_jsonl(folder / (FILES.get(name) or f"{name}/rows.jsonl"), ROWS[name])


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for TruthfulQA's examples."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("long") / "model")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 2048}))
    return folder


def evaluation(model: Path, data: Path, names: list[str], **more: Any) -> Any:
    settings: dict[str, Any] = {
        "model.path": model, "eval.engine": "hf", "eval.dtype": "float32", "launch.threads": 1, "launch.device": "cpu",
        **more,
    }  # fmt: skip
    for name in names:
        source = {"path": write_rows(data, name), "name": None, "local": []}
        settings |= {f"eval.benchmarks.{name}.source.{key}": value for key, value in source.items()}
    return mft_cli.load_config(f"eval=[{','.join(names)}]", verb="eval", settings=settings)


@pytest.fixture(scope="module")
def evaluated(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, out = (tmp_path_factory.mktemp(name) for name in ("rows", "out"))
    evaluate(evaluation(model, data, NAMES), out)
    return out


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_metrics(name: str, evaluated: Path):
    metrics = json.loads((evaluated / name / "metrics.json").read_text())
    rows = lines(evaluated / name / "scores.jsonl")
    assert (metrics["n"], metrics["engine"]["name"], metrics["prompt"]["name"]) == (2, "hf", "likelihood")
    norm = name in ("hellaswag", "arc_easy_ranked")
    assert metrics["accuracy"] == metrics["likelihood"]["acc_norm" if norm else "acc"]["value"]
    assert metrics["accuracy"] == sum(row["correct"] for row in rows) / 2
    assert all(0 < row["right_mass"] < 1 for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_it_agrees_with_lm_evaluation_harness(name: str, evaluated: Path, model: Path, tmp_path: Path):
    """The harness's own task files over the same rows: every option's log-likelihood to 1e-4, and the accuracies."""
    results = harness(model, name, Path(HARNESS[name]), {"test": write_rows(tmp_path, name)})
    samples = results["samples"][name]
    ours = lines(evaluated / name / "generations.jsonl")
    if name == "mmlu":  # its task file is one subject's, whose name stands in the description
        samples, ours = samples[:1], ours[:1]
    for sample, mine in zip(samples, ours, strict=True):
        theirs = [float(response[0]) for response in sample["filtered_resps"]]
        assert mine["option_logprobs"] == pytest.approx(theirs, abs=1e-4)
    measured = json.loads((evaluated / name / "metrics.json").read_text())["likelihood"]
    for theirs_name, our_name in (
        ("acc", "right_mass" if name == "truthfulqa_mc2" else "acc"),
        ("acc_norm", "acc_norm"),
    ):
        if name != "mmlu" and f"{theirs_name},none" in results["results"][name]:
            assert measured[our_name]["value"] == pytest.approx(
                results["results"][name][f"{theirs_name},none"], abs=1e-4
            )


SHOTS = {
    "mmlu": 2,
    "hellaswag": 1,
    "arc_easy_ranked": 1,
    "winogrande": 1,
}  # of a split with no more rows: no draw decides


@pytest.mark.parametrize("name", SHOTS)
def test_worked_examples_agree_with_lm_evaluation_harness(name: str, model: Path, tmp_path: Path):
    rows = write_jsonl(tmp_path / "rows.jsonl", ROWS[name][:1])
    extra = {"subject": ROWS[name][0]["subject"]} if name == "mmlu" else {}
    examples = [{**row, **extra} for row in ROWS[name][1:]] * SHOTS[name]
    split = write_jsonl(tmp_path / "examples.jsonl", examples)
    more = {"shots": SHOTS[name], "shots_path": str(split)}
    config = evaluation(
        model, tmp_path, [name],
        **{f"eval.benchmarks.{name}.likelihood.{key}": value for key, value in more.items()},
        **{f"eval.benchmarks.{name}.limit": None},
    )  # fmt: skip
    config.eval.benchmarks[name].source.path = str(rows)
    evaluate(config, tmp_path / "out")
    (mine,) = lines(tmp_path / "out" / name / "generations.jsonl")
    results = harness(
        model, name, Path(HARNESS[name]), {"test": rows, "train": split}, fewshot_split="train", num_fewshot=SHOTS[name],
        fewshot_config={"sampler": "first_n"},
    )  # fmt: skip
    (sample,) = results["samples"][name]
    theirs = [float(response[0]) for response in sample["filtered_resps"]]
    assert mine["option_logprobs"] == pytest.approx(theirs, abs=1e-4)


def test_the_same_evaluation_again_asks_no_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = evaluation(model, tmp_path / "data", ["winogrande"])
    first = evaluate(config, tmp_path / "out")
    monkeypatch.setattr("mft_cli.eval.session.Session._weights", lambda self: pytest.fail("the model was asked"))
    assert evaluate(config, tmp_path / "out") == first


def test_whole_blocks_are_repeated_and_written_once():
    requests, seen, written = [object()] * 130, [], []
    rank_missing(
        requests, {70, 129}, lambda index, completion: written.append(index), lambda count: None,  # type: ignore[arg-type]
        lambda block: (seen.append(len(block)), [None] * len(block))[1],  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    assert (seen, written) == ([64, 2], [70, 129])


# ---- rows -----------------------------------------------------------------------------------------------------------

QUESTION = {"question": "Q?", "choices": ["a", "b"], "answer": 1}


def test_options_and_the_right_one():
    config = LikelihoodConfig(context="{{ question | without('[?]') }}:", continuation=" {{ option }}.")
    assert [tuple(o) for o in options_of(QUESTION, config, "f:1")] == [("a", "Q:", " a."), ("b", "Q:", " b.")]
    assert right_letters(QUESTION, config, "f:1") == "B"
    assert right_letters({**QUESTION, "answer": [1, 1]}, config, "f:1") == "A,B"


@pytest.mark.parametrize(
    ("row", "settings", "told"),
    [
        (QUESTION, {"options": "endings"}, "f:1: 'endings' cannot be evaluated|gives Undefined"),
        ({**QUESTION, "choices": ["a"]}, {}, r"f:1: likelihood\.options=choices gives \['a'\], expected 2 to 26 texts"),
        ({**QUESTION, "answer": 2}, {}, r"f:1: likelihood\.right=answer gives 2, expected a place from 0 to 1"),
        ({**QUESTION, "answer": [0, 0]}, {}, r"likelihood\.right=answer gives \[0, 0\]"),
        (QUESTION, {"context": "{{ passage }}"}, r"f:1: the template '{{ passage }}' cannot be filled"),
        (QUESTION, {"right": "().__class__.__base__"}, "f:1:"),
    ],
)
def test_a_row_that_does_not_fit_is_told(row: dict[str, Any], settings: dict[str, str], told: str):
    config = LikelihoodConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(BadRow, match=told):
        right_letters(row, config, "f:1")


def test_context_and_option_are_cut_where_the_context_ends(tokenizer: Any):
    before, after = encode_pair(tokenizer, "He has  ", "7 apples")
    assert before == tokenizer("He has")["input_ids"]
    assert before + after == tokenizer("He has  7 apples")["input_ids"]
    assert encode_pair(tokenizer, "", "7")[0] == [tokenizer.bos_token_id]


# ---- grading --------------------------------------------------------------------------------------------------------


def test_what_is_counted():
    record = {
        "id": "1",
        "sample": 0,
        "completion": "A",
        "gold": "B",
        "option_logprobs": [-2.0, -3.0],
        "option_lengths": [1.0, 4.0],
    }
    (plain,) = grade_likelihood([record], BenchmarkConfig(answer_type="likelihood"), EvalConfig())
    assert (plain["answer"], plain["correct"], plain["acc"], plain["acc_norm"]) == ("A", False, False, True)
    assert plain["right_mass"] == pytest.approx(math.exp(-3) / (math.exp(-2) + math.exp(-3)))
    rule = BenchmarkConfig(answer_type="likelihood", likelihood=LikelihoodConfig(normalise="length"))
    (normal,) = grade_likelihood([record], rule, EvalConfig())
    assert (normal["answer"], normal["correct"]) == ("B", True)
    metrics = likelihood_metrics([plain, normal])["likelihood"]
    assert (metrics["acc"]["value"], metrics["acc_norm"]["value"]) == (0.0, 1.0)
    assert best([-1.0, -1.0], [1.0, 1.0], "none") == 0
    with pytest.raises(UserError, match="completion 1 has no option_logprobs"):
        grade_likelihood([{"id": "1", "completion": "A", "gold": "B"}], rule, EvalConfig())


def test_an_endpoint_and_samples_are_refused(model: Path, tmp_path: Path):
    with pytest.raises(UserError, match="answer_type=likelihood reads a model's own log-likelihoods once"):
        evaluation(
            model, tmp_path, ["winogrande"],
            **{"eval.benchmarks.winogrande.samples": 2, "eval.benchmarks.winogrande.temperature": 1.0},
        )  # fmt: skip
