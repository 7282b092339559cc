"""Tokenizer, rows, model, method and engine put together, and the position that a run goes on from."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerFast

from mft_cli.config import deepspeed as zero_settings
from mft_cli.config.effects import without_effect
from mft_cli.config.schema.inputs import ModelConfig, PromptConfig
from mft_cli.config.schema.launching import PeftConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.schema.training import TrainingConfig
from mft_cli.config.validate import to_plain, to_yaml
from mft_cli.console import Log
from mft_cli.data.load import Loaded, load
from mft_cli.data.prompts import Renderer
from mft_cli.distributed.ranks import Ranks
from mft_cli.distributed.zero import gathered, numel_of, partitioned_loading
from mft_cli.errors import Stopped, UserError
from mft_cli.eval.preflight import check_trained_model
from mft_cli.export.generation import generation_settings
from mft_cli.files import file_digest, write_atomically, write_sealed
from mft_cli.methods import make
from mft_cli.methods.base import Losses, Method
from mft_cli.models.adapters import Adapters, attach, four_bits
from mft_cli.models.checksums import check_sums
from mft_cli.models.device import DTYPES, emulation_notice, hardware_of, idle_notice, set_up_device, training_precision
from mft_cli.models.folder import Source, adapter_rows, context_of, find_source
from mft_cli.models.kernels import fast_modules
from mft_cli.models.kernels.backends import resolve
from mft_cli.models.kernels.cross_entropy import causal_lm
from mft_cli.models.kernels.own_attention import cannot_hide, has_own_attention
from mft_cli.models.loading import flops_per_token, held_dtype, load_model, load_tokenizer, locate
from mft_cli.models.probes import may_pack, settle
from mft_cli.models.vocabulary import (
    check_tokens_have_rows,
    embedding_rows,
    extend_model,
    extend_tokenizer,
    padding_id,
    token_id,
)
from mft_cli.provenance import Provenance, changed_versions, hardware, provenance, with_segment
from mft_cli.run_dir import RunDir
from mft_cli.signals import StopSignal
from mft_cli.train.engine import TorchEngine
from mft_cli.train.engine_deepspeed import DeepSpeedEngine
from mft_cli.train.fit import Fits, choose_rows
from mft_cli.train.live import LiveEvaluation
from mft_cli.train.loop import Trainer
from mft_cli.train.metrics import Metrics, NoMetrics, cut_back, peak_flops
from mft_cli.train.optimizer import total_steps
from mft_cli.train.restart import is_resuming, set_aside
from mft_cli.train.resume import check_same_data, resume, tell_changed_logs
from mft_cli.train.samples import sampler
from mft_cli.train.settings import contents_digests, settings_digest, weights_sample
from mft_cli.train.state import TrainerState


@dataclass
class Assembly:
    """A run ready to start, and what its export needs."""

    trainer: Trainer
    model: PreTrainedModel  # the engine's
    loaded: Loaded
    method: Method
    base_tokenizer: PreTrainedTokenizerFast  # as it came; the export's, unless the method's new tokens stay
    tokenizer: PreTrainedTokenizerFast
    base_vocabulary: int
    end_ids: list[int]
    spare: dict[str, tuple[int, torch.Tensor]]  # embedding rows that new tokens took over, as they were
    start: str  # the folder or hub id that the weights came from: the adapter's, if the run goes on from one
    base: str  # the same of the whole model
    new_ids: list[int]  # of the method's new tokens
    adapters: Adapters | None


def assemble(
    run: RunDir,
    config: TrainConfig,
    stop: StopSignal,
    log: Log,
    ranks: Ranks | None = None,
    should_fit: Fits | None = None,
) -> Assembly:
    """Tokenizer, rows, model, method, engine, and the position to go on from."""
    device = set_up_device(config.launch)
    ranks = ranks or Ranks(device=device)
    if device.type == "cuda" and (
        line := idle_notice(config.launch, torch.cuda.device_count(), ranks.local_world, os.environ)
    ):
        log(line)
    precision = training_precision(config.train.precision, hardware_of(device))
    if line := emulation_notice(f"train.precision={precision}", precision, hardware_of(device)):
        log(line)
    method = make(config.method, config.train.logits_chunk)
    check_peft(config.peft, config.train, method, device)
    tokenizers = load_tokenizers(config.model, config.prompt, method, ranks, log)
    loaded = ranks.one_after_first(lambda: load(config.data, tokenizers.renderer, config.seed))
    for line in loaded.lines:
        log(line)
    if ranks.any(stop.name is not None):
        raise Stopped(f"stopped by {stop.name or 'a signal'} before the first step; nothing to save yet", stop.name)
    torch.manual_seed(config.seed)
    attention = resolve(config.model.attention, device.type, precision, method.hides_positions)
    ds_config = zero_settings.ds_config(config.deepspeed, config.train, config.run_dir, precision, ranks.world)
    quantization = four_bits(DTYPES[precision]) if config.peft.name == "qlora" else None
    whole = quantization is None and zero_settings.stage(config.deepspeed) != 3
    held = held_dtype(tokenizers.path, tokenizers.source.base, DTYPES[precision]) if whole else torch.float32
    with partitioned_loading(ds_config):
        weights = load_weights(tokenizers, loaded, attention, quantization, held, device, log)
    ranks.barrier()  # disks differ: the engine's first collectives wait for minutes only
    settings = weights.model.config.to_dict()
    check_trained_model(config.eval, settings, tokenizers.extended.chat_template, config.prompt, device.type)
    model, adapters, fast = prepare_model(
        config.peft, config.train, config.seed, method, tokenizers, weights, loaded, log
    )
    length = float((loaded.train.lengths**2).sum() / loaded.train.lengths.sum())
    flops = flops_per_token(model, length, frozen=4.0 if adapters else 6.0)
    engine = make_engine(config.train, model, method, precision, ds_config, device, ranks)
    packing = settled(engine, method, config.train.packing, log)
    if config.launch.compile:
        compile_body(model)
    take_over(run, config, loaded, ranks)
    state = TrainerState(total_steps=total_steps(config.train, len(loaded.train)) if method.trains else 0)
    machine = hardware() | {"ranks": ranks.world, "zero_stage": zero_settings.stage(config.deepspeed)}
    state = resume(run, config.checkpoint, engine, state, machine, log)
    ranks.barrier()  # all have read and verified their parts
    choices: Provenance = {
        "precision": precision, "attention": causal_lm(model).config._attn_implementation, "fast_modules": fast, "method": method.facts(),
        "ranks": ranks.world, "deepspeed": ds_config, "packing": packing,
    }  # fmt: skip
    trainer = Trainer(
        engine=engine, method=method, train=loaded.train, validation=loaded.validation, run=run,
        config=replace(config, train=replace(config.train, packing=packing)),
        metrics=NoMetrics(), log=log, stop=stop, pad_id=padding_id(tokenizers.extended, weights.model), state=state,
        flops_per_token=flops, peak_flops=peak_flops(device, config.log), hardware=machine,
    )  # fmt: skip
    if adapters is not None:
        trainer.before_forward = adapters.draw_dropout_for
    if config.train.micro_batch_size == "auto" and device.type == "cuda":
        choices["micro_batch_size"] = choose_rows(trainer, precision, should_fit, log)
    if ranks.rank == 0:
        record(run, config, choices, loaded, state.step, log)
        cut_back(run.samples, state.step, log)
        trainer.metrics = Metrics(run, config.log, state.step, to_plain(config), log)
        tell_changed_logs(run, state.step, log)
        if config.eval.every_steps and config.eval.live == "inside":
            hidden = [] if method.keep_new_tokens else weights.new_ids
            trainer.benchmarks = LiveEvaluation(
                run.live, Path(tokenizers.path), config, model, tokenizers.renderer, loaded.derived_from, hidden
            )
        trainer.sample = sampler(run.samples, config.log, config.seed, model, method, tokenizers.renderer, loaded)
    source = tokenizers.source
    return Assembly(
        trainer=trainer, model=model, loaded=loaded, method=method, base_tokenizer=tokenizers.as_loaded, tokenizer=tokenizers.extended,
        base_vocabulary=weights.base_vocabulary, end_ids=tokenizers.renderer.end_ids, spare=weights.spare,
        start=str(source.adapter) if source.adapter else tokenizers.path, base=tokenizers.path, new_ids=weights.new_ids,
        adapters=adapters,
    )  # fmt: skip


def settled(engine: TorchEngine | DeepSpeedEngine, method: Method, asked: bool, log: Log) -> bool:
    """Asks the model what its tokens see; whether examples are packed, if that is `asked`. All ranks have to call. Raises UserError."""
    notices: list[str | None] = []

    def look(model: torch.nn.Module, device: torch.device) -> Losses:
        notices.append(settle(model, device))
        return Losses({"probe": torch.zeros((), device=device)})

    with torch.no_grad():
        engine.run(look, engine.device)
    if method.hides_positions and has_own_attention(engine.model):
        raise UserError(cannot_hide(engine.model))
    packs = not engine.ranks.any(not may_pack(engine.model))
    if asked and notices[0]:
        log(notices[0])
    return asked and packs


def take_over(run: RunDir, config: TrainConfig, loaded: Loaded, ranks: Ranks) -> None:
    """Data, model and settings have loaded: the folder is this run's. All ranks have to call. Raises UserError."""
    going_on = ranks.from_first(is_resuming(run, config))
    if going_on:
        check_same_data(run, config, loaded)
    ranks.barrier()  # nobody still reads what is written now
    if ranks.rank == 0 and not going_on:
        set_aside(run, config)
    if ranks.rank == 0 and not (going_on and run.config.exists()):
        write_atomically(run.config, to_yaml(config))
    run.begun = True
    ranks.barrier()


