"""The noise comparators of masked_thought, and NEFTune, against their formulas written out position by position."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mft_cli.config.compose import run_with_hydra
from mft_cli.config.load import train_config
from mft_cli.config.schema.methods import MaskedThoughtConfig, SftConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.pack import Batch, make_batch
from mft_cli.errors import UserError
from mft_cli.methods import make
from mft_cli.methods.base import Method
from mft_cli.methods.masked_thought import MaskedThought
from mft_cli.methods.noise import NoisyThought, is_marked, neftune, race
from mft_cli.models.kernels.attention import packed_kwargs
from mft_cli.models.kernels.backends import register
from mft_cli.models.kernels.cross_entropy import hidden_states, own_logits
from mft_cli.rng import Draw, bits, spread
from mft_cli.train.loop import Trainer
from tests.methods.test_contract import make_trainer, settings
from tests.support.tiny import mft, tiny_overrides

NOISES = [
    {"noise": "dropout"},
    {"noise": "dropout", "dropout_rate": 0.3},
    {"noise": "neftune", "neftune_alpha": 40.0},
    {"noise": "neftune", "neftune_alpha": 40.0, "neftune_tokens": "all"},
    {"noise": "model_sample", "temperature": 0.7},
    {"noise": "mixup"},
    {"noise": "mixup", "mixup_with": "sample", "mixup_share": 0.6},
    {"noise": "mixup", "mixup_with": "random"},
]
ROWS = [[0, 1], [2], [5, 3, 4]]  # rows of unequal length: two have padding


def ids_of(case: dict[str, Any]) -> str:
    return "-".join(str(v) for v in case.values())


@pytest.fixture
def trainer(tiny_model, problem_file, tmp_path) -> Trainer:
    """A model whose embeddings and predictions are far from 0: noise shows, and sampled tokens differ."""
    made = make_trainer(settings(tiny_model, problem_file, "sft", {}, tmp_path))
    with torch.no_grad():
        made.engine.model.get_input_embeddings().weight.mul_(20)
    return made


def method_of(words: int, **changes: Any) -> NoisyThought:
    made = NoisyThought(MaskedThoughtConfig(schedule="constant", **changes))
    made.tokenizer_size = words
    return made


def numbers(draw: int, count: int, code: str) -> list[int]:
    """The integers that a draw is spread into: little-endian parts of one 64-bit mix after another."""
    size = struct.calcsize(code)
    mixed = [int(bits(torch.tensor(draw), torch.tensor(i))) for i in range(math.ceil(count * size / 8))]
    packed = b"".join(struct.pack("<q", m) for m in mixed)
    return list(struct.unpack(f"<{count}{code}", packed[: count * size]))


def pick(logits: np.ndarray, draw: int) -> int:
    """The token whose exponential clock, of rate softmax(logits), rings first."""
    uniform = (np.array([n & 0x7FFFFFFF for n in numbers(draw, len(logits), "i")]) + 0.5) / 2**31
    return int(np.argmin(-np.log1p(-uniform) * np.exp(logits.max() - logits)))


def noisy_embedding(c: MaskedThoughtConfig, own: torch.Tensor, n: int, draw: int, logits: Any, table: Any) -> Any:
    """One chosen position's embedding [D] by the formulas of docs/methods.md; `logits` predict this position."""
    width, words = len(own), len(table)
    if c.noise == "dropout":
        drop = torch.tensor(
            [(m + 32768) / 65536 < round(c.dropout_rate * 65536) / 65536 for m in numbers(draw, width, "h")]
        )
        rate = round(c.dropout_rate * 65536) / 65536
        return torch.where(drop, torch.zeros(width), own / (1 - rate)) if rate < 1 else own * 0
    if c.noise == "neftune":
        unit = torch.tensor([(m + 0.5) / 2**31 for m in numbers(draw, width, "i")])
        return own + c.neftune_alpha / math.sqrt(n * width) * unit
    if c.noise == "mixup" and c.mixup_with == "random":
        other = table[draw % words]
    elif c.noise == "mixup" and c.mixup_with == "expected":
        other = (torch.softmax(logits[:words] / c.temperature, -1) @ table).detach()
    else:
        other = table[pick((logits[:words] / c.temperature).double().numpy(), draw)]
    share = 1.0 if c.noise == "model_sample" else c.mixup_share
    return (1 - share) * own + share * other


