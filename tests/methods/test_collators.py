"""The methods inside transformers' Trainer and TRL's SFTTrainer: the inputs, labels and first losses of `mft train`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import mft_cli
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.pack import IGNORE
from mft_cli.errors import UserError
from mft_cli.methods import weight_masks
from mft_cli.train.loop import Trainer as Loop
from tests.support.tiny import data_of
from tests.support.training import training

THOUGHT: dict[str, Any] = {"mask_ratio": 0.4, "warmup_fraction": 0.5, "mask_token": "<|endoftext|>"}
CRITIQUE: dict[str, Any] = {"mask_ratio": 0.5, "beta": 0.0}
STEPS, BATCH = 5, 16  # 40 examples: three steps an epoch, the third with 8, and two of the second epoch


def config_of(model: Path, problem_file: Path, run: Path, name: str, keys: dict[str, Any]) -> TrainConfig:
    source = {"path": str(problem_file), **data_of(name, problem_file)}
    return training(
        model, problem_file, run, method={"name": name, **keys}, data={"sources": {"local": source}, "max_length": 512},
        train={"global_batch_size": BATCH, "max_steps": STEPS, "schedule": "constant", "warmup_fraction": 0.0},
        eval={"benchmarks": {}},
    )  # fmt: skip


def losses_of(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


def arguments(kind: type[TrainingArguments], folder: Path, **more: Any) -> Any:
    return kind(
        output_dir=str(folder), per_device_train_batch_size=4, gradient_accumulation_steps=BATCH // 4, num_train_epochs=1,
        learning_rate=0.01, lr_scheduler_type="constant", weight_decay=0.0, train_sampling_strategy="sequential",
        remove_unused_columns=False, use_cpu=True, logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True,
        bf16=False, gradient_checkpointing=False, **more,
    )  # fmt: skip


class Losses(TrainerCallback):
    """The loss of every step, as it is logged."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **more: Any) -> None:
        if logs and "loss" in logs:
            self.values.append(logs["loss"])


def trained(
    trainer_class: Any, kind: Any, collator: Any, model: Any, config: TrainConfig, folder: Path, **more: Any
) -> list[float]:
    examples = mft_cli.load_examples(config).loaded.train
    order = mft_cli.TrainingOrder(examples, global_batch_size=BATCH, steps=STEPS, seed=config.seed)
    dataset = order.as_dataset() if more.pop("as_dataset", False) else order
    losses = Losses()
    callbacks = [losses, *more.pop("callbacks", [])]
    extra = {"processing_class": more.pop("tokenizer")} if "tokenizer" in more else {}
    trainer = trainer_class(
        model=model, args=arguments(kind, folder, **more), train_dataset=dataset, data_collator=collator, callbacks=callbacks,
        **extra,
    )  # fmt: skip
    trainer.train()
    return losses.values


def collator_of(
    name: str, keys: dict[str, Any], tiny_model: Path, seed: int, padding_free: bool
) -> tuple[Any, Any, Any]:
    """(collator, model, tokenizer)."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    kind = {"masked_thought": mft_cli.MaskedThoughtCollator, "masked_critique": mft_cli.MaskedCritiqueCollator}[name]
    return kind(tokenizer, model, seed=seed, padding_free=padding_free, **keys), model, tokenizer


METHODS = [("masked_thought", THOUGHT), ("masked_critique", CRITIQUE)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[TrainConfig, Path]]:
    return {}


@pytest.fixture
def run_of(tiny_model: Path, problem_file: Path, reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`mft train` of a method, once a module: (configuration, folder)."""

    def run(name: str, keys: dict[str, Any]) -> tuple[TrainConfig, Path]:
        if name not in reference:
            folder = tmp_path_factory.mktemp("reference") / name
            config = config_of(tiny_model, problem_file, folder, name, keys)
            reference[name] = (config, mft_cli.train(config))
        return reference[name]

    return run


