"""Tokenizer, rows, model, method and engine put together, and the position that a run goes on from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mft_cli import checkpoint as checkpoints
from mft_cli import fast_modules, zero_settings
from mft_cli.allocator import keep_freed_memory
from mft_cli.attention import resolve
from mft_cli.config import to_plain
from mft_cli.cross_entropy import causal_lm
from mft_cli.data.load import Loaded, load
from mft_cli.data.pack import make_batch
from mft_cli.data.prompts import Renderer
from mft_cli.engine import DTYPES, TorchEngine, pick_precision
from mft_cli.engine_deepspeed import DeepSpeedEngine
from mft_cli.errors import Stopped, UserError
from mft_cli.loop import Fit, Position, total_steps
from mft_cli.methods import Method, make
from mft_cli.metrics import Metrics, NoMetrics, Say, peak_flops
from mft_cli.models import add_tokens, add_words, embedding_rows, flops_per_token, load_model, load_tokenizer, locate
from mft_cli.peft_adapters import Adapters, Source, adapter_rows, attach, find_source, four_bits
from mft_cli.ranks import Ranks
from mft_cli.rerun import check_same_data, settings_digest, weights_sample
from mft_cli.rng import Draw
from mft_cli.run_dir import RunDir, hardware, provenance, write_json
from mft_cli.schema import TrainConfig
from mft_cli.stop_signal import StopSignal
from mft_cli.zero import gathered, numel_of, partitioned_loading


@dataclass
class Assembly:
    """A run ready to start, and what its export needs."""

    fit: Fit
    loaded: Loaded
    method: Method
    base_tokenizer: Any  # as it came; the export's, unless the method's new tokens stay
    tokenizer: Any
    base_vocabulary: int
    end_ids: list[int]
    spare: dict[str, tuple[int, torch.Tensor]]  # embedding rows that new tokens took over, as they were
    start: str  # the folder or hub id that the weights came from: the adapter's, if the run goes on from one
    base: str  # the same of the whole model
    new_ids: list[int]  # of the method's new tokens
    adapters: Adapters | None


def assemble(run: RunDir, config: TrainConfig, stop: StopSignal, say: Say, ranks: Ranks | None = None) -> Assembly:
    """Tokenizer, rows, model, method, engine, and the position to go on from."""
    device = pick_device(config)
    ranks = ranks or Ranks(device=device)
    precision = pick_precision(config.train.precision, device)
    method = make(config.method, config.train.logits_chunk)
    check_peft(config, method, device)
    words = read_words(config, method, ranks, say)
    loaded = ranks.one_after_first(lambda: load(config.data, words.renderer, config.seed))
    for line in loaded.lines:
        say(line)
    if ranks.any(stop.name is not None):
        raise Stopped(f"stopped by {stop.name or 'a signal'} before the first step; nothing to save yet", stop.name)
    torch.manual_seed(config.seed)
    attention = resolve(backend(config, method, precision), device.type)
    document = zero_settings.document(config, precision, ranks.world)
    with partitioned_loading(document):
        weights = load_weights(config, words, loaded, attention, precision, device, say)
    model, adapters, fast = prepare_model(config, method, words, weights, loaded, say)
    length = float((loaded.train.lengths**2).sum() / loaded.train.lengths.sum())
    flops = flops_per_token(model, length, frozen=4.0 if adapters else 6.0)
    engine = make_engine(config, model, method, precision, document, device, ranks)
    check_same_data(run, config, loaded)
    ranks.barrier()  # nobody still reads what is written now
    if ranks.rank == 0:
        facts = provenance({"seed": config.seed}, loaded.digests, settings_digest(config)) | {
            "start": weights_sample(config.model.path), "precision": precision, "attention": attention,
            "fast_modules": fast, "method": method.facts(), "ranks": ranks.world, "deepspeed": document,
        }  # fmt: skip
        write_json(run.provenance, facts)
    position = Position(total_steps=total_steps(config, len(loaded.train)) if method.trains else 0)
    machine = {"hardware": hardware() | {"ranks": ranks.world, "zero_stage": zero_settings.stage(config.deepspeed)}}
    position = resume(run, config, engine, position, machine, say)
    metrics = Metrics(run, config.log, position.step, to_plain(config), say) if ranks.rank == 0 else NoMetrics()
    fit = Fit(
        engine=engine, method=method, train=loaded.train, validation=loaded.validation, config=config, run=run,
        metrics=metrics, say=say, stop=stop, pad_id=int(words.tokenizer.pad_token_id), position=position,
        flops_per_token=flops, peak_flops=peak_flops(device, config.log),
        sample=sampler(run, config, model, method, words.renderer, loaded) if ranks.rank == 0 else None, saved_extra=machine,
    )  # fmt: skip
    if adapters is not None:
        fit.see = adapters.see
    return Assembly(
        fit=fit, loaded=loaded, method=method, base_tokenizer=words.base_tokenizer, tokenizer=words.tokenizer,
        base_vocabulary=weights.base_vocabulary, end_ids=words.renderer.end_ids, spare=weights.spare,
        start=str(words.source.adapter) if words.source.adapter else words.path, base=words.path, new_ids=weights.new_ids,
        adapters=adapters,
    )  # fmt: skip


@dataclass
class Words:
    """Where the model lies, its tokenizer as it came, and the one that knows the method's new tokens."""

    source: Source
    path: str
    base_tokenizer: Any
    tokenizer: Any
    wanted: list[str]  # tokens that the method adds
    renderer: Renderer


