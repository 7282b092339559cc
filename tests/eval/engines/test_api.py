"""An endpoint that fails in every way: what arrives is kept, what does not is said in one sentence."""

import json
import math
from pathlib import Path

import pytest

from mft_cli.config.schema.evaluation import ApiConfig
from mft_cli.config.schema.inputs import ModelConfig, PromptConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.errors import UserError
from mft_cli.eval import evaluate
from mft_cli.eval.engines.api import ApiEngine
from mft_cli.eval.engines.base import Completion, Request, Sampling
from tests.support.endpoint import chat, completion, serving
from tests.support.sums import on_endpoint, sums, write_sums

GREEDY = Sampling(0.0, 1.0, (), ())
RAW = PromptConfig(name="raw", kind="template", template="{question}\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_sums(tmp_path, 12)


def engine(url: str, **more) -> ApiEngine:
    settings = {"backoff_s": 0.01, "timeout_s": 0.5, "retries": 3, "concurrency": 4, **more}
    return ApiEngine(ApiConfig(base_url=url, model="m", **settings))


def generate(made: ApiEngine, requests, sampling=GREEDY) -> dict[int, Completion]:
    found: dict[int, Completion] = {}
    made.generate(requests, set(), sampling, found.__setitem__, lambda n: None)
    return found


def texts(n: int) -> list[Request]:
    return [Request((), 8, text=f"question {i}") for i in range(n)]


def config(url: str, data: Path, prompt: PromptConfig | None = None, **more) -> EvalRunConfig:
    return on_endpoint(url, sums(data, prompt=prompt), **{"timeout_s": 1.0, "retries": 2, **more})


@pytest.mark.parametrize(
    "trouble",
    [
        (500, {"error": {"message": "oops"}}, {}),
        (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.02"}),
        (200, b"<html>gateway</html>", {"Content-Type": "text/html"}),
        (200, b'{"choices": [{"text": "ha', {}),
        {"choices": []},
        {"choices": [{"text": 5}]},
        [],
        "drop",
        ("stall", 0.8),
    ],
    ids=str,
)
def test_trouble_is_tried_again(trouble) -> None:
    with serving(lambda n, body: trouble if n < 2 else completion(body["prompt"])) as (endpoint, url):
        found = generate(engine(url), texts(3))
        assert {i: c.text for i, c in found.items()} == {i: f"question {i}" for i in range(3)}
        assert len(endpoint.requests) == 5


def test_the_last_try_ends_it_and_keeps_what_arrived() -> None:
    def script(n, body):
        return "drop" if body["prompt"] == "question 3" else completion("fine")

    with serving(script) as (endpoint, url):
        found: dict[int, Completion] = {}
        made = engine(url, concurrency=1)
        with pytest.raises(UserError, match=r"no connection .*4 tries.*start the same command again") as error:
            made.generate(texts(6), set(), GREEDY, found.__setitem__, lambda n: None)
        assert set(found) == {0, 1, 2}
        assert "\n" not in str(error.value)
        assert len(endpoint.requests) == 3 + 4


@pytest.mark.parametrize(("status", "says"), [(401, "key_env"), (404, "base_url and model"), (400, "eval.api")])
def test_refusals_are_not_repeated_and_hide_the_key(status: int, says: str, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    message = {"error": {"message": "Incorrect API key provided: sk-very-secret"}}
    with serving(lambda n, body: (status, message, {})) as (endpoint, url):
        with pytest.raises(UserError, match=says) as error:
            generate(engine(url, concurrency=1, key_env="MY_KEY"), texts(3))
        assert len(endpoint.requests) == 1
        assert endpoint.requests[0][2]["authorization"] == "Bearer sk-very-secret"
        assert "secret" not in str(error.value)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UserError, match="MY_KEY: this environment variable is not set"):
        engine(url, key_env="MY_KEY")


def test_what_is_sent() -> None:
    sampling = Sampling(0.7, 0.9, tuple("abcde"), (5,), "mean")
    messages = json.dumps([{"role": "user", "content": "hello"}])
    asked = {
        "auto": Request((), 9, 42, messages, True),
        "text": Request((), 9, 42, "hello"),
        "tokens": Request((1, 2), 9, 42),
    }
    bodies = {}
    with serving(lambda n, body: chat("x") if "messages" in body else completion("x")) as (endpoint, url):
        for send, request in asked.items():
            generate(engine(url, send=send, extra={"top_k": 3}), [request], sampling)
            path, bodies[send], _ = endpoint.requests[-1]
            assert path == ("/v1/chat/completions" if send == "auto" else "/v1/completions")
    common = {"model": "m", "temperature": 0.7, "top_p": 0.9, "seed": 42, "max_tokens": 9, "top_k": 3}
    common["stop"] = ["a", "b", "c", "d"]  # no more are allowed; the others are cut from the text here
    first = {"messages": [{"role": "user", "content": "hello"}], "logprobs": True, "top_logprobs": 20}
    assert bodies["auto"] == {**common, **first}
    assert bodies["text"] == {**common, "prompt": "hello", "logprobs": 5}
    assert bodies["tokens"] == {**common, "prompt": [1, 2], "logprobs": 20, "stop_token_ids": [5]}


def test_stop_texts_and_ends_are_read() -> None:
    answers = [completion("4\n\nQuestion: 5", "length", 8), completion("45", "length", 8), chat(None, "length", 8)]
    with serving(lambda n, body: answers[n]) as (_, url):
        requests = [*texts(2), Request((), 8, 0, "[]", True)]
        found = [generate(engine(url, concurrency=1), [r], Sampling(0.0, 1.0, ("Question",), ()))[0] for r in requests]
    assert [(c.text, c.finish_reason, c.tokens) for c in found] == [
        ("4\n\n", "stop", 8), ("45", "length", 8), ("", "length", 8),
    ]  # fmt: skip


def test_log_probabilities() -> None:
    half = math.log(0.5)
    tops = [{"token": "a", "logprob": half}, {"token": "b", "logprob": half}]
    content = [{"token": "a", "logprob": half, "top_logprobs": tops}, {"token": "c", "logprob": -4, "top_logprobs": []}]
    choice = {"tokens": ["a"], "token_logprobs": [half], "top_logprobs": [{"a": half, "b": half}]}

    def script(n, body):
        return chat("ac", logprobs={"content": content}) if "messages" in body else completion("a", logprobs=choice)

    with serving(script) as (_, url):
        found = generate(engine(url), [Request((), 8, 0, "[]", True), *texts(1)], Sampling(0.0, 1.0, (), (), "tokens"))
    rest = 1 - math.exp(-4)
    alone = 4 * math.exp(-4) - rest * math.log(rest)
    assert found[0].confidence["mean_entropy"] == pytest.approx((math.log(2) + alone) / 2, abs=1e-5)
    assert found[0].confidence["token_logprobs"] == [round(half, 5), -4.0]
    assert found[1].confidence == {
        "mean_logprob": round(half, 6), "mean_entropy": round(math.log(2), 6), "token_logprobs": [round(half, 5)],
    }  # fmt: skip


def test_concurrency_is_held() -> None:
    with serving(lambda n, body: completion("x")) as (endpoint, url):
        assert len(generate(engine(url, concurrency=3), texts(40))) == 40
        assert 1 <= endpoint.most <= 3


def test_an_evaluation_resumes_and_belongs_to_its_endpoint_and_model(data: Path, tmp_path: Path) -> None:
    failing = True

    def script(n, body):
        question = body["messages"][-1]["content"]
        return (503, {}, {}) if failing and question >= "5 + 1" else chat(f"#### {int(question.split()[0]) + 1}")

    with serving(script) as (endpoint, url):
        with pytest.raises(UserError, match="status 503"):
            evaluate.evaluate(config(url, data, concurrency=2), tmp_path / "a")
        kept = len((tmp_path / "a/sums/generations.jsonl").read_text().splitlines())
        assert kept > 0
        failing, before = False, len(endpoint.requests)
        metrics = evaluate.evaluate(config(url, data), tmp_path / "a")["sums"]
        assert len(endpoint.requests) - before == 12 - kept
        assert (metrics["accuracy"], metrics["gold_logprob"], metrics["engine"]["model"]) == (1.0, None, "m")
        before = len(endpoint.requests)
        evaluate.evaluate(config(url, data), tmp_path / "a")
        assert len(endpoint.requests) == before
        evaluate.evaluate(config(url, data, model="other"), tmp_path / "a")
        assert len(endpoint.requests) == before + 12
        evaluate.evaluate(config(url, data, model="other", version="2"), tmp_path / "a")
        assert len(endpoint.requests) == before + 24
        evaluate.evaluate(config(url, data), tmp_path / "b")
        assert (tmp_path / "b/sums/generations.jsonl").read_text().count("\n") == 12


def test_prompts_that_are_too_long_are_counted(data: Path, tmp_path: Path) -> None:
    error = {"error": {"message": "This model's maximum context length is 8 tokens", "code": "context_length_exceeded"}}

    def script(n, body):
        return (400, error, {}) if body["prompt"].startswith("11") else completion("#### 1")

    with serving(script) as (_, url):
        metrics = evaluate.evaluate(config(url, data, RAW), tmp_path / "a")["sums"]
    assert (metrics["n"], metrics["truncated"]) == (12, 1)
    assert "1 prompts were refused by the endpoint as too long" in metrics["warnings"][0]


def test_token_ids_come_from_the_folders_tokenizer(tiny_model: Path, tokenizer, data: Path, tmp_path: Path) -> None:
    with serving(lambda n, body: completion("#### 1")) as (endpoint, url):
        asked = config(url, data, send="tokens")
        asked.model = ModelConfig(path=str(tiny_model))
        evaluate.evaluate(asked, tmp_path / "a")
        sent = {tokenizer.decode(body["prompt"]) for _, body, _ in endpoint.requests}
    assert "<|im_start|>user\n3 + 1<|im_end|>\n<|im_start|>assistant\n" in sent
    with pytest.raises(UserError, match="send=text, but prompt chat"):
        evaluate.evaluate(config(url, data, send="text"), tmp_path / "b")