def record(run: RunDir, config: TrainConfig, choices: Provenance, loaded: Loaded, step: int, log: Log) -> None:
    """run.json of a run that begins or goes on after `step` steps."""
    facts = provenance({"seed": config.seed}, loaded.digests, settings_digest(config))
    facts |= {"start": weights_sample(config.model.path), "contents": contents_digests(config.model), **choices}
    facts["without_effect"] = without_effect(config)
    before = run.get_provenance()
    if step and (changed := changed_versions(before, facts)):
        log(f"warning: this run was begun with other versions ({'; '.join(changed)}): its weights may depend on that")
    seen = with_segment(before, facts, step)
    written = {"config_digest": file_digest(run.config)} if run.config.exists() else {}
    write_sealed(run.provenance, {**seen, **written})


@dataclass
class Tokenizers:
    """Where the model lies, its tokenizer as it came, and the one that knows the method's new tokens."""

    source: Source
    path: str
    as_loaded: PreTrainedTokenizerFast
    extended: PreTrainedTokenizerFast
    new_tokens: list[str]  # that the method adds
    renderer: Renderer


def load_tokenizers(config: ModelConfig, prompt: PromptConfig, method: Method, ranks: Ranks, log: Log) -> Tokenizers:
    """Finds the model and reads its tokenizer."""
    source = find_source(config)
    path = ranks.one_after_first(lambda: locate(source.base, log))
    for start in (source.adapter, Path(path)):
        if start is not None and start.is_dir():
            ranks.one_after_first(partial(check_sums, start, config.path))
    folder = source.tokenizer_path(path)
    base_tokenizer, tokenizer = load_tokenizer(folder, source.base), load_tokenizer(folder, source.base)
    new_tokens = method.prepare(tokenizer)
    if method.new_tokens:
        extend_tokenizer(tokenizer, new_tokens)  # they stand in the rows; one that is only put into inputs does not
    renderer = Renderer(tokenizer, prompt, tuple(method.new_tokens))
    if renderer.notice:
        log(renderer.notice)
    return Tokenizers(source, path, base_tokenizer, tokenizer, new_tokens, renderer)


