"""What an analysis looks at: the models, and a fixed seeded set of examples that all of them see."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from mft_cli.config.model_path import kind_of, model_path
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.examples import Examples
from mft_cli.data.load import draw, load
from mft_cli.data.prompts import Renderer
from mft_cli.errors import UserError
from mft_cli.methods import make
from mft_cli.models.device import set_up_device
from mft_cli.models.folder import ModelFolder, open_model
from mft_cli.models.kernels.backends import WITHOUT_MASK, resolve
from mft_cli.models.loading import load_model, load_tokenizer
from mft_cli.models.probes import settle
from mft_cli.report.read.runs import short_labels


@dataclass(frozen=True)
class Subject:
    """One model: the name that tables give it, and its folder with digests."""

    label: str
    config: ModelConfig
    folder: ModelFolder

    def tokenizer(self) -> PreTrainedTokenizerFast:
        return load_tokenizer(str(self.folder.tokenizer), self.config)

    def load(self, device: torch.device) -> nn.Module:
        """The model in fp32, not training; probes.may_pack tells whether it takes packed sequences."""
        attention = "sdpa" if self.config.attention in ("auto", *WITHOUT_MASK) else self.config.attention
        model: nn.Module = load_model(
            str(self.folder.path), self.config, dtype=torch.float32, attention=resolve(attention, device.type)
        )
        settle(model.to(device).eval().requires_grad_(False), device)
        return model


@dataclass
class Prepared:
    """Models and examples of an analysis."""

    subjects: list[Subject]
    examples: Examples
    tokenizer: PreTrainedTokenizerFast  # the first model's
    source: str  # such as "32 of 480 training examples of gsm_symbolic"
    device: torch.device
    shared_ids: int  # ids below mean the same to every model


def prepare(config: TrainConfig, folders: list[str], own_model: bool, count: int, split: str) -> Prepared:
    """Find the models, read the data and draw `wanted` examples of it, the same for every model. Raises UserError.

    `own_model`: whether model= names the first model. `split` is train, validation or auto (validation if there is one).
    """
    device = set_up_device(config.launch)
    subjects = find_subjects(config.model, folders, own_model)
    tokenizer = subjects[0].tokenizer()
    shared_ids = shared_vocabulary(subjects, tokenizer)
    method = make(config.method, config.train.logits_chunk)
    loaded = load(config.data, Renderer(tokenizer, config.prompt, tuple(method.new_tokens)), config.seed)
    if split == "validation" and loaded.validation is None:
        raise UserError(
            "split=validation: the data has no validation rows; set split=train, or data.validation.rows=32"
        )
    held_out = split != "train" and loaded.validation is not None
    examples = loaded.validation if held_out and loaded.validation is not None else loaded.train
    check_contexts(subjects, examples)
    chosen = examples.take(draw(examples, min(count, len(examples)), "analysis", config.seed))
    kind = "validation" if held_out else "training"
    source = f"{len(chosen)} of {len(examples)} {kind} examples of {config.data.name or 'the data'}, seed {config.seed}"
    if int(chosen.highest.max()) >= shared_ids:
        raise UserError(
            f"the examples hold tokens that one of {', '.join(s.config.path for s in subjects)} lacks; name the model "
            f"with the smallest vocabulary first, or analyse them one by one"
        )
    for subject in subjects:
        trained = subject.folder.facts.get("prompt")
        if isinstance(trained, dict) and trained != dataclasses.asdict(config.prompt):
            print(
                f"warning: {subject.label} was trained with prompt={trained.get('name')}, here it is {config.prompt.name}"
            )
    return Prepared(subjects, chosen, tokenizer, source, device, shared_ids)


def find_subjects(model: ModelConfig, folders: list[str], own_model: bool) -> list[Subject]:
    """Raises UserError for a folder without a model, and for the same one twice."""
    configs = [model] if own_model else []
    configs += [dataclasses.replace(model, path=str(model_in(Path(f))), revision=None) for f in folders]
    opened = [open_model(c) for c in configs]
    for index, model_folder in enumerate(opened):
        if model_folder.adapter is not None:
            raise UserError(
                f"{configs[index].path}: an adapter; give the merged model, which an export has one folder up"
            )
    places = [f.path.parent if f.path.name == "export" else f.path for f in opened]
    if len({p.resolve() for p in places}) < len(places):
        raise UserError(f"a model is named twice: {', '.join(c.path for c in configs)}; name each once")
    shown = [Path(c.path).stem if c.path.endswith(".gguf") else p for c, p in zip(configs, places, strict=True)]
    return [Subject(*parts) for parts in zip(short_labels([Path(s) for s in shown]), configs, opened, strict=True)]


def model_in(folder: Path) -> Path:
    """A model folder, or the export of a run folder. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give model folders or run folders, or name a model by model.path=")
    path = Path(model_path(str(folder), "FOLDER"))
    if kind_of(path) == "other":
        raise UserError(f"{folder}: neither a model (config.json) nor a run with an export; is the run finished?")
    return path


def shared_vocabulary(subjects: list[Subject], tokenizer: PreTrainedTokenizerFast) -> int:
    """How many ids every model has. Raises UserError unless they mean the same: differences token by token need that."""
    vocabulary = tokenizer.get_vocab()
    shared_ids = len(vocabulary)
    for subject in subjects[1:]:
        other = subject.tokenizer().get_vocab()
        shared_ids = min(shared_ids, len(other))
        if any(other.get(token) != i for token, i in vocabulary.items() if i < shared_ids):
            raise UserError(
                f"{subject.config.path} has another vocabulary than {subjects[0].config.path}: their tokens cannot be "
                f"compared; analyse them one by one"
            )
    return shared_ids


def check_contexts(subjects: list[Subject], examples: Examples) -> None:
    longest = int(examples.lengths.max())
    for subject in subjects:
        if subject.folder.context is not None and longest > subject.folder.context:
            raise UserError(
                f"the longest example has {longest} tokens, but {subject.config.path} has {subject.folder.context} positions; "
                f"set data.max_length={subject.folder.context} and data.on_long=drop"
            )
