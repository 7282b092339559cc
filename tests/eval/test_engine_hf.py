"""The transformers engine on a random two-layer Llama."""

from pathlib import Path

import pytest
import torch

from mft_cli.eval.engine_hf import HfEngine, load_model
from mft_cli.eval.engines import Completion, Request, Sampling, finish
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