@pytest.mark.parametrize(("name", "keys"), METHODS)
@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding-free"])
def test_transformers_trainer_has_the_losses_of_mft_train(
    name: str, keys: dict[str, Any], padding_free: bool, tiny_model: Path, run_of: Any, tmp_path: Path
):
    config, run = run_of(name, keys)
    collator, model, _ = collator_of(name, keys, tiny_model, config.seed, padding_free)
    losses = trained(Trainer, TrainingArguments, collator, model, config, tmp_path)
    assert losses == pytest.approx(losses_of(run), abs=2e-4)  # of five steps; a step ahead is another loss by 0.1
    assert losses[0] == pytest.approx(losses_of(run)[0], abs=1e-5)


@pytest.mark.parametrize(("name", "keys"), METHODS)
@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding-free"])
def test_trl_has_the_losses_of_mft_train(
    name: str, keys: dict[str, Any], padding_free: bool, tiny_model: Path, run_of: Any, tmp_path: Path
):
    trl = pytest.importorskip("trl", reason="trl is not installed (pip install --no-deps trl)")
    config, run = run_of(name, keys)
    collator, model, tokenizer = collator_of(name, keys, tiny_model, config.seed, padding_free)
    losses = trained(
        trl.SFTTrainer, trl.SFTConfig, collator, model, config, tmp_path, tokenizer=tokenizer, as_dataset=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    assert losses == pytest.approx(losses_of(run), abs=2e-4)
    assert losses[0] == pytest.approx(losses_of(run)[0], abs=1e-5)


@pytest.mark.parametrize(("name", "keys"), METHODS)
def test_batches_are_those_of_mft_train(
    name: str,
    keys: dict[str, Any],
    tiny_model: Path,
    problem_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Every example of every step: the inputs and labels that mft's loop trains on."""
    config = config_of(tiny_model, problem_file, tmp_path / "run", name, keys)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, packing=False))
    seen: dict[tuple[int, int], tuple[list[int], list[int]]] = {}

    def remember(self: Loop, batch: Any) -> None:
        for ids, labels, example, real in zip(batch.input_ids, batch.labels, batch.example, batch.real, strict=True):
            n = int(real.sum())
            seen[batch.epoch, int(example[0])] = (ids[:n].tolist(), labels[:n].tolist())

    original = Loop.__post_init__

    def watched(self: Loop) -> None:
        original(self)
        self.before_forward = lambda batch: remember(self, batch)

    monkeypatch.setattr(Loop, "__post_init__", watched)
    mft_cli.train(config)
    collator, _, _ = collator_of(name, keys, tiny_model, config.seed, False)
    examples = mft_cli.load_examples(config).loaded.train
    items = list(mft_cli.TrainingOrder(examples, global_batch_size=BATCH, steps=STEPS, seed=config.seed))
    items = [item for item in items if item["example"].loss_mask.any()]  # no blanks
    assert len(seen) == len(items) >= 72
    batch = collator(items)
    tensors = (batch[name] for name in ("input_ids", "labels", "attention_mask"))
    for item, ids, labels, real in zip(items, *tensors, strict=True):
        n = int(real.sum())
        expected_ids, expected_labels = seen[item["epoch"], int(item["example"].ids[0])]
        assert ids[:n].tolist() == expected_ids
        assert labels[1:n].tolist() == expected_labels[: n - 1]
        assert labels[0] == IGNORE
        assert (labels[n:] == IGNORE).all()
    changed = sum(seen[i["epoch"], int(i["example"].ids[0])][0] != i["input_ids"].tolist() for i in items)
    assert changed > 10 or name == "masked_critique"


