"""Chunk refinement: where chunks lie and which are masked, causality, the loss by hand, the head's recursion, its files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.schema.methods import ChunkRefineConfig
from mft_cli.data.examples import Examples
from mft_cli.data.pack import make_batch
from mft_cli.errors import UserError
from mft_cli.methods.base import model_inputs
from mft_cli.methods.chunk_refine import ChunkRefine, at, layout_of
from mft_cli.methods.refine.backbone import refuse_bidirectional
from mft_cli.methods.refine.folder import read_head, read_settings
from mft_cli.methods.refine.head import Context, HeadSettings, RefineHead, cosine, count_parameters
from mft_cli.methods.refine.layout import choose_chunks, find_chunks
from mft_cli.models.kernels.cross_entropy import hidden_states
from mft_cli.rng import Draw

SMALL = {
    "width": 32, "heads": 4, "layers": 2, "chunk_size": 4, "max_steps": 4, "partial_fill": 0.0, "filled_prefixes": 0.0,
    "supervise": "last",
}  # fmt: skip
DRAW = Draw(7)


def make_examples(segments: list[list[int]], seed: int = 0) -> Examples:
    """One example for each list of segment lengths: prompt, response, prompt, response ... of random tokens 3 .. 300."""
    lengths = [sum(s) for s in segments]
    loss_mask = np.concatenate([np.repeat([i % 2 == 1 for i in range(len(s))], s) for s in segments])
    tokens = np.random.default_rng(seed).integers(3, 300, sum(lengths)).astype(np.int32)
    return Examples.of(np.arange(11, 11 + len(segments), dtype=np.int64) * 7919, lengths, tokens, loss_mask)


@pytest.fixture
def ready(tiny_model):
    """A function that gives (method, model) for method settings."""
    from transformers import AutoModelForCausalLM

    from mft_cli.config.schema.inputs import ModelConfig
    from mft_cli.models.kernels.backends import resolve
    from mft_cli.models.loading import load_tokenizer
    from mft_cli.models.vocabulary import extend_model

    def make(**settings) -> tuple[ChunkRefine, torch.nn.Module]:
        method = ChunkRefine(ChunkRefineConfig(**{**SMALL, **settings}))
        tokenizer = load_tokenizer(str(tiny_model), ModelConfig(path=str(tiny_model)))
        model = AutoModelForCausalLM.from_pretrained(
            tiny_model, attn_implementation=resolve("sdpa", "cpu"), dtype=torch.float32
        )
        torch.manual_seed(5)
        for p in model.parameters():  # states that differ: the initialisation's are nearly the same everywhere
            if p.ndim > 1:
                p.data.normal_(0, 0.2)
        extend_model(model, tokenizer, method.prepare(tokenizer))
        return method, method.adapt(model, tokenizer).eval()

    return make


# ---- chunks and masks -----------------------------------------------------------------------------------------------


def test_boundaries_come_from_the_data():
    """Cut at the example's start, where prompt and response meet, and every four tokens; the shape of rows is no matter."""
    batch = make_batch(make_examples([[6, 9], [3, 4, 2, 5]]), [[0, 1]], 0, 2)
    chunks = find_chunks(batch, 4)
    assert chunks.first.tolist() == [0, 4, 6, 10, 14, 15, 18, 22, 24, 28]
    assert chunks.length.tolist() == [4, 2, 4, 4, 1, 3, 4, 2, 4, 1]
    assert chunks.loss_mask.tolist() == [False, False, True, True, True, False, True, False, True, True]
    assert chunks.position.tolist() == [0, 4, 6, 10, 14, 0, 3, 7, 9, 13]
    assert chunks.example.tolist() == [0] * 5 + [1] * 5


