"""The transformers engine on a random two-layer Llama."""

import json
from pathlib import Path

import pytest
import torch

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import ModelConfig, SourceConfig
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.eval.engines.base import Completion, Request, Sampling, entropy_of_top, finish
from mft_cli.eval.engines.hf import HfEngine, Row, load_model, next_tokens
from mft_cli.eval.evaluate import evaluate
from mft_cli.eval.gold import gold_logprobs

END = 2
PROMPTS = [(1, 50, 60, 70), (1, 80), (1, 90, 91, 92, 93, 94, 95), (1, 50, 60)]


@pytest.fixture(scope="module")
def model(tiny_model: Path):
    loaded = load_model(tiny_model, "float32", "cpu", trust=False)
    torch.manual_seed(1)
    for parameter in loaded.parameters():  # sharper than the initialisation: completions differ and end
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3)
    return loaded


def run(model, tokenizer, requests, sampling, batch_size=3, done=()) -> dict[int, Completion]:
    found: dict[int, Completion] = {}
    HfEngine(model, tokenizer, batch_size).generate(requests, set(done), sampling, found.__setitem__, lambda n: None)
    return found


def test_greedy_is_what_generate_gives_one_by_one(model, tokenizer) -> None:
    sampling = Sampling(0.0, 1.0, (), (END,))
    found = run(model, tokenizer, [Request(p, 24) for p in PROMPTS], sampling)
    for index, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": END, "pad_token_id": END}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        assert found[index] == finish(tokenizer, out[0, len(prompt) :].tolist(), sampling)


def test_greedy_tokens_of_a_batch_are_those_of_single_rows() -> None:
    sampling = Sampling(0.0, 1.0, (), (END,))
    logits = torch.randint(0, 4, (64, 96), generator=torch.Generator().manual_seed(0)).float()  # full of ties
    together, alone = ([Row(i, Request((1,), 2), sampling) for i in range(64)] for _ in range(2))
    chosen = next_tokens(together, logits, sampling)
    assert chosen == [row.choose(line) for row, line in zip(alone, logits, strict=True)]
    assert [row.ids for row in together] == [row.ids for row in alone] == [[token] for token in chosen]


def test_sampling_does_not_depend_on_the_neighbours(model, tokenizer) -> None:
    sampling = Sampling(0.9, 0.8, (), (END,))
    requests = [Request(p, 16, seed=10 * i + s) for i, p in enumerate(PROMPTS) for s in range(3)]
    together = run(model, tokenizer, requests, sampling, batch_size=12)
    assert together == run(model, tokenizer, requests, sampling, batch_size=1)
    assert len({c.text for i, c in together.items() if i < 3}) > 1


def test_a_stop_text_ends_a_completion(model, tokenizer) -> None:
    free = run(model, tokenizer, [Request(PROMPTS[0], 24)], Sampling(0.0, 1.0, (), (END,)))[0]
    stop = free.text[4:6]
    cut = run(model, tokenizer, [Request(PROMPTS[0], 24)], Sampling(0.0, 1.0, (stop,), (END,)))[0]
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.tokens <= free.tokens


def test_length_is_said(model, tokenizer) -> None:
    found = run(model, tokenizer, [Request(PROMPTS[0], 2)], Sampling(0.0, 1.0, (), ()))[0]
    assert (found.finish_reason, found.tokens) == ("length", 2)


def test_done_batches_are_skipped(model, tokenizer) -> None:
    requests = [Request(p, 4) for p in PROMPTS]
    assert set(run(model, tokenizer, requests, Sampling(0.0, 1.0, (), ()), batch_size=1, done=(0, 2))) == {1, 3}


def test_gold_log_probabilities_without_padding_influence(model) -> None:
    examples = [([1, 50, 60], [70, 71, 2]), ([1], [80, 2]), ([1, 90, 91, 92, 93, 94], [95] * 9 + [2])]
    together = gold_logprobs(model, examples)
    for (prompt, response), value in zip(examples, together, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
        alone = sum(float(logits[len(prompt) - 1 + n, token]) for n, token in enumerate(response))
        assert abs(alone - value) < 1e-4


def test_a_model_that_is_laid_over_devices_computes_the_same(model, tiny_model) -> None:
    """As accelerate lays it: here there is one device."""
    spread = load_model(tiny_model, "float32", "cpu", trust=False, spread=True)
    spread.load_state_dict(model.state_dict())
    examples = [([1, 50, 60], [70, 71, 2]), ([1], [80, 2])]
    assert gold_logprobs(spread, examples) == gold_logprobs(model, examples)


def test_log_probabilities_and_entropies_are_the_models_own(model, tokenizer) -> None:
    sampling = Sampling(0.9, 0.6, (), (END,), "tokens")
    requests = [Request(p, 6, seed=i) for i, p in enumerate(PROMPTS)]
    found = run(model, tokenizer, requests, sampling)
    plain = run(model, tokenizer, requests, Sampling(0.9, 0.6, (), (END,)))
    for index, prompt in enumerate(PROMPTS):
        assert (found[index].text, plain[index].confidence) == (plain[index].text, {})
        kept = found[index].confidence
        assert len(kept["token_logprobs"]) == found[index].tokens
        ids = tokenizer(found[index].text, add_special_tokens=False)["input_ids"]
        if len(ids) == found[index].tokens:  # the text is tokenized as it was generated, without an end token
            with torch.no_grad():
                logprob = model(torch.tensor([[*prompt, *ids]])).logits[0].double().log_softmax(-1)
            rows = logprob[len(prompt) - 1 : -1]
            entropies = -(rows.exp() * rows).sum(-1)
            assert kept["mean_entropy"] == pytest.approx(float(entropies.mean()), abs=1e-5)
            chosen = [float(row[i]) for row, i in zip(rows, ids, strict=True)]
            assert kept["token_logprobs"] == pytest.approx(chosen, abs=2e-5)
            assert kept["mean_logprob"] == pytest.approx(sum(chosen) / len(ids), abs=1e-5)


def test_entropy_from_the_likeliest_is_a_lower_bound() -> None:
    logprobs = torch.randn(50, dtype=torch.float64).log_softmax(0).sort(descending=True).values
    exact = float(-(logprobs.exp() * logprobs).sum())
    bounds = [entropy_of_top(logprobs[:k].tolist()) for k in (1, 5, 20, 50)]
    assert bounds == sorted(bounds)
    assert bounds[-1] == pytest.approx(exact, abs=1e-9)
    assert entropy_of_top([0.0, -float("inf")]) == 0.0


def test_seeds_reach_the_sampler(tiny_model: Path, problem_file: Path, tmp_path: Path) -> None:
    def completions(seed: int, out: str) -> list[str]:
        source = SourceConfig(path=str(problem_file), response="answer")
        benchmark = BenchmarkConfig(
            source=source, gold_marker="####", max_new_tokens=6, samples=2, temperature=1.0
        )  # fmt: skip
        evaluation = EvalConfig(
            benchmarks={"sums": benchmark}, engine="hf", dtype="float32", seed=seed, gold_logprob=False
        )  # fmt: skip
        model = ModelConfig(path=str(tiny_model))
        evaluate(EvalRunConfig(model=model, eval=evaluation, launch=LaunchConfig(device="cpu")), tmp_path / out)
        lines = (tmp_path / out / "sums/generations.jsonl").read_text().splitlines()
        return [json.loads(line)["completion"] for line in lines]

    first = completions(1, "a")
    assert first == completions(1, "b")
    assert first[::2] != first[1::2]  # two samples of a problem
    assert sum(a != b for a, b in zip(first, completions(2, "c"), strict=True)) > 70
