"""vLLM's CPU build against plain transformers: an adapter beside its base, log-probabilities, seeds."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import mft_cli
from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.eval.engines.base import Completion, Loading, Request, Sampling
from mft_cli.eval.engines.hf import HfEngine, load_model
from mft_cli.eval.evaluate import evaluate
from tests.support.adapters import make_adapter
from tests.support.harness import write_jsonl

pytestmark = pytest.mark.slow
PROMPTS = [(1, 50, 60, 70, 71, 72), (1, 80, 81), (1, 90, 91, 92, 93, 94, 95)]


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory) -> Path:
    """The tiny model with heads of a size that vLLM takes."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_model, **sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def generate(engine, requests, sampling) -> dict[int, Completion]:
    found: dict[int, Completion] = {}
    engine.generate(requests, set(), sampling, found.__setitem__, lambda n: None)
    return found


def test_an_adapter_beside_its_base_in_both_engines(base: Path, tokenizer, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vllm is not installed: its adapters and log-probabilities are not tested")
    from mft_cli.eval.engines.vllm import VllmEngine

    adapter = make_adapter(base, tmp_path / "adapter")
    rows = len(tokenizer)
    loading = Loading("vllm", str(base), str(adapter), str(base), "float32", "cpu", 64, False)
    vllm = VllmEngine(loading, tokenizer, EvalConfig(kv_cache_gb=1.0, logprobs_top=rows))
    try:
        greedy = Sampling(0.0, 1.0, (), (2,), "tokens", rows)
        requests = [Request(p, 12) for p in PROMPTS]
        served = generate(vllm, requests, greedy)
        sampling = Sampling(1.0, 1.0, (), (2,))
        one = generate(vllm, [Request(p, 12, seed=7) for p in PROMPTS], sampling)
        again = generate(vllm, [Request(p, 12, seed=7) for p in PROMPTS], sampling)
        other = generate(vllm, [Request(p, 12, seed=8) for p in PROMPTS], sampling)
    finally:
        vllm.close()
    assert one == again
    assert all(one[i].text != other[i].text for i in range(3))
    plain = HfEngine(load_model(base, "float32", "cpu", False, adapter), tokenizer, 4)
    expected = generate(plain, requests, greedy)
    bare = generate(HfEngine(load_model(base, "float32", "cpu", False), tokenizer, 4), requests, greedy)
    assert {i: c.text for i, c in served.items()} == {i: c.text for i, c in expected.items()}
    assert {i: c.text for i, c in served.items()} != {i: c.text for i, c in bare.items()}
    for i in range(3):
        for name in ("mean_logprob", "mean_entropy", "token_logprobs"):
            assert served[i].confidence[name] == pytest.approx(expected[i].confidence[name], abs=1e-3)


def test_log_likelihoods_are_those_of_transformers(base: Path, tmp_path: Path) -> None:
    """Of texts in one window and in several, and of a choice task's options, through whole evaluations."""
    pytest.importorskip("vllm", reason="vllm is not installed: its log-likelihoods are not tested")
    texts = [{"text": "Tom has 7 apples and gives 2 of them to Ann."}, {"text": "The answer is 4. " * 12}]
    question = {"question": "How many apples?", "choices": ["7", "2 of them", "a number"], "answer": 1}
    files = {"perplexity": texts, "arc_easy_ranked": [question, {**question, "question": "2 + 2?"}]}
    settings: dict[str, Any] = {
        "model.path": base, "eval.dtype": "float32", "launch.device": "cpu", "launch.threads": 1, "eval.gold_logprob": False,
        "eval.benchmarks.arc_easy_ranked.likelihood": {"options": "choices", "right": "answer"},
    }  # fmt: skip
    for name, rows in files.items():
        source = {"path": write_jsonl(tmp_path / f"{name}.jsonl", rows), "name": None, "local": []}
        settings |= {f"eval.benchmarks.{name}.source.{key}": value for key, value in source.items()}
    records: dict[str, list[Any]] = {}
    for engine, length in (("vllm", 64), ("hf", 63)):  # vllm makes a token, too
        settings["eval.max_model_len"] = length
        words = ("eval=[perplexity,arc_easy_ranked]", f"eval.engine={engine}")
        evaluate(mft_cli.load_config(*words, verb="eval", settings=settings), tmp_path / engine)
        lines = [(tmp_path / engine / name / "generations.jsonl").read_text().splitlines() for name in files]
        records[engine] = [json.loads(line) for part in lines for line in part]
    for served, plain in zip(records["vllm"], records["hf"], strict=True):
        for name in ("tokens", "first_choices"):
            assert served.get(name) == plain.get(name)
        (name,) = {"logprob_sum", "option_logprobs"} & plain.keys()
        assert served[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-3)


def test_seeds_go_with_more_prompts_than_one_step_takes(base: Path, tokenizer) -> None:
    """6,000 tokens of prompts, 4,096 a step: a prompt cut in two would turn a CPU's seeded generator back, which it cannot."""
    pytest.importorskip("vllm", reason="vllm is not installed: seeded sampling of many prompts is not tested")
    from mft_cli.eval.engines.vllm import VllmEngine

    loading = Loading("vllm", str(base), None, str(base), "float32", "cpu", 128, False)
    requests = [Request((1, *(3 + (i * 7 + j) % 200 for j in range(99))), 4, seed=i) for i in range(60)]
    vllm = VllmEngine(loading, tokenizer, EvalConfig(kv_cache_gb=1.0))
    try:
        found = generate(vllm, requests, Sampling(1.0, 1.0, (), (2,)))
    finally:
        vllm.close()
    assert sorted(found) == list(range(60))


@pytest.mark.parametrize(
    ("device", "eager", "made"), [("cuda", None, False), ("cpu", None, True), ("cuda", True, True)]
)
def test_what_vllm_is_started_with(monkeypatch, tokenizer, device: str, eager: bool | None, made: bool) -> None:
    """vllm itself is replaced: it is not installed everywhere."""
    from mft_cli.eval.engines.vllm import VllmEngine

    started: dict[str, object] = {}
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=lambda **settings: started.update(settings)))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    loading = Loading("vllm", "folder", None, "folder", "float32", device, 64, False)
    VllmEngine(loading, tokenizer, EvalConfig(enforce_eager=eager, gpu_memory=0.5, tensor_parallel=2))
    assert started["enforce_eager"] is made
    assert (started["gpu_memory_utilization"], started["tensor_parallel_size"]) == (0.5, 2)