def test_one_is_masked_and_one_is_not_and_masks_nest():
    examples = make_examples([[5, 3 + i] for i in range(30)] + [[4, 2]])
    batch = make_batch(examples, [list(range(31))], 0, 2)
    chunks = find_chunks(batch, 4)
    before = torch.zeros_like(chunks.loss_mask)
    for p in (0.0, 0.1, 0.3, 0.7, 0.95, 1.0):
        masked = choose_chunks(chunks, torch.full(chunks.row.shape, p), 0, DRAW)
        assert not (masked & ~chunks.loss_mask).any(), "a question is never masked"
        assert not (before & ~masked).any(), "what is masked at a smaller ratio stays masked"
        for e in range(31):
            mine = chunks.candidates & (chunks.example == e)
            if mine.sum() >= 2:
                assert 1 <= (masked & mine).sum() < mine.sum()
        before = masked
    alone = chunks.example == 30  # a single chunk: with probability p
    assert not choose_chunks(chunks, torch.zeros(chunks.row.shape), 0, DRAW)[alone].any()
    assert choose_chunks(chunks, torch.ones(chunks.row.shape), 0, DRAW)[alone & chunks.loss_mask].all()


def test_masks_follow_the_ratio_and_the_epoch_not_the_packing(ready):
    method, _ = ready(mask_ratio=0.3)
    examples = make_examples([[7, 80]] * 40)
    whole = method.corrupt(make_batch(examples, [list(range(40))], 0, 2), 0.0, DRAW)
    part, of = whole.shares["masked_chunk_share"]
    assert abs(part / of - 0.3) < 0.05
    alone = [method.corrupt(make_batch(examples, [[i]], 0, 2), 0.0, DRAW).batch.input_ids for i in range(40)]
    assert torch.equal(torch.cat(alone, 1), whole.batch.input_ids)
    other = method.corrupt(make_batch(examples, [list(range(40))], 1, 2), 0.0, DRAW)
    assert not torch.equal(other.batch.input_ids, whole.batch.input_ids)


def test_a_part_of_a_chunk(ready):
    """partial_fill masks some tokens of the same chunks, at least one of each; labels stay; counts are known."""
    examples = make_examples([[5, 50]] * 20)
    clean = make_batch(examples, [list(range(20))], 0, 2)
    (whole, _), (part, _) = ready(mask_ratio=0.5), ready(mask_ratio=0.5, partial_fill=1.0)
    a, b = (m.corrupt(clean, 0.0, DRAW) for m in (whole, part))
    masked_a, masked_b = (c.batch.input_ids == whole.mask_id for c in (a, b))
    assert not (masked_b & ~masked_a).any()
    assert 0.3 < masked_b.sum() / masked_a.sum() < 0.8
    assert a.counts["masked"] == b.counts["masked"]
    layout = layout_of(b.batch)
    assert (layout.open.sum(-1)[layout.real] >= 1).all()
    assert int(layout.open.sum()) == b.counts["masked_tokens"] == int(masked_b.sum())
    assert torch.equal(b.batch.labels, clean.labels)


def test_half_of_the_partly_masked_chunks_are_filled_prefixes(ready):
    """By default; a prefix has at least one token, and at least one token after it is masked."""
    examples = make_examples([[5, 80]] * 40)
    clean = make_batch(examples, [list(range(40))], 0, 2)
    method, _ = ready(mask_ratio=0.5, partial_fill=1.0, filled_prefixes=1.0)
    layout = layout_of(method.corrupt(clean, 0.0, DRAW).batch)
    open_, slots = layout.open[layout.real], layout.slots[layout.real]
    whole = slots.all(-1)
    assert open_[whole][:, -1].all()
    assert not open_[whole][:, 0].any()
    assert (open_.long().diff(dim=-1)[whole] >= 0).all()  # masked from some token to the end
    assert {1, 2, 3} == set(open_[whole].sum(-1).tolist())
    mixed, _ = ready(mask_ratio=0.5, partial_fill=1.0, filled_prefixes=0.5)
    layout = layout_of(mixed.corrupt(clean, 0.0, DRAW).batch)
    open_ = layout.open[layout.real & layout.slots.all(-1)]
    is_prefix = (open_.long().diff(dim=-1) >= 0).all(-1) & ~open_[:, 0]
    assert 0.5 < is_prefix.float().mean() < 0.85  # random parts may look like one
    assert (ChunkRefineConfig().partial_fill, ChunkRefineConfig().filled_prefixes) == (0.5, 0.5)
    assert ChunkRefineConfig().supervise == "every_step"