def read_words(config: TrainConfig, method: Method, ranks: Ranks, say: Say) -> Words:
    """Finds the model and reads its tokenizer."""
    source = find_source(config.model)
    path = ranks.one_after_first(lambda: locate(source.base, say))
    folder = source.tokenizer_path(path)
    base_tokenizer, tokenizer = load_tokenizer(folder, source.base), load_tokenizer(folder, source.base)
    wanted = method.prepare(tokenizer)
    if method.new_tokens:
        add_words(tokenizer, wanted)  # they stand in the rows; one that is only put into inputs does not
    renderer = Renderer(tokenizer, config.prompt, tuple(method.new_tokens))
    return Words(source, path, base_tokenizer, tokenizer, wanted, renderer)


@dataclass
class Weights:
    """The model as it came, with rows for the new tokens."""

    model: Any
    base_vocabulary: int
    spare: dict[str, tuple[int, torch.Tensor]]  # see Assembly
    new_ids: list[int]


def load_weights(
    config: TrainConfig, words: Words, loaded: Loaded, attention: str, precision: str, device: torch.device, say: Say
) -> Weights:
    """Loads the model in fp32 (qlora: its frozen weights in four bits) and gives it rows for the new tokens."""
    tokenizer, wanted = words.tokenizer, words.wanted
    four = four_bits(DTYPES[precision]) if config.peft.name == "qlora" else None
    model: Any = load_model(
        words.path, words.source.base, dtype=torch.float32, attention=attention, quantization=four, device=device
    )
    check_context(model, loaded)
    if words.source.adapter and len(tokenizer) > embedding_rows(model):  # its rows come with the adapter
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    base_vocabulary = embedding_rows(model)
    for token in wanted:
        say(f"token {token} added to the tokenizer, its embedding the mean of all others")
    spare = spare_rows(model, len(words.base_tokenizer), len(wanted))
    add_tokens(model, tokenizer, wanted)
    return Weights(model, base_vocabulary, spare, tokenizer.convert_tokens_to_ids(wanted))


def prepare_model(
    config: TrainConfig, method: Method, words: Words, weights: Weights, loaded: Loaded, say: Say
) -> tuple[Any, Adapters | None, int]:
    """(the model that trains, its adapters, number of faster modules): peft, then the method's own parts."""
    model: Any = weights.model
    fast, adapters = 0, None
    if config.peft.name != "none":
        fast = install_fast_modules(model, config)  # before its linear layers are wrapped
        rows = [*adapter_rows(words.source.adapter), *weights.new_ids]
        adapters = attach(model, config.peft, config.seed, rows, words.source.adapter)
        model = adapters.model
    model = method.adapt(model, words.tokenizer)
    for examples in (loaded.train, loaded.validation):
        if examples is not None:
            method.check(examples)
    for line in method.facts():
        say(line)
    if adapters is None:
        fast = install_fast_modules(model, config)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, adapters, fast