def reference(model: Any, c: MaskedThoughtConfig, batch: Batch, chosen: torch.Tensor, draws: torch.Tensor) -> Any:
    """Summed cross entropy, every example alone in its row, every position's embedding made alone."""
    total = torch.zeros(())
    for e in batch.example[batch.real].unique():
        here = batch.real & (batch.example == e)
        ids, labels, at, own_draws = (t[here] for t in (batch.input_ids, batch.labels, chosen, draws))
        n, table = len(ids), model.get_input_embeddings()(torch.arange(vocabulary(model)))
        common = {"position_ids": torch.arange(n)[None], "use_cache": False}
        with torch.no_grad():
            clean = hidden_states(model, input_ids=ids[None], **common, **packed_kwargs([[n]]))[0]
            logits = own_logits(model, clean)
        embedded = [
            noisy_embedding(c, table[ids[j]], n, int(own_draws[j]), logits[j - 1], table) if at[j] else table[ids[j]]
            for j in range(n)
        ]
        hidden = hidden_states(model, inputs_embeds=torch.stack(embedded)[None], **common, **packed_kwargs([[n]]))[0]
        total = total + F.cross_entropy(own_logits(model, hidden), labels, ignore_index=-100, reduction="sum")
    return total


def vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def loss_and_gradient(model: Any, loss: torch.Tensor) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return float(loss.detach()), model.get_input_embeddings().weight.grad.clone()


def agree(model: Any, made: MaskedThought, clean: Batch) -> None:
    done = made.corrupt(clean, 1.0, Draw(7))
    whole = made.config.neftune_tokens == "all"
    chosen = clean.real if whole else made.choose(clean, 1.0, Draw(7))[0]
    assert 0 < int(chosen.sum()) < chosen.numel()
    draws = Draw(7)("masked_thought.noise", clean.epoch, clean.example, clean.positions)
    assert torch.equal(done.batch.input_ids, clean.input_ids)
    assert torch.equal(done.batch.labels, clean.labels)
    found = loss_and_gradient(model, made.loss(model, done.batch).sums["ce"])
    wanted = loss_and_gradient(model, reference(model, made.config, clean, chosen, draws))
    plain = float(make(SftConfig(), 1024).loss(model, clean).sums["ce"].detach())
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert abs(found[0] - plain) > 1e-3 * plain  # the noise is there
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-5 * float(wanted[1].abs().max()))


@pytest.mark.parametrize("case", NOISES, ids=ids_of)
def test_loss_and_embedding_gradient_are_those_of_the_formula(trainer, case):
    agree(
        trainer.engine.model,
        method_of(vocabulary(trainer.engine.model), **case),
        make_batch(trainer.train, ROWS, 0, trainer.pad_id),
    )


