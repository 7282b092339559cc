"""Rules of sampling: the probabilities are those of transformers, and both engines draw by them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mft_cli.config import load
from mft_cli.config.schema.evaluation import ApiConfig, BenchmarkConfig
from mft_cli.errors import UserError
from mft_cli.eval.engines.api import ApiEngine
from mft_cli.eval.engines.base import Completion, Request, Sampling
from mft_cli.eval.engines.hf import HfEngine, load_model
from mft_cli.eval.engines.sampling import penalised, probabilities
from mft_cli.eval.plan import Subject, decoding_of, make_sampling
from mft_cli.models.folder import open_model

PLAIN = Sampling(0.8, 1.0, (), ())
SEEN = [3, 5, 5, 40]


def of_transformers(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    rules = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)])
    rules.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        rules.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        rules.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        rules.append(MinPLogitsWarper(sampling.min_p))
    return rules(torch.tensor([SEEN]), logits[None])[0].softmax(-1)


@pytest.mark.parametrize(
    "rules",
    [
        {}, {"top_p": 0.7}, {"top_k": 5}, {"top_k": 500}, {"min_p": 0.1}, {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8}, {"top_k": 20, "top_p": 0.6, "min_p": 0.2, "repetition_penalty": 1.1},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("seed", range(4))
def test_probabilities_are_those_of_transformers(rules: dict[str, float], seed: int):
    logits = 2 * torch.randn(60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sampling = replace(PLAIN, **rules)  # type: ignore[arg-type]
    ours = probabilities(penalised(logits, SEEN, sampling.repetition_penalty), sampling)
    torch.testing.assert_close(ours / ours.sum(), of_transformers(logits, sampling))


def test_what_is_off_changes_no_key_of_a_completion():
    assert set(PLAIN.settings()) == {"temperature", "top_p", "stop", "end_ids", "logprobs", "top"}
    assert replace(PLAIN, top_k=5).settings()["top_k"] == 5


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    loaded = load_model(tiny_model, "float32", "cpu", trust=False)
    torch.manual_seed(1)
    for parameter in loaded.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3)
    return loaded


def run(model: Any, tokenizer: Any, requests: list[Request], sampling: Sampling) -> dict[int, Completion]:
    done: dict[int, Completion] = {}
    HfEngine(model, tokenizer, 3).generate(requests, set(), sampling, done.__setitem__, lambda n: None)
    return done


def test_greedy_with_a_penalty_is_what_generate_gives(model: Any, tokenizer: Any):
    prompt = (5, 6, 7, 8)
    sampling = Sampling(0.0, 1.0, (), (), repetition_penalty=1.4)
    done = run(model, tokenizer, [Request(prompt, 20)], sampling)[0]
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, repetition_penalty=1.4,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert done.text == tokenizer.decode(out[0, 4:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert done != run(model, tokenizer, [Request(prompt, 20)], Sampling(0.0, 1.0, (), ()))[0]


def test_one_likeliest_token_is_greedy(model: Any, tokenizer: Any):
    requests = [Request((5, 6, 7), 12, seed=3)]
    greedy = run(model, tokenizer, requests, Sampling(0.0, 1.0, (), ()))
    assert run(model, tokenizer, requests, Sampling(1.5, 1.0, (), (), top_k=1)) == greedy
    assert run(model, tokenizer, requests, Sampling(1.5, 1.0, (), (), min_p=1.0)) == greedy


def test_an_endpoint_gets_only_what_is_on():
    engine = ApiEngine.__new__(ApiEngine)
    engine.api = ApiConfig(base_url="http://x/v1", model="m")
    body = engine.body(Request((), 5, 1, "Q"), PLAIN)[1]
    assert not {"top_k", "min_p", "repetition_penalty"} & set(body)
    body = engine.body(Request((), 5, 1, "Q"), replace(PLAIN, top_k=7))[1]
    assert (body["top_k"], "min_p" in body) == (7, False)


# ---- keys -----------------------------------------------------------------------------------------------------------


def subject(folder: Path) -> Subject:
    from mft_cli.config.schema.inputs import ModelConfig

    return Subject(open_model(ModelConfig(path=str(folder))), None, {})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}, (0.6, 0.95, 20, 0.0, 1.0)),
        ({"do_sample": True, "repetition_penalty": 1.05}, (1.0, 1.0, 0, 0.0, 1.05)),
        ({"temperature": 0.6, "top_k": None}, (0.0, 1.0, 0, 0.0, 1.0)),
    ],
)
def test_the_models_own_decoding(
    settings: dict[str, Any], expected: tuple[float, ...], tiny_model: Path, tmp_path: Path
):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps(settings))
    config = load.unchecked_eval_config({"eval": {"decoding": "model"}}).eval
    given = BenchmarkConfig(temperature=0.3, top_p=0.5, max_new_tokens=77)
    done = decoding_of(given, config, subject(folder))
    assert (done.temperature, done.top_p, done.top_k, done.min_p, done.repetition_penalty) == expected
    assert done.max_new_tokens == 77
    assert decoding_of(given, load.unchecked_eval_config({}).eval, subject(folder)) is given
    (folder / "generation_config.json").unlink()
    with pytest.raises(UserError, match=r"eval\.decoding=model: .*does not exist; set eval\.decoding=benchmark"):
        decoding_of(given, config, subject(folder))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"decode": "refine", "top_k": 5}, r"eval\.benchmarks\.b\.top_k needs eval\.decode=plain"),
        ({"engine": "api", "stop_ids": [2]}, r"stop_ids=\[2\]: an endpoint that gets texts knows no ids"),
        ({"engine": "api", "decoding": "model"}, "eval.decoding=model reads a model's folder"),
    ],
)
def test_what_does_not_go_together(values: dict[str, Any], told: str, tiny_model: Path):
    mine = {name: values.pop(name) for name in ("top_k", "stop_ids") if name in values}
    benchmark = {"source": {"path": "generated:gsm_symbolic"}, **mine}
    api = {"base_url": "http://x/v1", "model": "m"}
    with pytest.raises(UserError, match=told):
        load.eval_config(
            {"model": {"path": str(tiny_model)}, "eval": {"benchmarks": {"b": benchmark}, "api": api, **values}}
        )


def test_stop_ids_end_a_completion_besides_the_models_own(model: Any, tokenizer: Any, tiny_model: Path):
    from mft_cli.config.schema.evaluation import EvalConfig
    from mft_cli.config.schema.inputs import PromptConfig
    from mft_cli.data.prompts import Renderer

    asked = replace(subject(tiny_model), tokenizer=tokenizer)
    free = run(model, tokenizer, [Request((5, 6, 7), 12)], Sampling(0.0, 1.0, (), ()))[0]
    third = tokenizer(free.text)["input_ids"][2]
    benchmark = BenchmarkConfig(stop_ids=[third])
    sampling = make_sampling(benchmark, EvalConfig(), Renderer(tokenizer, PromptConfig()), asked)
    assert set(sampling.end_ids) == {third, *asked.folder.end_ids, tokenizer.eos_token_id}
    cut = run(model, tokenizer, [Request((5, 6, 7), 12)], sampling)[0]
    assert (cut.finish_reason, free.text.startswith(cut.text), cut.text != free.text) == ("stop", True, True)