@dataclass
class Weights:
    """The model as it came, with rows for the new tokens."""

    model: PreTrainedModel
    base_vocabulary: int
    spare: dict[str, tuple[int, torch.Tensor]]  # see Assembly
    new_ids: list[int]


def load_weights(
    tokenizers: Tokenizers,
    loaded: Loaded,
    attention: str,
    quantization: BitsAndBytesConfig | None,
    held: torch.dtype,
    device: torch.device,
    log: Log,
) -> Weights:
    """Loads the model in `held` (qlora: its frozen weights in four bits) and gives it rows for the new tokens."""
    tokenizer, new_tokens, source = tokenizers.extended, tokenizers.new_tokens, tokenizers.source
    model = load_model(
        tokenizers.path,
        source.base,
        dtype=held,
        attention=attention,
        quantization=quantization,
        device=device,
    )
    check_context(model, loaded)
    if source.adapter and len(tokenizer) > embedding_rows(model):  # its rows come with the adapter
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    base_vocabulary = embedding_rows(model)
    for token in new_tokens:
        log(f"token {token} added to the tokenizer, its embedding the mean of all others")
    spare = spare_rows(model, len(tokenizers.as_loaded), len(new_tokens))
    extend_tokenizer(tokenizer, new_tokens)
    new_ids = [token_id(tokenizer, token) for token in new_tokens]
    for examples in (loaded.train, loaded.validation):
        if examples is not None:
            beyond = examples.take(np.flatnonzero(examples.highest >= base_vocabulary)).flat("tokens")
            check_tokens_have_rows(tokenizer, beyond, base_vocabulary, new_ids, str(source.adapter or source.base.path))
    generation_settings(model, tokenizer, tokenizers.renderer.end_ids)  # what the export cannot save is reported now
    extend_model(model, tokenizer, new_tokens)
    return Weights(model, base_vocabulary, spare, new_ids)