def make_engine(
    config: TrainConfig,
    model: Any,
    method: Method,
    precision: str,
    document: dict[str, Any] | None,
    device: torch.device,
    ranks: Ranks,
) -> TorchEngine | DeepSpeedEngine:
    """Plain torch, or DeepSpeed where there is a `document` for it; the model compiled if that is asked for."""
    engine: TorchEngine | DeepSpeedEngine
    groups = method.param_groups(model)
    if document is None:
        engine = TorchEngine(model, groups, config.train, precision, device, ranks)
    else:
        engine = DeepSpeedEngine(model, groups, config.train, precision, document, ranks)
    if config.launch.compile:
        # the loop calls the body, not the model around it: logits are made only where there are labels
        inner: Any = causal_lm(model)
        getattr(inner, inner.base_model_prefix).compile(dynamic=True)
    return engine


def check_peft(config: TrainConfig, method: Method, device: torch.device) -> None:
    """What only the method and the machine know. Raises UserError."""
    if config.peft.name != "none" and method.peft_refusal:
        raise UserError(f"peft.name={config.peft.name}: {method.peft_refusal}; set peft=none")
    if config.train.optimizer == "adamw_8bit_paged" and device.type != "cuda":
        raise UserError(
            "train.optimizer=adamw_8bit_paged pages a GPU's memory, and torch sees no GPU: set it to adamw_8bit"
        )


def pick_device(config: TrainConfig) -> torch.device:
    wanted = config.launch.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("launch.device=cuda, but torch sees no GPU; set launch.device=auto or cpu")
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, len(os.sched_getaffinity(0)) // local_world)
    torch.set_num_threads(config.launch.threads or (int(asked) if asked.isdigit() and int(asked) else share))
    if wanted != "cpu" and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    keep_freed_memory()
    return torch.device("cpu")


def backend(config: TrainConfig, method: Method, precision: str) -> str:
    """model.attention; auto avoids flash-attention where it cannot be: with hidden positions (no mask) and in fp32."""
    wanted = config.model.attention
    if wanted == "flash_attention_2" and precision == "fp32":
        raise UserError("model.attention=flash_attention_2 computes in 16 bits only: set train.precision=bf16, or sdpa")
    return "sdpa" if wanted == "auto" and (method.hides_positions or precision == "fp32") else wanted


def spare_rows(model: Any, words: int, new: int) -> dict[str, tuple[int, torch.Tensor]]:
    """Name -> (first row, rows) of embedding rows without a word that `new` tokens will take over."""
    ends = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    rows = {n: p for n, p in model.named_parameters() if any(p is e for e in ends)}
    if not new or words + new > embedding_rows(model):
        return {}
    with gathered(rows.values()):
        return {n: (words, p[words : words + new].detach().clone()) for n, p in rows.items()}


def check_context(model: Any, loaded: Loaded) -> None:
    """Raises UserError if an example has more positions than the model knows."""
    known = getattr(model.config, "max_position_embeddings", None)
    longest = int(loaded.train.lengths.max())
    if known is not None and longest > known:
        raise UserError(
            f"the longest example has {longest} tokens, but the model has {known} positions; set data.max_length={known} "
            f"and data.on_long=drop or truncate"
        )


def install_fast_modules(model: Any, config: TrainConfig) -> int:
    return fast_modules.install(model) if config.train.fast_modules else 0