def test_a_loss_is_told_with_its_floors(ready):
    """Counting the training's tokens, and the backbone's own loss at the first open slot, whose state is exact."""
    examples = make_examples([[5, 50]] * 4)
    method, model = ready(mask_ratio=0.5)
    method.check(examples)
    batch = method.corrupt(make_batch(examples, [[0, 1, 2, 3]], 0, 2), 0.0, DRAW).batch
    metrics = method.loss(model, batch).metrics
    layout = layout_of(batch)
    labels = at(batch.labels, layout.columns)
    tokens = torch.from_numpy(examples.tokens[examples.loss_mask].astype("int64"))
    counts = torch.bincount(tokens, minlength=method.mask_id + 1) + 1.0
    unigram = first = 0.0
    hidden = at(method.states(model, batch), layout.columns)
    for row, chunk in layout.real.nonzero().tolist():
        slots = layout.open[row, chunk].nonzero()[:, 0]
        true_ids = labels[row, chunk, slots]
        unigram -= float((counts[true_ids] / counts.sum()).log().mean())
        logits = model.get_output_embeddings()(hidden[row, chunk, slots[0]])[: method.vocab_size]
        first += float(torch.nn.functional.cross_entropy(logits[None], true_ids[:1]))
    assert float(metrics["masked_loss_unigram"][0]) == pytest.approx(unigram, rel=1e-4)
    assert float(metrics["first_slot_loss"][0]) == pytest.approx(first, rel=1e-4)
    assert len(method.unigram) > int(examples.tokens.max())
    rare, _ = ready()
    rare.mask_id = 3  # a reserved token of the tokenizer's own, with a low id
    rare.check(examples)
    assert len(rare.unigram) >= rare.tokenizer_size


def test_without_steps_the_backbones_states_are_read(ready):
    method, model = ready(max_steps=0, supervise="every_step")
    batch = method.corrupt(make_batch(make_examples([[5, 50]] * 4), [[0, 1, 2, 3]], 0, 2), 0.0, DRAW).batch
    metrics = method.loss(model, batch).metrics
    assert float(metrics["masked_loss"][0]) == pytest.approx(float(metrics["masked_loss_before"][0]), rel=1e-4)
    ChunkRefineConfig(max_steps=0).check(ModelConfig())


def test_a_head_that_is_told_nothing_is_warned_of(ready):
    blind, _ = ready(hidden="embedding", context="none")
    assert any("told nothing of the question" in line for line in blind.facts())
    assert not any("WARNING" in line for line in ready(hidden="embedding")[0].facts())


# ---- causality ------------------------------------------------------------------------------------------------------


def predictions(method: ChunkRefine, model, clean) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [R, T, V] of every position, the head's where it predicts a masked token, and where that is."""
    done = method.corrupt(clean, 0.0, DRAW).batch
    layout = layout_of(done)
    with torch.no_grad():
        hidden = method.states(model, done)
        refined, _ = method.refine(model, hidden, layout)
        states, where = hidden.clone(), torch.zeros(hidden.shape[:2], dtype=torch.bool)
        row = torch.arange(len(hidden))[:, None, None].expand_as(layout.columns)
        states[row[layout.open], layout.columns[layout.open]] = refined.hidden[layout.open]
        where[row[layout.open], layout.columns[layout.open]] = True
        return model.get_output_embeddings()(states), where


@pytest.mark.parametrize("hidden", ["backbone", "embedding"])
@pytest.mark.parametrize("context", ["causal", "none"])
@pytest.mark.parametrize("early_stop", ["eval", "never"])
def test_no_prediction_sees_its_token_or_a_later_one(ready, hidden, context, early_stop):
    method, model = ready(hidden=hidden, context=context, early_stop=early_stop, mask_ratio=0.4)
    examples = make_examples([[5, 18], [3, 9]])
    clean = make_batch(examples, [[0, 1]], 0, 2)
    before, refined_at = predictions(method, model, clean)
    masked = method.corrupt(clean, 0.0, DRAW).batch.input_ids[0] == method.mask_id
    assert masked.any()
    changed_refined = False
    for k in range(23):  # all tokens of the first example, the prompt's too
        other = make_batch(examples, [[0, 1]], 0, 2)
        other.input_ids[0, k] = 301 + k
        if k:
            other.labels[0, k - 1] = 301 + k
        after, _ = predictions(method, model, other)
        if masked[k]:
            assert torch.equal(before, after), f"token {k} is masked: nothing may show it"
            continue
        assert torch.equal(before[0, :k], after[0, :k]), f"token {k} changes a prediction at or before it"
        assert torch.equal(before[0, 23:], after[0, 23:]), "another example of the row"
        assert not torch.equal(before[0, k], after[0, k])
        changed_refined |= bool((before != after).any(-1)[refined_at].any())
    assert changed_refined, "the head reads what lies in front of a chunk"


