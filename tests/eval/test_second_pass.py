"""Two passes: the second sees the first's completion, its keys hold the first's digest, both scores are told."""

from pathlib import Path

import pytest

from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.data.sources import Row
from mft_cli.errors import UserError
from mft_cli.eval import evaluate
from mft_cli.eval.problems import Problem
from mft_cli.eval.second_pass import with_solution
from tests.support.endpoint import completion, serving
from tests.support.sums import killed, lines, on_endpoint, on_model, sums, write_sums

FIRST = PromptConfig(name="ask", kind="template", template="Q: {question}\n")
SECOND = PromptConfig(name="critique", kind="template", template="Q: {question}\nCandidate: {solution}\nBetter:")
BOTH = ("generations.pass1.jsonl", "generations.jsonl", "scores.pass1.jsonl", "scores.jsonl")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_sums(tmp_path, 6)


def benchmark(data: Path, **more) -> BenchmarkConfig:
    return sums(data, prompt=FIRST, second_prompt=SECOND, **more)


def endpoint_config(url: str, data: Path) -> EvalRunConfig:
    return on_endpoint(url, benchmark(data), retries=0)


def test_the_second_pass_mends_and_spoils(data: Path, tmp_path: Path, capsys) -> None:
    wrong_first, wrong_second = {"0 + 1", "1 + 1", "2 + 1"}, {"2 + 1", "3 + 1"}

    def script(n, body):
        question = body["prompt"].split("\n")[0].removeprefix("Q: ")
        wrong = wrong_second if "Candidate" in body["prompt"] else wrong_first
        return completion("#### 99" if question in wrong else f"#### {int(question.split()[0]) + 1}")

    with serving(script) as (endpoint, url):
        metrics = evaluate.evaluate(endpoint_config(url, data), tmp_path / "a")["sums"]
        assert len(endpoint.requests) == 12
        first = metrics["first_pass"]
        assert (metrics["correct"], first["correct"], first["corrected"], first["broken"]) == (4, 3, 2, 1)
        assert (metrics["prompt"]["name"], first["prompt"]["name"]) == ("critique", "ask")
        second = lines(tmp_path / "a/sums/generations.jsonl")
        assert second[0]["prompt"] == "Q: 0 + 1\nCandidate: #### 99\nBetter:"
        assert "first pass 50.0 %; the second corrected 2 answers and broke 1" in capsys.readouterr().out
        evaluate.evaluate(endpoint_config(url, data), tmp_path / "a")
        assert len(endpoint.requests) == 12  # reused
        # killed in the second pass
        killed(tmp_path / "a/sums", tmp_path / "b/sums", {"generations.pass1.jsonl": 1.0, "generations.jsonl": 0.4})
        evaluate.evaluate(endpoint_config(url, data), tmp_path / "b")
        assert len(endpoint.requests) == 12 + 4
        assert all((tmp_path / "a/sums" / n).read_bytes() == (tmp_path / "b/sums" / n).read_bytes() for n in BOTH)


def test_another_candidate_never_keeps_its_old_critique(data: Path, tmp_path: Path) -> None:
    with serving(lambda n, body: completion(f"#### {n}")) as (endpoint, url):
        evaluate.evaluate(endpoint_config(url, data), tmp_path / "a")
        old = [r["key"] for r in lines(tmp_path / "a/sums/generations.jsonl")]
        path = tmp_path / "a/sums/generations.pass1.jsonl"
        path.write_text(path.read_text().split("\n", 1)[1])  # one candidate is lost and will be another
        evaluate.evaluate(endpoint_config(url, data), tmp_path / "a")
        new = [r["key"] for r in lines(tmp_path / "a/sums/generations.jsonl")]
        assert len(endpoint.requests) == 12 + 1 + 6
        assert not set(old) & set(new)


def test_samples_of_a_model_and_its_context(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    def config(**more) -> EvalRunConfig:
        return on_model(tiny_model, benchmark(data, samples=2, temperature=0.9, limit=3), **more)

    metrics = evaluate.evaluate(config(), tmp_path / "a")["sums"]
    first, second = (lines(tmp_path / "a/sums" / name) for name in BOTH[:2])
    assert [(r["id"], r["sample"]) for r in first] == [(r["id"], r["sample"]) for r in second]
    assert all(f"Candidate: {a['completion']}\n" in b["prompt"] for a, b in zip(first, second, strict=True))
    assert metrics["gold_logprob"]["n"] == 3
    short = evaluate.evaluate(config(max_model_len=30), tmp_path / "b")["sums"]
    assert any("6 of 6 prompts do not fit" in w for w in short["warnings"])
    assert short["first_pass"]["truncated"] >= 0


def test_templates(data: Path, tmp_path: Path) -> None:
    problem = Problem("id", 0, "1", Row(0, "f:1", question="what is {solution}?"))
    filled = with_solution(SECOND, problem, "it is {question} <x>").row.question
    assert filled == "Q: what is {solution}?\nCandidate: it is {question} <x>\nBetter:"
    without = PromptConfig(name="x", kind="template", template="{question}")
    with serving(lambda n, body: completion("")) as (endpoint, url):
        asked = endpoint_config(url, data)
        asked.eval.benchmarks["sums"].second_prompt = without
        with pytest.raises(UserError, match="needs both"):
            evaluate.evaluate(asked, tmp_path / "a")
        assert not endpoint.requests
