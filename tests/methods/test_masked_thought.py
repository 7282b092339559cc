"""Masked thought against its definition: what is chosen, how often, what becomes of it, and the mask token."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mft_cli.config.schema.methods import MaskedThoughtConfig
from mft_cli.data.examples import Examples
from mft_cli.data.pack import IGNORE, Batch, make_batch
from mft_cli.errors import UserError
from mft_cli.methods.mask_token import choose_mask_token
from mft_cli.methods.masked_thought import MaskedThought
from mft_cli.methods.token_runs import geometric, start_probability
from mft_cli.rng import Draw


class Words:
    """A stand-in tokenizer of 100 words and one mask token."""

    mask_token = None
    eos_token_id, bos_token_id = 2, 1
    added_tokens_decoder: dict = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.vocabulary = {f"w{i}": i for i in range(100)}

    def __len__(self) -> int:
        return len(self.vocabulary)

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.vocabulary[token]


class Rows(torch.nn.Module):
    """A stand-in model with this many embedding rows."""

    def __init__(self, rows: int):
        super().__init__()
        self.embedding = torch.nn.Embedding(rows, 1)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.embedding


def method(**settings: object) -> MaskedThought:
    made = MaskedThought(MaskedThoughtConfig(**settings))
    tokenizer = Words()
    for token in made.prepare(tokenizer):
        tokenizer.vocabulary[token] = len(tokenizer)
    made.adapt(Rows(len(tokenizer)), tokenizer)
    return made


def batch(examples: int = 60, prompt: int = 30, response: int = 170, packed: int = 3, ratio: float = math.nan) -> Batch:
    n = prompt + response
    lines = np.concatenate([np.full(prompt, -1), np.arange(response) // 10])
    made = Examples.of(
        np.arange(examples) * 104729 + 5, [n] * examples, np.tile(np.arange(n) % 90 + 5, examples).astype(np.int32),
        np.tile(np.arange(n) >= prompt, examples), lines=np.tile(lines, examples).astype(np.int32),
        ratio=np.full(examples, ratio, np.float32),
    )  # fmt: skip
    rows = [list(range(i, min(i + packed, examples))) for i in range(0, examples, packed)]
    return make_batch(made, rows, 0, 2)


def masked(made: MaskedThought, given_batch: Batch, progress: float = 1.0) -> torch.Tensor:
    return made.choose(given_batch, progress, Draw(1))[0]


def test_inputs_change_labels_and_positions_do_not():
    made, clean = method(), batch()
    done = made.corrupt(clean, 1.0, Draw(1))
    chosen = masked(made, clean)
    assert torch.equal(done.batch.labels, clean.labels)
    assert torch.equal(done.batch.positions, clean.positions)
    assert done.batch.lengths == clean.lengths
    assert done.batch.hidden_keys is None
    assert torch.equal(done.batch.input_ids == made.mask_id, chosen)
    assert torch.equal(done.batch.input_ids[~chosen], clean.input_ids[~chosen])
    assert not chosen[~clean.loss_mask].any()
    assert done.counts == {"ce": int((clean.labels != IGNORE).sum())}
    assert done.shares == {"masked_share": (int(chosen.sum()), int(clean.loss_mask.sum()))}


@pytest.mark.parametrize("granularity", ["token", "span", "step"])
@pytest.mark.parametrize("p", [0.1, 0.4, 0.8])
def test_coverage_is_the_mask_ratio(granularity: str, p: float):
    clean = batch(examples=300)
    chosen = masked(method(mask_ratio=p, granularity=granularity), clean)
    share = float(chosen[clean.loss_mask].float().mean())
    units = {"token": 1, "span": 8, "step": 10}[granularity]  # neighbours fall together
    sigma = math.sqrt(p * (1 - p) * units / int(clean.loss_mask.sum()))
    assert abs(share - p) < 4 * sigma
    if granularity == "span":  # the first response token is covered as often as any other
        first = (clean.positions == 30) & clean.real
        assert abs(float(chosen[first].float().mean()) - p) < 4 * math.sqrt(p * (1 - p) / 300)


@pytest.mark.parametrize("granularity", ["token", "span", "step"])
def test_masks_nest_while_the_ratio_ramps_up(granularity: str):
    made, clean = method(granularity=granularity), batch()
    earlier = torch.zeros_like(clean.loss_mask)
    for progress in (0.0, 0.1, 0.3, 0.6, 1.0):
        now = masked(made, clean, progress)
        assert bool((earlier <= now).all())
        earlier = now
    assert not masked(made, clean, 0.0).any()


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.0), (1 / 3, 0.2), (2 / 3, 0.4), (0.9, 0.4), (1.0, 0.4)])
def test_linear_schedule(progress: float, expected: float):
    assert float(method().probability(batch(), progress, Draw(1)).max()) == pytest.approx(expected)
    constant = method(schedule="constant").probability(batch(), progress, Draw(1))
    assert float(constant.min()) == pytest.approx(0.4)
    assert float(method(warmup_fraction=0.0).probability(batch(), 0.0, Draw(1)).min()) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [("late", 0.0, 0.0), ("late", 0.59, 0.0), ("late", 0.6, 0.3), ("late", 1.0, 0.3), ("falling", 0.0, 0.6),
     ("falling", 0.5, 0.3), ("falling", 0.9, 0.06)],
)  # fmt: skip
def test_late_and_falling_schedules(schedule: str, progress: float, expected: float):
    made = method(schedule=schedule, mask_ratio=0.3, warmup_fraction=0.6)
    assert made.probability(batch(), progress, Draw(1)).unique().item() == pytest.approx(expected, abs=1e-9)
    high = method(schedule=schedule, mask_ratio=0.8, warmup_fraction=0.0)
    assert high.probability(batch(), 0.0, Draw(1)).max() <= 1


def test_uniform_schedule_draws_one_ratio_an_example():
    clean = batch(examples=300)
    p = method(schedule="uniform").probability(clean, 0.0, Draw(1))
    ratios = {e: p[clean.example == e].unique().tolist() for e in clean.example[clean.real].unique().tolist()}
    assert all(len(values) == 1 for values in ratios.values())
    values = np.array([v[0] for v in ratios.values()])
    assert values.max() <= 0.4
    assert abs(values.mean() - 0.2) < 4 * 0.4 / math.sqrt(12 * 300)


def test_random_fraction():
    clean = batch(examples=300)
    made = method(random_fraction=0.3)
    done, chosen = made.corrupt(clean, 1.0, Draw(1)).batch, masked(made, clean)
    ids = done.input_ids[chosen]
    assert abs(float((ids == made.mask_id).float().mean()) - 0.7) < 4 * math.sqrt(0.21 / len(ids))
    random = ids[ids != made.mask_id]
    assert int(random.max()) < 100
    counts = torch.bincount(random, minlength=100).float()
    assert float(((counts - counts.mean()) ** 2 / counts.mean()).sum()) < 160  # chi-square, 99 degrees of freedom
    only = method(random_fraction=1.0)
    assert not (only.corrupt(clean, 1.0, Draw(1)).batch.input_ids == only.mask_id).any()


@pytest.mark.parametrize("target", ["response", "prompt", "both"])
def test_target(target: str):
    clean = batch()
    chosen = masked(method(target=target), clean)
    assert chosen[clean.loss_mask].any() == (target != "prompt")
    assert chosen[~clean.loss_mask & clean.real].any() == (target != "response")
    assert not chosen[clean.positions == 0].any()  # BOS never
    assert not chosen[~clean.real].any()


def test_step_masks_whole_lines():
    clean = batch()
    chosen = masked(method(granularity="step"), clean)
    for e in clean.example.unique().tolist():
        for line in range(17):
            here = (clean.example == e) & (clean.line == line) & clean.real
            assert len(chosen[here].unique()) == 1


def test_end_of_sequence_is_a_candidate_and_padding_is_not():
    clean = batch(examples=200, packed=1)
    chosen = masked(method(mask_ratio=0.5, warmup_fraction=0.0), clean)
    assert 60 < int(chosen[:, -1].sum()) < 140


def test_a_source_has_its_own_ratio():
    clean = batch(ratio=0.05)
    share = float(masked(method(), clean)[clean.loss_mask].float().mean())
    assert abs(share - 0.05) < 0.02


def test_only_named_spans_are_corrupted():
    """The ablation that isolates a mechanism: numbers alone, by the sources' own names of them."""
    made, clean = method(spans=["numbers", "answer"], schedule="constant", mask_ratio=1.0), batch()
    examples = replace(no_examples(), span_names=("numbers", "operators", "answer"))
    made.check(examples)
    clean = replace(clean, spans=torch.randint(0, 8, clean.spans.shape, dtype=clean.spans.dtype))
    chosen, candidates = made.choose(clean, 1.0, Draw(1))
    assert torch.equal(chosen, candidates)
    assert torch.equal(chosen, clean.loss_mask & ((clean.spans & 0b101) != 0) & clean.real)
    with pytest.raises(UserError, match=r"method\.spans=.*no source has a span 'numbers'; there are steps"):
        method(spans=["numbers"]).check(replace(no_examples(), span_names=("steps",)))