@pytest.mark.parametrize("case", [NOISES[3], NOISES[4], NOISES[5]], ids=ids_of)
def test_an_embedding_that_is_scaled_and_logits_that_are_capped(trainer, case):
    """Gemma 2: its embedding module multiplies by sqrt(width), its logits are more than head(hidden)."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(1)
    config = Gemma2Config(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=5.0, query_pre_attn_scalar=16, pad_token_id=0,
    )  # fmt: skip
    model = Gemma2ForCausalLM._from_config(config, attn_implementation=register("sdpa"))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
    agree(model, method_of(390, **case) if case["noise"] == "neftune" else method_of(400, **case), batch_of(trainer))


def batch_of(trainer: Trainer, rows: list[list[int]] = ROWS) -> Batch:
    return make_batch(trainer.train, rows, 0, trainer.pad_id)


@pytest.mark.parametrize("case", NOISES, ids=ids_of)
def test_padding_stays_and_an_empty_batch_has_no_loss(trainer, case):
    made = method_of(vocabulary(trainer.engine.model), **case)
    done = made.corrupt(batch_of(trainer), 1.0, Draw(7)).batch
    inputs = made.inputs(trainer.engine.model, done)
    embed = trainer.engine.model.get_input_embeddings()
    found = inputs["inputs_embeds"] if "inputs_embeds" in inputs else embed(inputs["input_ids"])
    untouched = ~done.extra["noise_at"]
    assert bool(untouched[~done.real].all())
    assert torch.equal(found[untouched], embed(done.input_ids)[untouched])
    empty = made.corrupt(batch_of(trainer, []), 1.0, Draw(7))
    assert float(made.loss(trainer.engine.model, empty.batch).sums["ce"].detach()) == 0.0


def test_the_mask_token_is_what_it_was(trainer):
    """noise=token: corrupt's ids through plain fine-tuning's loss, bit for bit, and nothing else in the batch."""
    made = MaskedThought(MaskedThoughtConfig(schedule="constant", random_fraction=0.5))
    made.tokenizer_size, made.mask_id = 300, 7
    clean = batch_of(trainer)
    done = made.corrupt(clean, 1.0, Draw(7)).batch
    chosen = made.choose(clean, 1.0, Draw(7))[0]
    random = Draw(7)("masked_thought.random", 0, clean.example, clean.positions) < 2**52
    ids = Draw(7)("masked_thought.id", 0, clean.example, clean.positions) % 300
    by_hand = torch.where(chosen, torch.where(random, ids, torch.tensor(7)), clean.input_ids)
    assert done.extra == {}
    plain = Method(SftConfig()).loss(trainer.engine.model, replace(clean, input_ids=by_hand))
    assert torch.equal(made.loss(trainer.engine.model, done).sums["ce"], plain.sums["ce"])


def test_validation_is_clean_and_no_token_is_added(tiny_model, problem_file, tmp_path):
    trainer = make_trainer(settings(tiny_model, problem_file, "masked_thought", {"noise": "mixup"}, tmp_path))
    assert (
        vocabulary(trainer.engine.model) == int(trainer.engine.model.config.vocab_size) == trainer.method.tokenizer_size
    )
    assert trainer.method.vocab_size is None
    done = trainer.method.for_validation(batch_of(trainer), trainer.draw).batch
    plain = make(SftConfig(), 1024).loss(trainer.engine.model, done).sums["ce"]
    assert torch.equal(trainer.method.loss(trainer.engine.model, done).sums["ce"], plain)


# ---- the draws ------------------------------------------------------------------------------------------------------


def test_spread_is_the_same_for_a_draw_wherever_it_stands():
    draws = Draw(1)("test", 0, torch.arange(6).view(2, 3))
    for code, dtype in (("h", torch.int16), ("i", torch.int32)):
        found = spread(draws, 7, dtype)
        assert found.shape == (2, 3, 7)
        assert [[numbers(int(d), 7, code) for d in row] for row in draws] == found.tolist()


def test_neftune_is_uniform_and_of_its_size():
    draws = Draw(1)("test", 0, torch.arange(4000))
    noise = neftune(draws, torch.full((4000,), 25), 64, 5.0) / (5 / math.sqrt(25 * 64))
    assert float(noise.abs().max()) <= 1
    assert abs(float(noise.mean())) < 4 * math.sqrt(1 / 3 / noise.numel())
    assert abs(float((noise**2).mean()) - 1 / 3) < 4 * math.sqrt(4 / 45 / noise.numel())
    across = (noise[:, :-1] * noise[:, 1:]).mean()  # neighbouring dimensions come out of one mix
    assert abs(float(across)) < 4 / 3 / math.sqrt(noise.numel())


def test_a_sampled_token_has_the_softmax_as_its_distribution():
    logits = torch.tensor([2.0, 0.0, -1.0, 1.5, -20.0, 0.5])
    draws = Draw(1)("test", 0, torch.arange(40000))
    counts = torch.bincount(race(logits.expand(40000, 6), draws), minlength=6).double()
    wanted = torch.softmax(logits.double(), -1) * 40000
    kept = wanted > 1
    assert float(((counts - wanted)[kept] ** 2 / wanted[kept]).sum()) < 18.5  # chi-square, 4 degrees: p = 0.001
    assert int(counts[4]) == 0


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"random_fraction": 0.5}, {"drop_attention": True}, {"mask_token": "<blank>"}, {"keep_mask_token": True}],
    ids=str,
)
def test_keys_of_the_mask_token_are_refused(change, tiny_model, problem_file, tmp_path):
    with pytest.raises(UserError, match=f"method.{next(iter(change))}=.*set method.noise=token"):
        settings(tiny_model, problem_file, "masked_thought", {"noise": "mixup", **change}, tmp_path)


PUBLISHED = {  # what the published code says of each noise, and our choices where it says nothing
    "dropout": {"dropout_rate": 1.0},
    "neftune": {"neftune_alpha": 5.0, "neftune_tokens": "chosen"},
    "model_sample": {"temperature": 1.0},
    "mixup": {"mixup_share": 0.3, "mixup_with": "expected", "temperature": 1.0},
}


@pytest.mark.parametrize("noise", PUBLISHED)
def test_presets_differ_from_the_mask_token_in_the_noise_alone(noise):
    """The same ratio, ramp and recipe, so that rows of one table differ in what stands in the mask token's place."""
    recipe = "experiment=paper_masked_thought_gsm8k"
    found: list[TrainConfig] = []
    for change in ("method.random_fraction=0.0", f"method=masked_thought_{noise}"):
        run_with_hydra("train", [recipe, change], lambda values: found.append(train_config(values)))
    token, other = found
    assert other.method == replace(token.method, noise=noise, **PUBLISHED[noise])
    assert replace(other, method=token.method) == token