def test_validation_items_stay_clean_and_padding_has_no_label(tiny_model: Path):
    collator, _, _ = collator_of(
        "masked_thought", THOUGHT | {"schedule": "constant", "mask_ratio": 1.0}, tiny_model, 1, False
    )
    rows = [
        {"input_ids": [9, 8, 7, 6], "completion_mask": [0, 0, 1, 1]},
        {"input_ids": [9, 8], "completion_mask": [0, 1]},
    ]
    clean = collator(list(mft_cli.ValidationOrder(rows)))
    assert clean["input_ids"].tolist() == [[9, 8, 7, 6], [9, 8, 2, 2]]
    assert clean["labels"].tolist() == [[-100, -100, 7, 6], [-100, 8, -100, -100]]
    assert clean["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    corrupted = collator(list(mft_cli.TrainingOrder(rows, global_batch_size=2)))
    assert sorted(corrupted["input_ids"].tolist()) == [[9, 0, 2, 2], [9, 8, 0, 0]]
    assert sorted(corrupted["labels"].tolist()) == sorted(clean["labels"].tolist())


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("masked_thought", {"noise": "mixup"}, "method.noise=mixup needs the model's forward pass"),
        ("masked_thought", {"drop_attention": True}, "method.drop_attention=true needs mft's attention"),
        ("masked_thought", {"mask_ratoi": 0.1}, "did you mean mask_ratio"),
        ("masked_critique", {"format_term": "tag_likelihood"}, "is a term of mft's own loss"),
        ("masked_critique", {"neftune_alpha": 0.1}, "set neftune_noise_alpha"),
    ],
)
def test_what_a_collator_cannot_do_is_refused(name: str, keys: dict[str, Any], told: str, tiny_model: Path):
    with pytest.raises(UserError, match=told):
        collator_of(name, keys, tiny_model, 1, False)


def test_rows_that_no_order_has_wrapped_are_refused(tiny_model: Path):
    collator, _, _ = collator_of("masked_thought", THOUGHT, tiny_model, 1, False)
    with pytest.raises(UserError, match=r"wrap the rows in mft_cli\.TrainingOrder"):
        collator([{"input_ids": [1, 2], "labels": [1, 2]}])


def test_lines_are_not_guessed(tiny_model: Path):
    collator, _, _ = collator_of("masked_thought", {**THOUGHT, "granularity": "step"}, tiny_model, 1, False)
    with pytest.raises(UserError, match="granularity=step masks whole lines"):
        collator([mft_cli.TrainingOrder([{"input_ids": [1, 2, 3]}], global_batch_size=1)[0]])


def test_a_new_token_needs_the_model(tiny_model: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with pytest.raises(UserError, match=r"lacks <mask>: give the model, MaskedThoughtCollator\(tokenizer, model"):
        mft_cli.MaskedThoughtCollator(tokenizer)
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    collator = mft_cli.MaskedThoughtCollator(tokenizer, model)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert collator.method.facts() == [f"mask token: <mask> (id {len(tokenizer) - 1}, added)"]


# ---- mask_finetune --------------------------------------------------------------------------------------------------

MASKS: dict[str, Any] = {"layers": "all", "mask_ratio": 0.2}


def test_masks_of_weights_are_trained_as_mft_trains_them(tiny_model: Path, problem_file: Path, tmp_path: Path):
    config = config_of(tiny_model, problem_file, tmp_path / "run", "mask_finetune", MASKS)
    run = mft_cli.train(config)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    callback = mft_cli.MaskFinetuneCallback(model, tokenizer, seed=config.seed, **MASKS)
    plain = mft_cli.SftCollator(tokenizer)
    losses = trained(Trainer, TrainingArguments, plain, model, config, tmp_path, callbacks=[callback])
    assert losses == pytest.approx(losses_of(run), abs=1e-4)
    callback.save_masks(tiny_model, tmp_path / "masks.mft")
    mine, theirs = (weight_masks.read(file) for file in (tmp_path / "masks.mft", run / "export/masks.mft"))
    assert list(mine) == list(theirs)
    differing = sum(int((mine[name] != theirs[name]).sum()) for name in mine)
    entries = sum(mine[name].numel() for name in mine)
    assert differing < 0.002 * entries  # sums in another order move a score across the limit now and then
    weight_masks.apply(str(tiny_model), tmp_path / "masks.mft", tmp_path / "masked")


def test_scores_do_not_decay(tiny_model: Path, tmp_path: Path):
    model = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    callback = mft_cli.MaskFinetuneCallback(model, AutoTokenizer.from_pretrained(tiny_model), **MASKS)
    with pytest.raises(UserError, match=r"weight_decay=0\.1 would pull the scores"):
        callback.on_train_begin(TrainingArguments(output_dir=str(tmp_path), weight_decay=0.1), None, None)  # type: ignore[arg-type]


def test_layers_have_to_be_named(tiny_model: Path):
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(UserError, match=r"method\.layers is missing"):
        mft_cli.MaskFinetuneCallback(model, AutoTokenizer.from_pretrained(tiny_model))
