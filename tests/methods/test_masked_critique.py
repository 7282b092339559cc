"""Masked critique against its definition: which labels go, what the two format terms see, and which of them trains."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mft_cli.answers.critique_format import TAGS, has_format
from mft_cli.data.pack import IGNORE, Batch, make_batch
from mft_cli.methods.masked_critique import MaskedCritique
from mft_cli.models.kernels.attention import packed_kwargs
from mft_cli.rng import Draw
from mft_cli.train.loop import Trainer
from tests.methods.test_contract import make_trainer, settings
from tests.support.tiny import critiques, data_of, mft, tiny_overrides


@pytest.fixture
def trainer(tiny_model, problem_file, tmp_path) -> Trainer:
    return make_trainer(settings(tiny_model, problem_file, "masked_critique", {}, tmp_path))


def with_settings(trainer: Trainer, **changes: object) -> MaskedCritique:
    made = MaskedCritique(replace(trainer.method.config, **changes))
    made.prepare(trainer.method.tokenizer)
    made.adapt(trainer.engine.model, trainer.method.tokenizer)
    return made


def batch_of(trainer: Trainer, examples: list[int], epoch: int = 0) -> Batch:
    return make_batch(trainer.train, [examples], epoch, trainer.pad_id)


def spans_by_text(tokens: list[str], name: str) -> list[int]:
    """Positions between <name> and </name>, found by walking the tokens: the reference."""
    inside, found = False, []
    for i, token in enumerate(tokens):
        if token == f"</{name}>":
            inside = False
        if inside:
            found.append(i)
        if token == f"<{name}>":
            inside = True
    return found


@pytest.mark.parametrize("spans", [["critique"], ["think"], ["reasoning", "critique"], ["think", "reasoning"]])
@pytest.mark.parametrize("skip", [0, 5, 10_000])
def test_labels_go_inside_the_spans_behind_their_first_tokens(trainer, spans, skip):
    made = with_settings(trainer, mask_ratio=1.0, spans=spans, skip_first=skip)
    clean = batch_of(trainer, [0, 1, 2])
    done = made.corrupt(clean, 0.0, Draw(1))
    assert torch.equal(done.batch.input_ids, clean.input_ids)
    at = 0
    for length in clean.lengths[0][:3]:
        tokens = made.tokenizer.convert_ids_to_tokens(clean.input_ids[0, at : at + length].tolist())
        wanted = set()
        for name in spans:
            wanted |= {i for i in spans_by_text(tokens, name)[skip:] if tokens[i] not in TAGS}
        for name in spans:  # the first tokens of every span are trained on, also where it lies inside another one
            wanted -= set(spans_by_text(tokens, name)[:skip])
        lost = (clean.labels != IGNORE) & (done.batch.labels == IGNORE)
        found = {j + 1 for j in range(length) if bool(lost[0, at + j])}
        assert found == wanted
        assert skip > 5 or wanted
        at += length


def test_share_redraw_and_nesting(trainer):
    every = list(range(len(trainer.train)))
    made = with_settings(trainer, mask_ratio=0.3)
    first, candidates = made.choose(batch_of(trainer, every), Draw(1))
    n = int(candidates.sum())
    assert abs(int(first.sum()) / n - 0.3) < 4 * math.sqrt(0.21 / n)
    again = made.choose(batch_of(trainer, every, epoch=1), Draw(1))[0]
    assert not torch.equal(first, again)
    fixed = with_settings(trainer, mask_ratio=0.3, redraw=False)
    assert torch.equal(
        fixed.choose(batch_of(trainer, every), Draw(1))[0], fixed.choose(batch_of(trainer, every, epoch=1), Draw(1))[0]
    )
    larger = with_settings(trainer, mask_ratio=0.6).choose(batch_of(trainer, every), Draw(1))[0]
    assert bool((first <= larger).all())


GOOD = r"<think><critique>a</critique><reasoning>b</reasoning></think><ans>\boxed{%s}</ans>"


@pytest.mark.parametrize(
    ("text", "loose", "strict"),
    [
        (GOOD % "7", True, True),
        (GOOD % "-7", True, True),
        (GOOD % r"\frac{1}{2}", True, False),
        (GOOD % "x + 1", True, False),
        ((GOOD % "7").replace(" ", "\n") + "<|end|>", True, True),
        ((GOOD % "7").replace(r"\boxed{7}", "7"), False, False),
        ((GOOD % "7").replace("</critique>", ""), False, False),
        ((GOOD % "7").replace("a", ""), False, False),
        ("7", False, False),
        ((GOOD % "7").removesuffix("</ans>"), False, False),
    ],
)
def test_format_reward(text, loose, strict):
    assert has_format(text) is loose
    assert has_format(text, strict=True) is strict


def test_the_loss_is_that_of_the_definition(trainer):
    """Cross entropy over kept labels, over tags and answer, and the reward, from whole logits."""
    made = with_settings(trainer, format_term="tag_likelihood", mask_ratio=0.5, skip_first=0)
    done = made.corrupt(batch_of(trainer, [0, 1]), 0.0, Draw(1))
    model = trainer.engine.model.eval()
    losses = made.loss(model, done.batch)
    ce = tags = 0.0
    n_ce = n_tags = reward = at = 0
    for length in done.batch.lengths[0][:2]:
        ids, labels = done.batch.input_ids[:, at : at + length], done.batch.labels[0, at : at + length]
        whole = done.batch.extra["labels"][0, at : at + length]
        with torch.no_grad():
            logits = model(input_ids=ids, **packed_kwargs([[length]], None)).logits[0].float()
        log_p = logits.log_softmax(-1)
        tokens = made.tokenizer.convert_ids_to_tokens(ids[0].tolist())
        answer = spans_by_text(tokens, "ans")
        for j in range(length - 1):
            if labels[j] != IGNORE:
                ce -= float(log_p[j, labels[j]])
                n_ce += 1
            if whole[j] != IGNORE and (tokens[j + 1] in TAGS or j + 1 in answer):
                tags -= float(log_p[j, whole[j]])
                n_tags += 1
        reward += has_format(made.tokenizer.decode(logits.argmax(-1)[whole != IGNORE]))
        at += length
    assert done.counts == {"ce": n_ce, "tags": n_tags, "examples": 2, "format": n_tags}
    assert float(losses.sums["ce"]) == pytest.approx(ce, rel=1e-5)
    assert float(losses.sums["format"]) == pytest.approx(tags, rel=1e-5)
    assert float(losses.metrics["tag_loss"][0]) == pytest.approx(tags, rel=1e-5)
    numbers, count = losses.on_host
    assert count(numbers.tolist()) == ({}, {"format_reward": (reward, "examples")})


def test_the_reward_counts_what_the_argmax_says(trainer):
    done = trainer.method.corrupt(batch_of(trainer, [0, 1, 2]), 0.0, Draw(1))
    document, predicted = done.batch.extra["document"].tolist(), done.batch.extra["labels"]
    predicted = predicted[predicted != IGNORE]
    right = {"format": 0.0}, {"format_reward": (3.0, "examples")}
    assert trainer.method.reward(document + predicted.tolist()) == right  # a model that is always right
    predicted[(predicted == trainer.method.closes["ans"]).nonzero()[1]] = 5
    assert trainer.method.reward(document + predicted.tolist()) == (
        {"format": 1.0},
        {"format_reward": (2.0, "examples")},
    )


def test_labels_of_the_prompt_are_no_part_of_the_reward(trainer):
    """data.sources.<name>.loss_on=everything: every token has a label."""
    batch = batch_of(trainer, [0, 1, 2])
    labels = torch.full_like(batch.labels, IGNORE)
    labels[:, :-1] = torch.where(batch.positions[:, 1:] > 0, batch.input_ids[:, 1:], labels[:, :-1])
    made = with_settings(trainer, mask_ratio=0.0)
    done = made.corrupt(replace(batch, labels=labels, loss_mask=batch.real), 0.0, Draw(1))
    document, predicted = done.batch.extra["document"].tolist(), labels[labels != IGNORE]
    assert done.counts["ce"] == len(predicted) > int((batch.labels != IGNORE).sum())
    assert made.reward(document + predicted.tolist()) == ({"format": 0.0}, {"format_reward": (3.0, "examples")})


def test_which_format_term_moves_weights(trainer):
    """Alone (the cross entropy's weight 0), tag_likelihood gives gradients and argmax_reward gives none."""
    done = with_settings(trainer, format_term="tag_likelihood").corrupt(batch_of(trainer, [0, 1]), 0.0, Draw(1))
    model = trainer.engine.model.train()
    losses = with_settings(trainer, format_term="tag_likelihood").loss(model, done.batch)
    gradients = torch.autograd.grad(losses.sums["format"], list(model.parameters()), allow_unused=True)
    assert all(g is not None and float(g.abs().sum()) > 0 for g in gradients)
    losses = with_settings(trainer, format_term="argmax_reward").loss(model, done.batch)
    assert losses.sums.keys() == {"ce"}
    numbers, count = losses.on_host
    assert count(numbers.tolist())[0] == {"format": 2.0}  # an untrained model has the format nowhere


def test_beta_moves_the_loss_but_not_the_weights_with_the_argmax_reward(tiny_model, problem_file, tmp_path):
    found = {}
    for term in ("argmax_reward", "tag_likelihood"):
        for beta in (0.0, 2.0):
            changes = {"format_term": term, "beta": beta}
            one = make_trainer(
                settings(
                    tiny_model,
                    problem_file,
                    "masked_critique",
                    changes,
                    tmp_path / f"{term}{beta}",
                    warmup_fraction=0.0,
                )
            )
            result = one.step(0)
            found[term, beta] = result, [p.detach().clone() for p in one.engine.model.parameters()]

    def same(term: str) -> bool:
        pairs = zip(found[term, 0.0][1], found[term, 2.0][1], strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    assert same("argmax_reward")
    assert not same("tag_likelihood")
    for term in ("argmax_reward", "tag_likelihood"):
        result = found[term, 2.0][0]
        assert result.loss == pytest.approx(result.terms["ce"] + 2 * result.terms["format"])
        assert {"format_reward", "tag_loss", "tag_accuracy"} <= result.metrics.keys()


def test_rows_without_the_format_are_refused(tiny_model, problem_file, tmp_path):
    rows = critiques(12)
    rows[7]["critique"] = rows[7]["critique"].replace("</reasoning>", "")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    run = command(tiny_model, problem_file, tmp_path, path=file)
    assert run.returncode == 2
    assert "1 of 10 responses do not have the tags" in run.stderr
    assert f"{file}:8" in run.stderr


def test_csv_from_the_command_line(tiny_model, problem_file, tmp_path):
    """The published form: a CSV with prompt, critique and answer_match; the tags are in the export's tokenizer."""
    import csv

    from transformers import AutoTokenizer

    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, ["prompt", "critique", "answer_match"])
        writer.writeheader()
        writer.writerows(critiques(20))
    run = command(tiny_model, problem_file, tmp_path, path=file)
    assert run.returncode == 0, run.stderr
    assert "16 rows from" in run.stdout
    assert "4 left out by keep_if" in run.stdout
    words = AutoTokenizer.from_pretrained(tmp_path / "run" / "export")
    assert [words.convert_tokens_to_ids(t) for t in TAGS] == list(range(len(words) - 8, len(words)))
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"loss/ce", "loss/format", "format_reward", "tag_accuracy", "masked_share"} <= row.keys()
    shown = mft("data", "show", *arguments(tiny_model, problem_file, file), cwd=tmp_path)
    assert "⟨" in shown.stdout, shown.stderr


def arguments(model: Path, data: Path, path: Path) -> list[str]:
    source = data_of("masked_critique", data)
    more = {f"data.sources.local.{k}": v for k, v in source.items() if k not in ("path", "keep_if")}
    changes = {"method": "masked_critique", "method.mask_ratio": 0.5, **more, "data.sources.local.path": path}
    return [*tiny_overrides(model, data, **changes), "data.sources.local.keep_if={answer_match: true}"]


def command(model: Path, data: Path, folder: Path, path: Path):
    return mft("train", *arguments(model, data, path), f"run_dir={folder / 'run'}", cwd=folder)


@pytest.mark.parametrize(("answer", "strict", "reward"), [("7", True, 1), ("1/2", False, 1), ("1/2", True, 0)])
def test_a_strict_format_rewards_integers_alone(trainer, answer, strict, reward):
    made = with_settings(trainer, strict_format=strict)
    text = f"<think><critique>C</critique><reasoning>R</reasoning></think><ans>\\boxed{{{answer}}}</ans>"
    ids = made.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert made.reward([0] * len(ids) + ids)[1] == {"format_reward": (float(reward), "examples")}