def test_context_carries_the_question_to_the_embedding_head(ready):
    """Without the backbone only attention to earlier chunks can tell a masked chunk what the question was."""
    examples = make_examples([[9, 12]])
    for context, sees in (("causal", True), ("none", False)):
        method, model = ready(hidden="embedding", context=context, mask_ratio=1.0)
        before, refined_at = predictions(method, model, make_batch(examples, [[0]], 0, 2))
        other = make_batch(examples, [[0]], 0, 2)
        other.input_ids[0, 2] = 5
        after, _ = predictions(method, model, other)
        assert bool((before != after).any(-1)[refined_at].any()) == sees


# ---- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["frozen", "trained"])
@pytest.mark.parametrize("supervise", ["last", "every_step"])
def test_the_loss_by_hand(ready, backbone, supervise):
    """A loop over chunks gives the same sums: weight x mean cross entropy of each, and the confidence's."""
    method, model = ready(
        backbone=backbone, supervise=supervise, mask_ratio=0.4, partial_fill=0.5, deep_supervision_weight=0.7
    )
    model.train()
    done = method.corrupt(make_batch(make_examples([[5, 18], [3, 9], [4, 30]]), [[0, 1], [2]], 0, 2), 0.0, DRAW)
    losses = method.loss(model, done.batch)
    layout = layout_of(done.batch)
    hidden = method.states(model, done.batch)
    refined, came_in = method.refine(model, hidden, layout)
    head = model.get_output_embeddings()
    labels = at(done.batch.labels, layout.columns)
    total = doubt = before = 0.0
    for r, m in layout.real.nonzero().tolist():
        there = layout.open[r, m]
        wanted = labels[r, m][there]
        every = [x[r, m][there] for x in (refined.every or [refined.hidden])]
        means = [F.cross_entropy(head(x)[:, : method.vocab_size], wanted) for x in every]
        total += 1.7 * sum(means) / len(means)
        plain = head(came_in[r, m][there])[:, : method.vocab_size]
        before += F.cross_entropy(plain, wanted)
        last = head(every[-1])[:, : method.vocab_size]
        for logits, sure in ((last, refined.confidence[r, m]), (plain, refined.first_confidence[r, m])):
            right = (logits.argmax(-1) == wanted).all().float()
            doubt += F.binary_cross_entropy_with_logits(sure, right)
    chunks = find_chunks(make_batch(make_examples([[5, 18], [3, 9], [4, 30]]), [[0, 1], [2]], 0, 2), 4)
    unmasked = 0.0
    for c in range(len(chunks.row)):
        if chunks.candidates[c] and c not in layout.chunk.flatten().tolist():
            r, first = int(chunks.row[c]), int(chunks.first[c])
            where = slice(first - 1, first - 1 + int(chunks.length[c]))
            unmasked += F.cross_entropy(head(hidden[r, where])[:, : method.vocab_size], done.batch.labels[r, where])
    expected = total + unmasked if backbone == "trained" else total
    torch.testing.assert_close(losses.sums["chunk"], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.sums["confidence"], doubt, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.metrics["unmasked_loss"][0], unmasked.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.metrics["masked_loss_before"][0], before.detach(), rtol=1e-5, atol=1e-5)
    masked = int(layout.real.sum())
    assert done.counts["masked"] == masked
    assert done.counts["chunk"] == masked + (done.counts["unmasked"] if backbone == "trained" else 0)
    (losses.sums["chunk"] + losses.sums["confidence"]).backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(n.startswith("model.") for n in moved) == (backbone == "trained")


def test_confidence_is_a_probe(ready):
    """Its loss trains its own layer and nothing else."""
    method, model = ready()
    done = method.corrupt(make_batch(make_examples([[5, 18]]), [[0]], 0, 2), 0.0, DRAW)
    method.loss(model, done.batch).sums["confidence"].backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"refine_head.confidence.weight", "refine_head.confidence.bias"}