def no_examples() -> Examples:
    nothing = np.zeros(0, np.int64)
    return Examples.of(nothing, nothing, nothing, nothing > 0)


def test_drop_attention_hides_the_chosen_positions():
    made, clean = method(drop_attention=True), batch()
    assert torch.equal(made.corrupt(clean, 1.0, Draw(1)).batch.hidden_keys, masked(made, clean))


def test_runs_end_with_their_example():
    clean = batch(examples=40, prompt=5, response=20, packed=4)
    made = method(granularity="span", span_mean=50.0, mask_ratio=0.3)
    packed = masked(made, clean)
    alone = batch(examples=40, prompt=5, response=20, packed=1)
    single = masked(made, alone)
    for e in alone.example.unique().tolist():
        assert torch.equal(packed[clean.example == e], single[alone.example == e])


# ---- the mathematics of runs ----------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(1, 30))
def test_start_probability_solves_its_equation(p: float, mean: float):
    q = float(start_probability(torch.tensor([p], dtype=torch.float64), mean)[0])
    assert 0 <= q <= p
    product = 1.0
    for k in range(3000):
        product *= 1 - q * (1 - 1 / mean) ** k
    assert 1 - product == pytest.approx(p, abs=1e-9)


@given(st.floats(1, 30))
def test_geometric_lengths(mean: float):
    unit = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    lengths = geometric(unit, mean)
    assert int(lengths.min()) == 1
    assert float(lengths.float().mean()) == pytest.approx(mean, rel=0.02)
    if mean > 1:
        assert float((lengths > 2).float().mean()) == pytest.approx((1 - 1 / mean) ** 2, abs=1e-3)


# ---- the mask token -------------------------------------------------------------------------------------------------


def test_mask_token_choice(tokenizer):
    from tokenizers import AddedToken

    assert choose_mask_token(tokenizer, "auto") == "<mask>"
    assert choose_mask_token(tokenizer, "<blank>") == "<blank>"
    with pytest.raises(UserError, match="end or begin token"):
        choose_mask_token(tokenizer, "<|im_end|>")
    with pytest.raises(UserError, match="without blanks"):
        choose_mask_token(tokenizer, "two words")
    tokenizer.add_tokens([AddedToken(f"<|reserved_special_token_{i}|>", special=True) for i in range(2)])
    assert choose_mask_token(tokenizer, "auto") == "<|reserved_special_token_0|>"


def test_an_added_mask_token_takes_no_part_in_the_softmax():
    made = method()
    assert made.vocab_size == made.mask_id == 100
    assert made.keep_new_tokens is False
    assert method(keep_mask_token=True).keep_new_tokens is True
    assert replace(batch()).epoch == 0
