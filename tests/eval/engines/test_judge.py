"""Judged benchmarks: both orders, a journal of judgements, win rates against values worked out otherwise."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mft_cli.config.schema.evaluation import ApiConfig, BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import SourceConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.errors import UserError
from mft_cli.eval import evaluate
from mft_cli.eval.grading.length_control import length_controlled_win_rate, win_rate
from mft_cli.eval.grading.preferences import vote
from mft_cli.eval.score import score_file, summary
from tests.support.endpoint import chat, serving


@pytest.fixture(autouse=True)
def judge_cache(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path / "cache"))


def test_length_control_takes_the_length_out() -> None:
    draw = np.random.default_rng(0)
    d = draw.normal(300, 200, 4000)
    p = 1 / (1 + np.exp(-(-0.4 + 1.5 * np.tanh(d / d.std()))))
    y = (draw.random(4000) < p).astype(float)
    plain, error = win_rate(list(y))
    assert plain > 60
    assert error == pytest.approx(100 * y.std(ddof=1) / math.sqrt(4000))
    assert length_controlled_win_rate(list(y), list(d)) == pytest.approx(100 / (1 + math.exp(0.4)), abs=4)


def test_length_control_at_its_edges() -> None:
    assert length_controlled_win_rate([0.5] * 4, [1, 2, 3, 4]) == pytest.approx(50, abs=1e-6)
    assert length_controlled_win_rate([1, 0, 1, 1], [7, 7, 7, 7]) == pytest.approx(75, abs=0.5)
    assert 90 < length_controlled_win_rate([1.0] * 20, list(range(-10, 10))) <= 100


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("A", 1.0),
        ("B.", 0.0),
        ("Answer: A", 1.0),
        ("**B**", 0.0),
        ("neither", None),
        ("", None),
        ("A is better than B", 1.0),
        ("B is better than A", 0.0),
        ("A is worse than B", None),
        ("A or B", None),
        ("Both A and B are good", None),
        ('{"better": "B"}', 0.0),
        (r"\boxed{A}", 1.0),
        ("The better answer is A.", 1.0),
        ("A good answer needs sources", None),
        ("<think>B, surely B.</think>A", 1.0),
        ("<think>A", None),
        ("I cannot say which; B has a typo", None),
    ],
)
def test_votes(answer: str, value: float | None) -> None:
    assert vote(answer, "A") == value


def test_a_judged_benchmark(tmp_path: Path) -> None:
    rows = [
        {"dataset": "d", "instruction": f"say {w}", "output": "reference {A}", "generator": "ref"}
        for w in ("good", "bad", "even", "odd")
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))

    def script(n, body):
        text = body["messages"][-1]["content"]
        if "<instruction>" not in text:
            return chat(text.removeprefix("say "))  # the model
        ours = "A" if "reference" not in text.split("<answer_B>")[0] else "B"
        if "say odd" in text:
            return chat("hm")
        return chat({"say good": ours, "say bad": "AB".replace(ours, "")}.get(text.split("\n")[3], "A"))

    with serving(script) as (endpoint, url):
        source = SourceConfig(path=str(tmp_path / "rows.json"), question="instruction", response="output")
        fields = ["dataset", "instruction", "output", "generator"]
        benchmark = BenchmarkConfig(source=source, answer_type="judged", gold_fields=fields, max_new_tokens=8)
        api = ApiConfig(base_url=url, model="m", backoff_s=0.01)
        config = EvalRunConfig(eval=EvalConfig(benchmarks={"alpaca": benchmark}, engine="api", api=api))
        with pytest.raises(UserError, match=r"needs eval\.judge\.base_url"):
            evaluate.evaluate(config, tmp_path / "out")
        assert len(endpoint.requests) == 4
        config.eval.judge = ApiConfig(base_url=url, model="judge", backoff_s=0.01)
        metrics = evaluate.evaluate(config, tmp_path / "out")["alpaca"]
        assert len(endpoint.requests) == 4 + 8
        evaluate.evaluate(config, tmp_path / "other")
        assert len(endpoint.requests) == 4 + 8 + 4  # the judgements of equal pairs are there
        again = score_file(
            tmp_path / "out/alpaca/generations.jsonl", "alpaca", benchmark, tmp_path / "s", eval_config=config.eval
        )
    found = metrics["preference"]
    assert again["preference"] == found, "mft score tells the win rates, too"
    assert (found["win_rate"], metrics["correct"], metrics["unparsed"]) == (50.0, 1, 1)
    assert (found["unclear"], found["replies"], found["judge"]["model"]) == (2, 8, "judge")
    assert "2 of 8 replies unclear" in summary(metrics)
    assert any("1 of 4 completions have no clear verdict of the judge" in warning for warning in metrics["warnings"])
    scores = [json.loads(line) for line in (tmp_path / "out/alpaca/scores.jsonl").read_text().splitlines()]
    assert [s["preference"] for s in scores] == [1.0, 0.0, 0.5, 0.5]
    outputs = json.loads((tmp_path / "out/alpaca/model_outputs.json").read_text())
    assert outputs[0] == {"dataset": "d", "instruction": "say good", "output": "good", "generator": "m"}
    annotations = json.loads((tmp_path / "out/alpaca/annotations.json").read_text())
    assert [a["preference"] for a in annotations] == [2.0, 1.0, 1.5, 1.5]
