"""One contract for every method: what it trains, split and packing invariance, resume, export."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mft_cli.cli.data_show import legend_of
from mft_cli.config import compose as config
from mft_cli.config import load, schema, validate
from mft_cli.config.schema.methods import SftConfig
from mft_cli.console import Log
from mft_cli.data.pack import IGNORE
from mft_cli.methods import make
from mft_cli.run_dir import RunDir
from mft_cli.signals import StopSignal
from mft_cli.train.loop import Trainer
from mft_cli.train.run import train
from mft_cli.train.setup import assemble
from tests.support.tiny import data_of, problems

# Presets that are no other case here: those of mask_finetune differ in the layers alone, which a model of two layers does
# not have; noises and NEFTune are among the variants below.
NO_OTHER_CASE = re.compile(
    r"mask_finetune_.*|masked_thought_(dropout|neftune|model_sample|mixup)|masked_critique_document"
)
METHODS = sorted(p.stem for p in (config.CONF / "method").glob("*.yaml") if not NO_OTHER_CASE.fullmatch(p.stem))
REQUIRED = {"mask_finetune": {"layers": "0-1"}}  # keys without a default
# Which weights are removed is a discontinuous function of the scores: rounding errors of two runs grow. So these methods
# are compared step by step, each from the same state.
DISCONTINUOUS = ("mask_finetune",)
CORRUPTS_NOTHING = ("sft", "mask_finetune")
SMALL = {"width": 32, "heads": 4, "layers": 1, "max_steps": 3, "chunk_size": 8}
SAMPLED = {"noise": "model_sample", "schedule": "constant"}
VARIANTS = {
    "mask_finetune": [{}, {"selection": "global", "layers": None}, {"mask_ratio": {"attention": 0.3, "mlp": 0.05}}],
    "chunk_refine": [
        SMALL,
        {**SMALL, "backbone": "trained", "partial_fill": 0.5, "supervise": "every_step", "early_stop": "never"},
        {**SMALL, "hidden": "embedding", "context": "none", "refine_low_confidence_only": True, "early_stop": "always"},
    ],
    "masked_thought": [
        {}, {"granularity": "span"}, {"granularity": "step"}, {"random_fraction": 0.5}, {"schedule": "uniform"},
        {"target": "both", "schedule": "constant"}, {"drop_attention": True, "schedule": "constant"},
        {"noise": "dropout", "schedule": "constant", "dropout_rate": 0.5},
        {"noise": "neftune", "schedule": "constant"},
        SAMPLED,
        {"noise": "mixup", "schedule": "constant"},
    ],
    "masked_critique": [
        {}, {"format_term": "tag_likelihood", "neftune_alpha": 5.0},
        {"spans": ["think"], "redraw": False, "mask_ratio": 0.5, "skip_first": 0},
    ],
}  # fmt: skip
VARIANTS["chunk_refine_document"] = [SMALL]
FIRST = {m: VARIANTS.get(m, [{}])[0] for m in METHODS}
CASES = [(m, v) for m in METHODS for v in VARIANTS.get(m, [{}])]


def settings(
    model: Path, data: Path, method: str, variant: dict, run_dir: Path, **train_keys: object
) -> schema.TrainConfig:
    import yaml

    preset = yaml.safe_load((config.CONF / "method" / f"{method}.yaml").read_text())
    return load.train_config(
        {
            "seed": 3, "run_dir": str(run_dir), "model": {"path": str(model)}, "method": {**preset, **REQUIRED.get(method, {}), **variant},
            "data": {
                "name": "tiny", "sources": {"tiny": data_of(method, data)}, "max_length": 256,
                "validation": {"rows": 4},
            },
            "train": {
                "global_batch_size": 8, "max_steps": 4, "learning_rate": 0.01, "precision": "fp32", "row_length": 256,
                **train_keys,
            },
            "launch": {"threads": 1, "device": "cpu"},
        }
    )  # fmt: skip


def make_trainer(settings_: schema.TrainConfig) -> Trainer:
    run = RunDir(settings_.run_dir)
    run.root.mkdir(parents=True, exist_ok=True)
    return assemble(run, settings_, StopSignal(), Log(run.log)).trainer


def trained(trainer: Trainer) -> dict[str, torch.Tensor]:
    """What a step starts from besides the optimizer: trained parameters and buffers."""
    return {n: t.detach().clone() for n, t in state_tensors(trainer).items()}


@torch.no_grad()
def set_trained(trainer: Trainer, state: dict[str, torch.Tensor]) -> None:
    for name, tensor in state_tensors(trainer).items():
        tensor.copy_(state[name])


def state_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**{n: trainer.engine.master(n) for n in trainer.engine.named}, **dict(trainer.engine.model.named_buffers())}


LAYOUTS = [
    {"packing": True, "micro_batch_size": 1},
    {"packing": True, "micro_batch_size": 3},
    {"packing": True, "micro_batch_size": 1, "row_length": 1024},
    {"packing": False, "micro_batch_size": 1},
    {"packing": False, "micro_batch_size": 8},
    {"packing": True, "micro_batch_size": 1, "gradient_checkpointing": True},
    {"packing": True, "micro_batch_size": 1, "logits_chunk": 7},
]


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_layout_changes_the_speed_never_the_number(tiny_model, problem_file, tmp_path, method, variant):
    """Same examples, masked positions, loss terms and gradient norm for any split, packed or not."""
    results, states = [], []
    for i, layout in enumerate(LAYOUTS):
        trainer = make_trainer(settings(tiny_model, problem_file, method, variant, tmp_path / str(i), **layout))
        found = []
        for k in range(3):
            if i == 0:
                states.append(trained(trainer))
            elif method in DISCONTINUOUS:
                set_trained(trainer, states[k])
            found.append(trainer.step(k))
        results.append(found)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.examples == b.examples
            assert a.counts == b.counts
            assert a.shares == b.shares
            assert b.loss == pytest.approx(a.loss, rel=1e-5)
            assert b.norm == pytest.approx(a.norm, rel=1e-5)
            assert b.terms == pytest.approx(a.terms, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_step_moves_only_what_should_move(tiny_model, problem_file, tmp_path, method):
    trainer = make_trainer(settings(tiny_model, problem_file, method, FIRST[method], tmp_path, warmup_fraction=0.0))
    trained = {n for g in trainer.method.param_groups(trainer.engine.model) for n, _ in g["params"]}
    before = {n: p.detach().clone() for n, p in trainer.engine.model.named_parameters()}
    result = trainer.step(0)
    assert result.applied
    moved = {n for n, p in trainer.engine.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == trained


@pytest.mark.parametrize(("method", "variant"), [*FIRST.items(), ("masked_thought", SAMPLED)])
def test_resumed_equals_uninterrupted(tiny_model, problem_file, tmp_path, method, variant):
    whole = settings(tiny_model, problem_file, method, variant, tmp_path / "whole")
    train(whole)
    cut = settings(tiny_model, problem_file, method, variant, tmp_path / "cut")
    trainer = make_trainer(cut)
    config_file = RunDir(cut.run_dir).config
    config_file.write_text(validate.to_yaml(cut))
    for k in range(2):
        trainer.account(trainer.step(k), 1.0)
    trainer.save()
    train(cut)
    for name in (
        "export/model.safetensors",
        "checkpoints/step-00000004/model.safetensors",
        "checkpoints/step-00000004/optimizer.safetensors",
    ):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    losses = [[json.loads(line)["loss"] for line in (tmp_path / d / "metrics.jsonl").open()] for d in ("whole", "cut")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_export_is_an_ordinary_folder_with_the_trained_logits(tiny_model, problem_file, tmp_path, method, precision):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mft_cli.data.pack import make_batch
    from mft_cli.methods.base import model_inputs
    from mft_cli.models.kernels.cross_entropy import hidden_states
    from mft_cli.train.exports import write_exports

    asked = settings(tiny_model, problem_file, method, FIRST[method], tmp_path, precision=precision)
    run = RunDir(asked.run_dir)
    ready = assemble(run, asked, StopSignal(), Log())
    ready.trainer.run_to_end()
    write_exports(ready, Log())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run.export), AutoTokenizer.from_pretrained(run.export)
    base = AutoTokenizer.from_pretrained(tiny_model)
    added = set(tokenizer.get_vocab()) - set(base.get_vocab())
    kept = set(ready.method.new_tokens) if ready.method.keep_new_tokens else set()
    if method.startswith("chunk_refine"):
        kept = {ready.method.mask_token}  # its inference needs it
    assert added == kept
    assert tokenizer.chat_template == base.chat_template
    # a method that removes weights of the base model keeps the base's bytes
    assert model.dtype == (torch.float32 if ready.method.masks_of_base() else ready.trainer.engine.dtype)
    batch = make_batch(ready.trainer.train, [[0]], 0, 2)
    trained = ready.trainer.engine.model.eval()
    with torch.no_grad():
        hidden = hidden_states(trained, **model_inputs(batch))
        expected = trained.get_output_embeddings()(hidden)[..., : len(tokenizer)].float()
        found = model(input_ids=batch.input_ids).logits.float()
    torch.testing.assert_close(
        found, expected, rtol=1e-5 if precision == "fp32" else 0.05, atol=1e-5 if precision == "fp32" else 0.05
    )
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert "contaminat" not in (run.export / "README.md").read_text().lower()


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_corruption_is_a_function_of_seed_epoch_and_example(tiny_model, problem_file, tmp_path, method, variant):
    from mft_cli.data.pack import make_batch

    trainer = make_trainer(settings(tiny_model, problem_file, method, variant, tmp_path))

    def ids(rows: list[list[int]], epoch: int = 0) -> dict[tuple[int, int], list[int]]:
        batch = make_batch(trainer.train, rows, epoch, 2)
        done = trainer.method.corrupt(batch, 1.0, trainer.draw).batch
        noise = (done.extra.get("noise_at", batch.real) * done.extra.get("noise_draws", 0))[batch.real]
        found = zip(
            batch.example[batch.real].tolist(),
            batch.positions[batch.real].tolist(),
            done.input_ids[batch.real].tolist(),
            done.labels[batch.real].tolist(),
            noise.tolist(),
            strict=True,
        )
        return {(e, p): rest for e, p, *rest in found}

    packed, alone = ids([[0, 1, 2, 3]]), {}
    for i in (3, 1, 2, 0):
        alone.update(ids([[i]]))
    assert packed == alone
    if method not in CORRUPTS_NOTHING and variant.get("redraw", True):
        assert packed != ids([[0, 1, 2, 3]], epoch=1)


def test_problems_differ_in_length():
    lengths = {len(r["answer"]) for r in problems(40)}
    assert len(lengths) > 3
    assert IGNORE == -100
    assert replace(SftConfig()) == SftConfig()


def test_a_spare_embedding_row_is_lent_and_given_back(tiny_model, problem_file, tmp_path):
    """A model with more embedding rows than words: the mask token uses one, the export has the base model's rows."""
    import shutil

    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from mft_cli.train.exports import write_exports

    wide = tmp_path / "wide"
    shutil.copytree(tiny_model, wide)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    words = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(words + 8)
    model.save_pretrained(wide)
    asked = settings(wide, problem_file, "masked_thought", {"schedule": "constant"}, tmp_path / "run")
    run = RunDir(asked.run_dir)
    ready = assemble(run, asked, StopSignal(), Log())
    assert ready.method.vocab_size is None
    ready.trainer.run_to_end()
    write_exports(ready, Log())
    before, after = (load_file(f / "model.safetensors")["model.embed_tokens.weight"] for f in (wide, run.export))
    assert after.shape == before.shape
    assert torch.equal(after[words], before[words])
    assert not torch.equal(after[:words], before[:words])


@pytest.mark.parametrize(
    ("method", "more", "legend"),
    [
        ("sft", {}, ""),
        ("mask_finetune", {}, ""),
        ("masked_thought", {}, "⟦masked in the input, still trained on⟧"),
        ("masked_thought", {"noise": "mixup"}, "⟦noise in the input, still trained on⟧"),
        ("masked_critique", {}, "⟨label dropped⟩"),
        ("chunk_refine", {}, "⟦masked in the input, predicted by the head⟧"),
    ],
)
def test_data_show_explains_the_brackets_that_can_occur(method, more, legend):
    made = make(validate.build(schema.AnyMethod, {"name": method, **more}), 1024)
    assert legend_of(made, colour=False).plain == legend
    assert legend_of(made, colour=True).plain.startswith("prompt trained on")