def describe(fit: Fit) -> str:
    trained = sum(numel_of(p) for p in fit.engine.named.values())
    world, stage = fit.engine.ranks.world, zero_settings.stage(fit.config.deepspeed)
    on = (f", {world} ranks" if world > 1 else "") + (f", ZeRO stage {stage}" if stage else "")
    of = f"{len(fit.train):,} examples in steps of {fit.config.train.global_batch_size}"
    return f"{of}, {trained:,} parameters trained in {str(fit.engine.dtype).removeprefix('torch.')} on {fit.engine.device}{on}"


def resume(
    run: RunDir,
    config: TrainConfig,
    engine: TorchEngine | DeepSpeedEngine,
    fresh: Position,
    machine: dict[str, Any],
    say: Say,
) -> Position:
    """The stored position, weights and optimizer loaded; or the fresh one. Raises UserError if the length changed."""
    if not config.checkpoint.resume:
        return fresh
    folder = newest_checkpoint(run, engine.ranks, say)
    if folder is None:
        return fresh
    stored = checkpoints.Stored(folder)
    position = Position(**stored.trainer["position"])
    if position.total_steps != fresh.total_steps:
        if not config.checkpoint.retime:
            raise UserError(
                f"{folder} belongs to a run of {position.total_steps} steps, now there would be {fresh.total_steps}; "
                f"masks and learning rate depend on it. checkpoint.retime=true goes on all the same"
            )
        position.total_steps = fresh.total_steps
    for name in ("threads", "instruction_set", "machine", "ranks", "zero_stage"):
        before, now = stored.trainer["hardware"].get(name), machine["hardware"].get(name)
        if before != now:
            say(f"warning: {name} was {before} and is {now}: the resumed run will not be bit-identical")
    if position.best_step is not None and not checkpoints.step_folder(run.checkpoints, position.best_step).is_dir():
        position.best_loss = position.best_step = None  # keep_best was off then: the best one is gone
    engine.load(stored.read, stored.read if stored.stepped else None, stored.trainer["engine"])
    say(f"going on from {folder}")
    return position


def newest_checkpoint(run: RunDir, ranks: Ranks, say: Say) -> Path | None:
    """One rank reads the digests of all files. Raises UserError, on every rank, if no checkpoint is whole."""
    folder, refusal = None, None
    if ranks.rank == 0:
        try:
            folder = checkpoints.newest_verified(run.checkpoints, say)
        except UserError as error:
            refusal = str(error)
    folder, refusal = ranks.from_first((folder, refusal))
    if refusal:
        raise UserError(refusal)
    return folder


def sampler(
    run: RunDir, config: TrainConfig, model: Any, method: Method, renderer: Renderer, loaded: Loaded
) -> Callable[[int], None] | None:
    """Greedy completions of a few validation (else training) prompts, and what the method adds, into samples.jsonl."""
    if not config.log.samples_every_steps:
        return None
    import json

    examples = loaded.validation if loaded.validation is not None else loaded.train

    def sample(step: int) -> None:
        training, before = model.training, model.config._attn_implementation
        model.eval()
        batches = [
            make_batch(examples, [[i]], 0, 0, model.device) for i in range(min(config.log.samples, len(examples)))
        ]
        more = [method.sample(model, batch, renderer.tokenizer, Draw(config.seed)) for batch in batches]
        model.config._attn_implementation = "sdpa"  # packed rows need lengths; generation has one plain sequence
        with torch.no_grad(), open(run.samples, "a", encoding="utf-8") as file:
            for i in range(len(batches)):
                start = int(examples.offsets[i])
                first = start + int(examples.learnt[start : int(examples.offsets[i + 1])].argmax())
                prompt = torch.from_numpy(examples.tokens[start:first].astype("int64"))[None].to(model.device)
                made = model.generate(
                    input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=config.log.sample_tokens,
                    do_sample=False, eos_token_id=renderer.end_ids, pad_token_id=renderer.tokenizer.pad_token_id,
                )  # fmt: skip
                text = renderer.tokenizer.decode(made[0, prompt.shape[1] :], skip_special_tokens=True)
                row = {"step": step, "row": examples.keys[i], "completion": text, **more[i]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        model.config._attn_implementation = before
        model.train(training)

    return sample
