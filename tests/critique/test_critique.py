"""`mft critique` with a tiny base model and a scripted teacher of known quality, that also fails, stalls and babbles."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mft_cli.config.compose import run_with_hydra
from mft_cli.config.load import critique_config, eval_config, train_config
from mft_cli.config.schema.critique import CritiqueRunConfig
from mft_cli.critique.response import Response, read_response
from mft_cli.critique.run import critique_run
from mft_cli.data.sources import Row
from mft_cli.errors import UserError
from mft_cli.eval.problems import Problem
from mft_cli.eval.second_pass import with_solution
from mft_cli.train.run import train
from tests.support.endpoint import chat, serving
from tests.support.tiny import ROOT, mft, problems, tiny_overrides

GOOD = "<think><critique>C</critique><reasoning>R</reasoning></think><ans>\\boxed{7}</ans>"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in problems(5)))
    return path


def asked(body: dict[str, Any]) -> tuple[int, int, int]:
    """(number, a, b) of the problem in a request to the teacher."""
    found = re.search(r"Problem (\d+): what is (\d+) plus (\d+)\?", body["messages"][-1]["content"])
    assert found is not None
    return int(found[1]), int(found[2]), int(found[3])


def tagged(answer: object, critique: str = "It adds wrongly.") -> str:
    return f"<think><critique>{critique}</critique><reasoning>We add.</reasoning></think><ans>\\boxed{{{answer}}}</ans>"


def right(n: int, body: dict[str, Any]) -> Any:
    """A teacher that errs in every third problem, as its words depend on question and seed alone."""
    number, a, b = asked(body)
    return chat(tagged(a + b + (number % 3 == 0), f"Seed {body['seed']} looks at it."), tokens=20)


def values(model: Path, questions: Path, url: str, **more: Any) -> dict[str, Any]:
    template = {"kind": "chat", "template": "{question}\nCandidate:\n{solution}"}
    api = {"base_url": url, "model": "t", "backoff_s": 0.01, "timeout_s": 5.0, "retries": 2, "concurrency": 2}
    return {
        "model": {"path": str(model)},
        "eval": {"engine": "hf", "dtype": "float32", "batch_size": 4},
        "launch": {"threads": 1},
        "data": {"sources": {"sums": {"path": str(questions), "response": "answer", "derived_from": ["sums_train"]}}},
        "solutions": {"samples": 2, "temperature": 1.0, "max_new_tokens": 6},
        "teacher": {
            "eval": {"engine": "api", "api": api}, "prompt": {"name": "ask", **template}, "max_new_tokens": 40,
        },
        "row_prompt": {"name": "row", **template},
        **more,
    }  # fmt: skip


def config_of(*arguments: Any, **more: Any) -> CritiqueRunConfig:
    return critique_config(values(*arguments, **more))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- what a teacher writes ------------------------------------------------------------------------------------------


def test_well_formed_answers_get_one_spelling():
    spaced = " Sure.\n<think>\n <critique> C </critique>\n<reasoning>R</reasoning> </think>\n<ans>\\boxed{7} </ans> Bye"
    own_thoughts = "<think>Let me see.</think>" + GOOD
    for text in (GOOD, spaced, own_thoughts):
        assert read_response(text, "stop") == Response("C", "R", "\\boxed{7}")
        assert read_response(text, "stop").text == GOOD


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("", "stop", "empty"),
        ("The answer is 7.", "stop", "tags missing"),
        (GOOD[:60], "length", "cut off"),
        (GOOD.replace("</think>", ""), "stop", "tags missing"),
        (GOOD.replace("C", "C</critique><critique>D"), "stop", "repeated tags"),
        (GOOD + "</ans>", "stop", "repeated tags"),
        (GOOD + "<ans>8</ans>", "stop", "repeated tags"),
        (GOOD.replace("</critique>", "</critique> so"), "stop", "text between tags"),
        (GOOD.replace(">R<", "> <"), "stop", "empty part"),
        (GOOD.replace("\\boxed{7}", "7"), "stop", "no boxed answer"),
    ],
)
def test_malformed_answers_have_a_reason(text: str, finish: str, reason: str):
    assert read_response(text, finish) == reason


def test_strict_format_and_control_tokens():
    half = GOOD.replace("7", "\\frac{1}{2}")
    assert isinstance(read_response(half, "stop"), Response)
    assert read_response(half, "stop", strict=True) == "no integer in a box"
    assert (
        read_response(GOOD.replace("C", "<|im_end|>"), "stop", control=re.compile(r"<\|im_end\|>")) == "control token"
    )


def test_reading_nonsense_is_linear():
    start = time.perf_counter()
    read_response("<think><critique>" * 40_000, "stop")
    read_response("<critique>a</critique><reasoning>" * 40_000, "length")
    assert time.perf_counter() - start < 2


# ---- the pipeline ---------------------------------------------------------------------------------------------------


def test_rows_are_verified_and_say_where_they_come_from(tiny_model: Path, questions: Path, tmp_path: Path, capsys):
    with serving(right) as (endpoint, url):
        root = critique_run(config_of(tiny_model, questions, url, run_dir=str(tmp_path / "a"), csv=True))
        assert len(endpoint.requests) == 10
    rows = lines(root / "train.jsonl")
    assert [(r["row"][-2:], r["sample"]) for r in rows] == [(f":{i + 1}", s) for i in range(5) for s in (0, 1)]
    for r in rows:
        number = int(re.search(r"Problem (\d+)", r["question"])[1])
        assert r["answer_match"] == (number % 3 != 0)
        assert r["prompt"] == f"{r['question']}\nCandidate:\n{r['solution']}"
        assert isinstance(read_response(r["critique"], "stop"), Response)
        assert f"Seed {r['critique_seed']} " in r["critique"]
    assert len({r["critique_seed"] for r in rows}) == 10
    with open(root / "train.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(t["prompt"], t["critique"], t["answer_match"]) for t in table] == [
        (r["prompt"], r["critique"], str(r["answer_match"])) for r in rows
    ]
    facts = json.loads((root / "provenance.json").read_text())
    assert facts["counts"]["answer_match"] == 6
    assert facts["base"]["weights_digest"]
    assert facts["teacher"]["engine"]["endpoint"] == url
    assert facts["base"]["sources"]["sums"]["derived_from"] == ["sums_train"]
    assert "{solution}" in facts["teacher"]["prompt_text"]
    assert json.loads((root / "state.json").read_text())["state"] == "done"
    assert "derived_from=[sums_train]" in capsys.readouterr().out


def test_malformed_answers_are_tried_again_with_another_seed_and_kept_aside(
    tiny_model: Path, questions: Path, tmp_path: Path
):
    seeds: dict[str, list[int]] = {}

    def script(n: int, body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        tries = seeds.setdefault(text, [])
        tries.append(body["seed"])
        number, a, b = asked(body)
        if number == 1 and len(tries) == 1:
            return chat("I would rather talk about the weather.")
        if number == 2:
            return chat("<think><critique>It goes on and", finish="length", tokens=40)
        return chat(tagged(a + b))

    solutions = {"samples": 1, "temperature": 1.0, "max_new_tokens": 6}
    with serving(script) as (endpoint, url):
        asked_for = config_of(tiny_model, questions, url, run_dir=str(tmp_path / "a"), solutions=solutions)
        root = critique_run(asked_for)
        assert len(endpoint.requests) == 5 + 2 + 1
        assert all(len(set(s)) == len(s) for s in seeds.values())
        before = (root / "train.jsonl").read_bytes()
        critique_run(asked_for)
        assert len(endpoint.requests) == 8  # nothing is asked again
        assert (root / "train.jsonl").read_bytes() == before
    counts = json.loads((root / "provenance.json").read_text())["counts"]
    assert (counts["rows"], counts["malformed_tries"], counts["given_up"], counts["waiting"]) == (4, 4, 1, 0)
    assert counts["malformed_reasons"] == {"cut off": 3, "tags missing": 1}
    assert [(m["try"], m["reason"]) for m in lines(root / "malformed.jsonl")] == [
        (0, "tags missing"), (0, "cut off"), (1, "cut off"), (2, "cut off"),
    ]  # fmt: skip
    assert [r["critique_try"] for r in lines(root / "train.jsonl")] == [0, 1, 0, 0]


def test_trouble_on_the_line_changes_nothing(tiny_model: Path, questions: Path, tmp_path: Path):
    trouble = [(500, {}, {}), (200, b"<html>", {}), {"choices": []}, "drop", ("stall", 5.5), (429, {}, {})]

    def script(n: int, body: dict[str, Any]) -> Any:
        return trouble[n // 2] if n % 2 == 0 and n < 2 * len(trouble) else right(n, body)

    with serving(right) as (_, url):
        calm = critique_run(config_of(tiny_model, questions, url, run_dir=str(tmp_path / "a")))
    with serving(script) as (endpoint, url):
        troubled = critique_run(config_of(tiny_model, questions, url, run_dir=str(tmp_path / "b")))
        assert len(endpoint.requests) == 10 + len(trouble)
    keys = ("prompt", "critique", "answer_match", "id")
    assert [[r[k] for k in keys] for r in lines(calm / "train.jsonl")] == [
        [r[k] for k in keys] for r in lines(troubled / "train.jsonl")
    ]


def test_an_endpoint_that_goes_away_leaves_usable_rows(tiny_model: Path, questions: Path, tmp_path: Path):
    gone = True

    def script(n: int, body: dict[str, Any]) -> Any:
        return "drop" if gone and n >= 4 else right(n, body)

    with serving(script) as (endpoint, url):
        asked_for = config_of(tiny_model, questions, url, run_dir=str(tmp_path / "a"))
        with pytest.raises(UserError, match="start the same command again"):
            critique_run(asked_for)
        kept = len(lines(tmp_path / "a/train.jsonl"))
        assert 0 < kept <= 4
        gone, before = False, len(endpoint.requests)
        critique_run(asked_for)
        assert len(endpoint.requests) - before == 10 - kept
    assert len(lines(tmp_path / "a/train.jsonl")) == 10


@pytest.mark.parametrize(("budget", "most"), [({"requests": 3}, 3), ({"tokens": 130}, 5), ({"requests": 0}, 0)])
def test_a_budget_is_never_exceeded_and_can_be_raised(
    tiny_model: Path, questions: Path, tmp_path: Path, capsys, budget: dict[str, int], most: int
):
    """tokens: an answer takes 20 and may take 40, so that 130 allow 3, then 1 of 70 - 40 ... until fewer than 40 are left."""
    with serving(right) as (endpoint, url):
        first = config_of(tiny_model, questions, url, run_dir=str(tmp_path / "a"), budget=budget)
        root = critique_run(first)
        assert len(endpoint.requests) == most
        assert len(lines(root / "train.jsonl")) == most
        assert json.loads((root / "state.json").read_text())["state"] == "stopped"
        assert f"{10 - most} of 10 solutions wait for a critique" in capsys.readouterr().out
        critique_run(first)
        assert len(endpoint.requests) == most  # what was spent counts at the next start, too
        critique_run(replace(first, budget=type(first.budget)(requests=10)))
        assert len(endpoint.requests) == 10
    assert json.loads((root / "state.json").read_text())["state"] == "done"


def test_another_solution_never_keeps_its_old_critique(tiny_model: Path, questions: Path, tmp_path: Path):
    with serving(right) as (endpoint, url):
        asked_for = config_of(tiny_model, questions, url, run_dir=str(tmp_path / "a"))
        critique_run(asked_for)
        path = tmp_path / "a/solutions/sums.jsonl"
        changed = lines(path)
        changed[3] |= {
            "completion": "It is 12.",
            "key": changed[3]["key"].partition("-")[0],
        }  # without the line's digest
        path.write_text("".join(json.dumps(r) + "\n" for r in changed))
        critique_run(asked_for)
        assert len(endpoint.requests) == 11
    assert lines(tmp_path / "a/train.jsonl")[3]["solution"] == "It is 12."


def test_a_local_teacher_by_the_same_engines(tiny_model: Path, questions: Path, tmp_path: Path, capsys):
    """A random model has no format: everything is malformed, counted, and given up."""
    own = values(tiny_model, questions, "")
    own["teacher"] = {
        "model": {"path": str(tiny_model)}, "prompt": own["teacher"]["prompt"], "max_new_tokens": 4, "retries": 1,
        "eval": own["eval"],
    }  # fmt: skip
    root = critique_run(critique_config({**own, "run_dir": str(tmp_path / "a")}))
    counts = json.loads((root / "provenance.json").read_text())["counts"]
    assert (counts["rows"], counts["malformed_tries"], counts["given_up"], counts["teacher_requests"]) == (
        0,
        20,
        10,
        20,
    )
    said = capsys.readouterr().out
    assert "no verified row" in said
    assert "mft train" not in said  # there is nothing to train on


def test_a_teacher_that_was_trained_by_masked_critique(tiny_model: Path, questions: Path, tmp_path: Path):
    """The tags are special tokens of such a teacher. It has trained on one response by heart; it is also the base model."""
    loss_mask = [{"prompt": r["question"], "critique": GOOD, "answer_match": True} for r in problems(8)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in loss_mask))
    more = {"method": "masked_critique", "train.epochs": 60, "run_dir": tmp_path / "t", "method.mask_ratio": 0.0}
    run = [o for o in tiny_overrides(tiny_model, file, **more) if not o.startswith(("data=", "data.sources"))]
    train(composed("train", train_config, "data=critique", f"data.sources.critique.path={file}", *run))
    own = values(tmp_path / "t/export", questions, "")
    own["teacher"] = {
        "model": {"path": str(tmp_path / "t/export")}, "prompt": {"name": "ask", "kind": "chat", "template": "{question}{solution}"},
        "max_new_tokens": 40, "retries": 0, "temperature": 0.0, "eval": own["eval"],
    }  # fmt: skip
    root = critique_run(critique_config({**own, "run_dir": str(tmp_path / "a")}))
    rows = lines(root / "train.jsonl")
    assert [r["critique"] for r in rows] == [GOOD] * 10
    assert not any("<" in r["solution"] for r in rows)
    assert lines(root / "critiques.jsonl")[0]["completion"] == GOOD  # and no end-of-turn token


# ---- the command ----------------------------------------------------------------------------------------------------


def overrides(model: Path, questions: Path, url: str, run: Path) -> list[str]:
    return [
        f"model.path={model}", "data=local", f"data.sources.local.path={questions}", "launch.threads=1",
        "data.sources.local.response=answer", "eval.engine=hf", "eval.dtype=float32", "solutions.samples=2",
        "solutions.max_new_tokens=6", "teacher.eval.engine=api", f"teacher.eval.api.base_url={url}",
        "teacher.eval.api.model=t", "teacher.eval.api.concurrency=1", f"run_dir={run}",
    ]  # fmt: skip


def test_kill_9_in_the_middle_then_training_on_the_rows(tiny_model: Path, questions: Path, tmp_path: Path):
    slow = True

    def script(n: int, body: dict[str, Any]) -> Any:
        time.sleep(0.3 if slow else 0)
        return right(n, body)

    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    with serving(script) as (endpoint, url):
        arguments = overrides(tiny_model, questions, url, tmp_path / "a")
        process = subprocess.Popen(
            [sys.executable, "-m", "mft_cli", "critique", *arguments], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL
        )
        journal, until = tmp_path / "a/critiques.jsonl", time.monotonic() + 180
        while time.monotonic() < until and (not journal.is_file() or journal.read_bytes().count(b"\n") < 3):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept = journal.read_bytes().count(b"\n")
        assert 3 <= kept < 10
        journal.write_bytes(journal.read_bytes() + b'{"id": "torn')
        slow = False
        time.sleep(0.5)
        before = len(endpoint.requests)
        done = mft("critique", *arguments, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        assert len(endpoint.requests) - before == 10 - kept
        arguments[-1] = f"run_dir={tmp_path / 'b'}"
        critique_run(composed("critique", critique_config, *arguments))
    assert (tmp_path / "a/train.jsonl").read_bytes() == (tmp_path / "b/train.jsonl").read_bytes()
    run = tiny_overrides(tiny_model, tmp_path / "unused", **{"run_dir": tmp_path / "t"})
    run = [o for o in run if not o.startswith(("data=", "data.sources"))]
    path = f"data.sources.critique.path={tmp_path / 'a/train.jsonl'}"
    trained = mft("train", "method=masked_critique", "data=critique", path, *run, "data.max_length=512", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "4 left out by keep_if" in trained.stdout


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("teacher.model.path=null", "teacher.model.path"),
        ("teacher.prompt.template='{question}'", "teacher.prompt.template needs both"),
        ("solutions.temperature=0", "solutions.samples=4 would be the same text"),
        ("teacher.temperature=0", "teacher.retries=2 would give the same text"),
        ("budget.tokens=10", "budget.tokens=10 holds not one answer"),
        ("run_dir=/proc/x", "/proc/x: the folder cannot be made"),
        ("teacher.model.path=/", "teacher.model.path=/: "),
        ("teacher.retry=1", "did you mean teacher.retries?"),
        ("eval=gsm8k", "eval"),
    ],
)
def test_mistakes_are_told_in_one_sentence(argument: str, says: str, tmp_path: Path):
    teacher = [] if "path" in argument else ["teacher.model.path=."]
    done = mft("critique", *teacher, argument, cwd=tmp_path)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr


def test_a_prompt_with_a_solution_is_refused_in_training(tmp_path: Path):
    done = mft("train", "prompt=critique", cwd=tmp_path)
    assert done.returncode == 2
    assert "choose prompt=chat" in done.stderr


# ---- presets --------------------------------------------------------------------------------------------------------


def composed(name: str, build: Any, *overrides: str) -> Any:
    found: list[Any] = []
    run_with_hydra(name, list(overrides), lambda values: found.append(build(values)))
    return found[0]


def test_a_second_pass_asks_as_the_rows_of_training_do(tmp_path: Path):
    """Else the model would be asked what it was never trained on."""
    made = composed("critique", critique_config, f"teacher.model.path={tmp_path}")
    evaluated = composed("eval", eval_config, "eval=gsm8k_critique", f"model.path={tmp_path}")
    second = evaluated.eval.benchmarks["gsm8k_critique"].second_prompt
    assert second == made.row_prompt
    problem = Problem("id", 0, "7", Row(1, "row", question="What is 3 + 4?"))
    text = with_solution(second, problem, "It is 8.").row.question
    assert "What is 3 + 4?" in text
    assert "It is 8." in text
    assert "{" not in text.replace("\\boxed{}", "")


def test_the_published_recipe(tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text("prompt,critique,answer_match\n")
    config = composed("train", train_config, "experiment=paper_masked_critique", f"data.sources.critique.path={file}")
    t, d = config.train, config.data
    assert "DeepScaleR-1.5B" in config.model.path
    assert (t.epochs, t.learning_rate, t.schedule, t.warmup_steps) == (3, 5e-5, "cosine", 500)
    assert (t.optimizer, t.global_batch_size, t.weight_decay, t.max_grad_norm) == ("adamw_8bit", 8, 0.01, 1.0)
    assert (t.gradient_checkpointing, d.max_length, config.method.beta) == (True, 16384, 0.05)
    assert d.sources["critique"].keep_if == {"answer_match": True}
    assert (d.validation.fraction, d.validation.rows) == (0.1, 0)
    assert config.method.neftune_alpha == 0.1
    baseline = composed(
        "train", train_config, "experiment=paper_masked_critique", "method=sft", f"data.sources.critique.path={file}"
    )
    assert (baseline.method.name, baseline.train) == ("sft", t)