def test_sure_chunks_are_left_alone(ready):
    method, model = ready(refine_low_confidence_only=True)
    done = method.corrupt(make_batch(make_examples([[5, 18]]), [[0]], 0, 2), 0.0, DRAW)
    for bias, weight in ((50.0, 1.0), (-50.0, 1.3)):
        model.refine_head.confidence.bias.data.fill_(bias)
        metrics = method.loss(model, done.batch).metrics
        assert float(metrics["chunk_weight"][0]) / done.counts["masked"] == pytest.approx(weight)
        same = float(metrics["masked_loss"][0]) == float(metrics["masked_loss_before"][0])
        assert same == (weight == 1.0)


def test_a_batch_without_chunks_still_runs_the_head(ready):
    """Under ZeRO-3 a rank with nothing left has to run the same modules."""
    method, model = ready()
    done = method.corrupt(make_batch(make_examples([[5, 18]]), [], 0, 2), 0.0, DRAW)
    losses = method.loss(model, done.batch)
    total = losses.sums["chunk"] + losses.sums["confidence"]
    assert total.item() == 0.0
    total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.refine_head.parameters())


def test_the_head_learns_to_fill_a_chunk(ready):
    """Responses that repeat one token: the head of a frozen backbone gets from chance to nearly all right."""
    method, model = ready(mask_ratio=0.5)
    examples = make_examples([[4, 16]] * 8)
    for i in range(8):
        examples.tokens[20 * i : 20 * (i + 1)] = 40 + i
    batch = make_batch(examples, [list(range(8))], 0, 2)
    model.train()
    optimizer = torch.optim.AdamW(model.refine_head.parameters(), lr=3e-3)
    for step in range(40):
        batch.epoch = step
        done = method.corrupt(batch, 0.0, DRAW)
        losses = method.loss(model, done.batch)
        (sum(losses.sums.values()) / done.counts["masked"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        accuracy = float(losses.metrics["token_accuracy"][0]) / done.counts["masked_tokens"]
        mean_loss = float(losses.metrics["masked_loss"][0]) / done.counts["masked"]
    assert accuracy > 0.8
    assert mean_loss < 0.5 * float(losses.metrics["masked_loss_before"][0]) / done.counts["masked"]


# ---- the head -------------------------------------------------------------------------------------------------------

SETTINGS = HeadSettings(hidden_size=96, mask_id=0, mask_token="m", width=64, heads=4, chunk_size=16)


def inputs(settings: HeadSettings, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    hidden = 3 * torch.randn(2, 5, settings.chunk_size, settings.hidden_size, generator=g)
    return hidden, torch.ones(2, 5, settings.chunk_size, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)


def test_the_same_seed_gives_the_same_head():
    torch.manual_seed(1)
    first = RefineHead(SETTINGS, 3).state_dict()
    torch.rand(100)
    again, other = RefineHead(SETTINGS, 3).state_dict(), RefineHead(SETTINGS, 4).state_dict()
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["proj.weight"], other["proj.weight"])


@pytest.mark.parametrize("context", ["causal", "none"])
def test_the_planned_number_of_parameters(context):
    settings = HeadSettings(hidden_size=96, mask_id=0, mask_token="m", width=64, heads=4, layers=3, context=context)
    assert count_parameters(settings) == sum(p.numel() for p in RefineHead(settings).parameters())


@pytest.mark.parametrize("context", ["causal", "none"])
def test_recursion_really_happens(context):
    """A fresh head moves z: the first cosines lie well under the threshold, and chunks take more than the least steps."""
    from dataclasses import replace

    settings = replace(SETTINGS, context=context, width=128)
    head = RefineHead(settings, 3).eval()
    hidden, slots, real = inputs(settings)
    empty = torch.zeros(2, 0, 16, 128)
    around = Context(
        empty, empty[..., 0].bool(), torch.zeros(2, 5, 0).bool(), torch.ones(5, 5).tril(-1).bool()[None].expand(2, 5, 5)
    )
    with torch.no_grad():
        came_in = hidden / hidden.pow(2).mean(-1, keepdim=True).sqrt()
        z0 = head.look(came_in, came_in, slots, around)
        gate, up = head.swiglu(z0).chunk(2, -1)
        moved = came_in + 0.1 * head.proj(F.silu(gate) * up)
        assert cosine(z0, head.look(moved, came_in, slots, around), slots).max() < 0.99
        assert (moved - came_in).pow(2).mean().sqrt() < 0.1, "and does not spoil what came in"
        steps = head(hidden, slots, real, around, early=True).steps
    assert steps.float().mean() >= settings.min_steps + 1
    assert steps.max() <= settings.max_steps


def test_a_stopped_chunk_stays_as_it_is():
    from dataclasses import replace

    settings = replace(SETTINGS, context="none", threshold=0.05)
    head = RefineHead(settings, 3).eval()
    hidden, slots, real = inputs(settings)
    with torch.no_grad():
        stopped = head(hidden, slots, real, None, early=True)
        all_steps = head(hidden, slots, real, None, early=False, keep=True)
        shorter = head(hidden, slots, real, None, early=True, alone=True)
    assert torch.equal(stopped.hidden, shorter.hidden)
    assert torch.equal(stopped.steps, all_steps.steps)
    assert 2 <= int(stopped.steps.min()) < settings.max_steps
    for r, m in real.nonzero().tolist():
        expected = all_steps.every[int(stopped.steps[r, m]) - 1][r, m]
        torch.testing.assert_close(stopped.hidden[r, m], expected, rtol=1e-5, atol=1e-5)


# ---- backbones and files --------------------------------------------------------------------------------------------


def test_bidirectional_backbones_are_refused():
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(UserError, match="bidirectional"):
        refuse_bidirectional(BertLMHeadModel(config))


def test_the_head_in_its_folder(ready, tmp_path):
    method, model = ready()
    (where, names), *none = method.extra_files(model).items()
    assert not none
    tensors = model.state_dict()
    method.write_extra_files(tmp_path / where, {n: tensors[n] for n in names})
    again = read_head(tmp_path)
    assert again.settings == read_settings(tmp_path) == method.settings
    assert all(torch.equal(t, tensors[f"refine_head.{n}"]) for n, t in again.state_dict().items())
    with pytest.raises(UserError, match="another shape"):
        read_head(tmp_path, into=RefineHead(SETTINGS))
    with pytest.raises(UserError, match="there is none"):
        read_settings(tmp_path / "missing")


def test_a_run_goes_on_from_an_exported_head(ready, tmp_path, tokenizer):
    method, model = ready()
    torch.nn.init.normal_(model.refine_head.proj.weight)
    (where, names), *_ = method.extra_files(model).items()
    method.write_extra_files(tmp_path / where, {n: model.state_dict()[n] for n in names})
    second = ChunkRefine(ChunkRefineConfig(**SMALL))
    second.prepare(tokenizer)
    _, fresh = ready()
    fresh.config._name_or_path = str(tmp_path)
    second.adapt(fresh, tokenizer)
    assert torch.equal(fresh.refine_head.proj.weight, model.refine_head.proj.weight)
    assert any("continued" in line for line in second.facts())


def test_samples_hold_predicted_and_true_text(ready, tokenizer):
    method, model = ready(mask_ratio=0.5)
    batch = make_batch(make_examples([[5, 18]]), [[0]], 0, 2)
    rows = method.sample(model, batch, tokenizer, DRAW)["masked_chunks"]
    done = method.for_validation(batch, DRAW)
    assert len(rows) == done.counts["masked"] >= 1
    assert rows[0].keys() == {"chunk", "loss", "weight", "steps", "confidence", "predicted", "true"}
    first = int(find_chunks(batch, 4).first[find_chunks(batch, 4).loss_mask][rows[0]["chunk"]])
    assert rows[0]["true"] == tokenizer.decode(batch.input_ids[0, first : first + 4])
    chunks = f"masked chunks {[r['chunk'] for r in rows]} of 5 (of 4 tokens, counted from 0)"
    assert method.describe(done) == f"{chunks}, only these are trained"


def test_hidden_states_of_the_backbone_are_those_of_the_masked_ids(ready):
    method, model = ready()
    done = method.corrupt(make_batch(make_examples([[5, 18]]), [[0]], 0, 2), 0.0, DRAW).batch
    with torch.no_grad():
        assert torch.equal(method.states(model, done), hidden_states(model, **model_inputs(done)))