def prepare_model(
    peft: PeftConfig,
    train: TrainingConfig,
    seed: int,
    method: Method,
    tokenizers: Tokenizers,
    weights: Weights,
    loaded: Loaded,
    log: Log,
) -> tuple[PreTrainedModel, Adapters | None, int]:
    """(the model that trains, its adapters, number of faster modules): peft, then the method's own parts."""
    model = weights.model
    fast, adapters = 0, None
    if peft.name != "none":
        fast = install_fast_modules(model, train)  # before its linear layers are wrapped
        rows = [*adapter_rows(tokenizers.source.adapter), *weights.new_ids]
        adapters = attach(model, peft, seed, rows, tokenizers.source.adapter)
        model = adapters.model
    model = cast("PreTrainedModel", method.adapt(model, tokenizers.extended))
    for examples in (loaded.train, loaded.validation):
        if examples is not None:
            method.check(examples)
    for line in method.facts():
        log(line)
    if adapters is None:
        fast = install_fast_modules(model, train)
    if train.gradient_checkpointing:
        recompute_activations(model)
    return model, adapters, fast


def recompute_activations(model: PreTrainedModel) -> None:
    """Raises UserError for an architecture that cannot."""
    if not model.supports_gradient_checkpointing:
        name = type(causal_lm(model)).__name__
        raise UserError(f"train.gradient_checkpointing=true: {name} cannot recompute its activations; set it to false")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def make_engine(
    config: TrainingConfig,
    model: PreTrainedModel,
    method: Method,
    precision: str,
    ds_config: dict[str, Any] | None,
    device: torch.device,
    ranks: Ranks,
) -> TorchEngine | DeepSpeedEngine:
    """Plain torch, or DeepSpeed where there is a `ds_config`."""
    groups = method.param_groups(model)
    if ds_config is None:
        return TorchEngine(model, groups, config, precision, device, ranks)
    return DeepSpeedEngine(model, groups, config, precision, ds_config, device, ranks)


def compile_body(model: PreTrainedModel) -> None:
    """The loop calls the body, not the model around it: logits are made only where there are labels."""
    inner = causal_lm(model)
    getattr(inner, inner.base_model_prefix).compile(dynamic=True)


def check_peft(peft: PeftConfig, train: TrainingConfig, method: Method, device: torch.device) -> None:
    """What only the method and the machine know. Raises UserError."""
    method.check_peft(peft.name)
    if train.optimizer == "adamw_8bit_paged" and device.type != "cuda":
        raise UserError(
            "train.optimizer=adamw_8bit_paged pages a GPU's memory, and torch sees no GPU: set it to adamw_8bit"
        )


def spare_rows(model: PreTrainedModel, vocabulary: int, new: int) -> dict[str, tuple[int, torch.Tensor]]:
    """Name -> (first row, rows) of embedding rows without a token that `new` tokens will take over."""
    ends = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    rows = {n: p for n, p in model.named_parameters() if any(p is e for e in ends)}
    if not new or vocabulary + new > embedding_rows(model):
        return {}
    with gathered(rows.values()):
        return {n: (vocabulary, p[vocabulary : vocabulary + new].detach().clone()) for n, p in rows.items()}


def check_context(model: PreTrainedModel, loaded: Loaded) -> None:
    """Raises UserError if an example has more positions than the model knows."""
    known = context_of(model.config.to_dict())
    longest = int(loaded.train.lengths.max())
    if known is not None and longest > known:
        raise UserError(
            f"the longest example has {longest} tokens, but the model has {known} positions; set data.max_length={known} "
            f"and data.on_long=drop or truncate"
        )


def install_fast_modules(model: PreTrainedModel, config: TrainingConfig) -> int:
    """How many modules were replaced."""
    return fast_modules.install(model) if config.fast_modules else 0


def describe(trainer: Trainer) -> str:
    trained = sum(numel_of(p) for p in trainer.engine.named.values())
    world, stage = trainer.engine.ranks.world, zero_settings.stage(trainer.config.deepspeed)
    on = (f", {world} ranks" if world > 1 else "") + (f", ZeRO stage {stage}" if stage else "")
    of = f"{len(trainer.train):,} examples in steps of {trainer.config.train.global_batch_size}"
    return f"{of}, {trained:,} parameters trained in {str(trainer.engine.dtype).removeprefix('torch.')} on {trainer.engine.device}{on}"