def test_data_show_marks_the_chosen_inputs(tiny_model, problem_file, tmp_path):
    shown = [*tiny_overrides(tiny_model, problem_file), "method=masked_thought", "rows=1", "progress=1"]
    done = mft("data", "show", *shown, "method.noise=dropout", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of a chosen embedding's numbers set to 0; no mask token" in done.stdout
    token = mft("data", "show", *shown, cwd=tmp_path)
    assert "⟦noise in the input, still trained on⟧" in done.stdout
    body = [text.split(" candidates ")[0].split("still trained on⟧")[1] for text in (done.stdout, token.stdout)]
    assert body[0].count("⟦") > 3
    assert body[0] == body[1]  # the same positions are chosen whatever the noise


# ---- masked_critique ------------------------------------------------------------------------------------------------


def test_neftune_of_masked_critique(tiny_model, problem_file, tmp_path):
    """Noise on all tokens, once; both format terms and the cross entropy read the same forward pass."""
    trainer = make_trainer(settings(tiny_model, problem_file, "masked_critique", {"neftune_alpha": 30.0}, tmp_path))
    model, clean = trainer.engine.model, batch_of(trainer, [[0, 1], [2]])
    done = trainer.method.corrupt(clean, 0.0, Draw(7)).batch
    draws = Draw(7)("masked_critique.neftune", 0, clean.example, clean.positions)
    c = MaskedThoughtConfig(noise="neftune", neftune_alpha=30.0)
    wanted = reference(model, c, replace(clean, labels=done.labels), clean.real, draws)
    assert float(trainer.method.loss(model, done).sums["ce"].detach()) == pytest.approx(
        float(wanted.detach()), rel=1e-5
    )
    off = type(trainer.method)(replace(trainer.method.config, neftune_alpha=0.0))
    off.prepare(trainer.method.tokenizer)
    off.adapt(model, trainer.method.tokenizer)
    assert not is_marked(off.corrupt(clean, 0.0, Draw(7)).batch)
    assert float(off.loss(model, done).sums["ce"]) != pytest.approx(float(wanted), rel=1e-4)
