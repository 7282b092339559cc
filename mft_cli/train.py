"""`mft train`: the file to read first. From a validated configuration to an exported model, step by named step."""

from __future__ import annotations

import gc
import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mft_cli import checkpoint as checkpoints
from mft_cli import fast_modules
from mft_cli.allocator import keep_freed_memory
from mft_cli.attention import resolve
from mft_cli.config import to_plain, to_yaml
from mft_cli.data.load import Loaded, load
from mft_cli.data.prompts import Renderer
from mft_cli.engine import TorchEngine, pick_precision
from mft_cli.errors import Stopped, UserError
from mft_cli.evaluate import evaluate_exports
from mft_cli.export import export, export_facts
from mft_cli.loop import Fit, Position, StopSignal, total_steps
from mft_cli.methods import Method, make
from mft_cli.metrics import Metrics, Say, peak_flops
from mft_cli.models import add_tokens, flops_per_token, load_model, load_tokenizer, locate
from mft_cli.rerun import check_same_data, check_same_settings, is_done, run_folder, settings_digest
from mft_cli.run_dir import (
    RunDir,
    hardware,
    provenance,
    read_json,
    write_atomically,
    write_json,
)
from mft_cli.schema import TrainConfig


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


def train(config: TrainConfig) -> Path:
    """Train, export and evaluate. Returns the run's folder. Raises UserError, Stopped."""
    run = RunDir(run_folder(config))
    with run.lock():
        say = Say(run.log)
        if is_done(run, config):
            say(f"{run.root} is done; checkpoint.resume=false would train it anew")
        else:
            train_in(run, config, say)
        evaluate_exports(run, config, say)
    return run.root


def train_in(run: RunDir, config: TrainConfig, say: Say) -> None:
    """Everything up to the export, with the run's state kept true whatever happens."""
    stop = StopSignal()
    say(f"run folder {run.root}")
    try:
        prepare_folder(run, config)
        run.set_state("running")
        ready = assemble(run, config, stop, say)
        fit = ready.fit
        say(
            f"{fit.position.total_steps - fit.position.step} of {fit.position.total_steps} steps to go, {describe(fit)}"
        )
        fit.run_to_end()
        write_exports(ready, say)
        fit.metrics.close()
        run.set_state(
            "done", step=fit.position.step, total_steps=fit.position.total_steps, seconds=fit.position.seconds
        )
        del ready, fit
        free_memory()
    except Stopped as stopped:
        run.set_state("stopped", message=str(stopped), **where(run))
        raise
    except BaseException as error:
        message = str(error) or type(error).__name__
        run.set_state("failed", message=message, **where(run))
        with open(run.log, "a", encoding="utf-8") as log:
            log.write(message if isinstance(error, UserError) else traceback.format_exc())
        raise
    if stop.name:
        raise Stopped(f"stopped by {stop.name} after the last step; the run is done and exported")


def where(run: RunDir) -> dict[str, Any]:
    """The last saved step, as the state file knows it."""
    return {k: v for k, v in run.get_state().items() if k in ("step", "total_steps")}


def free_memory() -> None:
    """Before an evaluation or the next job of a sweep: swapped modules are reference cycles that hold their weights."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def prepare_folder(run: RunDir, config: TrainConfig) -> None:
    """Keep the resolved configuration; refuse a folder that holds another run."""
    if config.checkpoint.resume:
        check_same_settings(run, config)
    else:
        for step in checkpoints.steps_in(run.checkpoints):
            checkpoints.discard(checkpoints.step_folder(run.checkpoints, step))
        for folder in run.root.glob("export*"):
            shutil.rmtree(folder)
        run.metrics.unlink(missing_ok=True)
        run.samples.unlink(missing_ok=True)
    write_atomically(run.config, to_yaml(config))


# ---- assembly -------------------------------------------------------------------------------------------------------


def assemble(run: RunDir, config: TrainConfig, stop: StopSignal, say: Say) -> Assembly:
    """Tokenizer, rows, model, method, engine, and the position to go on from."""
    device = pick_device(config)
    precision = pick_precision(config.train.precision, device)
    path = locate(config.model, say)
    base_tokenizer, tokenizer = load_tokenizer(path, config.model), load_tokenizer(path, config.model)
    method = make(config.method, config.train.logits_chunk)
    wanted = method.prepare(tokenizer)
    renderer = Renderer(tokenizer, config.prompt, tuple(method.new_tokens))
    loaded = load(config.data, renderer, config.seed)
    for line in loaded.lines:
        say(line)
    if stop.name:
        raise Stopped(f"stopped by {stop.name} before the first step; nothing to save yet")
    torch.manual_seed(config.seed)
    attention = resolve(backend(config, method, precision), device.type)
    model: Any = load_model(path, config.model, dtype=torch.float32, attention=attention)
    check_context(model, loaded)
    base_vocabulary = model.get_input_embeddings().weight.shape[0]
    for token in wanted:
        say(f"token {token} added to the tokenizer, its embedding the mean of all others")
    spare = spare_rows(model, len(tokenizer), len(wanted))
    add_tokens(model, tokenizer, wanted)
    model = method.adapt(model, tokenizer)
    for line in method.facts():
        say(line)
    fast = install_fast_modules(model, config)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    engine = TorchEngine(model, method.param_groups(model), config.train, precision, device)
    if config.launch.compile:
        # the loop calls the body, not the model around it: logits are made only where there are labels
        getattr(model, model.base_model_prefix).compile(dynamic=True)
    digest = settings_digest(config)
    seeds = {"seed": config.seed}
    check_same_data(run, loaded)
    facts = provenance(seeds, loaded.digests, digest) | {
        "precision": precision,
        "attention": attention,
        "fast_modules": fast,
        "method": method.facts(),
    }
    write_json(run.provenance, facts)
    position = Position(total_steps=total_steps(config, len(loaded.train)))
    machine = {"hardware": hardware()}
    position = resume(run, config, engine, position, machine, say)
    metrics = Metrics(run, config.log, position.step, to_plain(config), say)
    length = float((loaded.train.lengths**2).sum() / loaded.train.lengths.sum())
    fit = Fit(
        engine=engine, method=method, train=loaded.train, validation=loaded.validation, config=config, run=run,
        metrics=metrics, say=say, stop=stop, pad_id=int(tokenizer.pad_token_id), position=position,
        flops_per_token=flops_per_token(model, length), peak_flops=peak_flops(device, config.log),
        sample=sampler(run, config, model, renderer, loaded), saved_extra=machine,
    )  # fmt: skip
    return Assembly(fit, loaded, method, base_tokenizer, tokenizer, base_vocabulary, renderer.end_ids, spare)


def pick_device(config: TrainConfig) -> torch.device:
    wanted = config.launch.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("launch.device=cuda, but torch sees no GPU; set launch.device=auto or cpu")
    torch.set_num_threads(config.launch.threads or len(os.sched_getaffinity(0)))
    if wanted != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
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
    return {
        n: (words, p[words : words + new].detach().clone()) for n, p in rows.items() if new and words + new <= len(p)
    }


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
    trained = sum(p.numel() for p in fit.engine.named.values())
    of = f"{len(fit.train):,} examples in steps of {fit.config.train.global_batch_size}"
    return (
        f"{of}, {trained:,} parameters trained in {str(fit.engine.dtype).removeprefix('torch.')} on {fit.engine.device}"
    )


def resume(
    run: RunDir, config: TrainConfig, engine: TorchEngine, fresh: Position, machine: dict[str, Any], say: Say
) -> Position:
    """The stored position, weights and optimizer loaded; or the fresh one. Raises UserError if the length changed."""
    if not config.checkpoint.resume:
        return fresh
    folder = checkpoints.newest_verified(run.checkpoints, say)
    if folder is None:
        if checkpoints.steps_in(run.checkpoints):
            say("no checkpoint can be used: starting from the first step")
        return fresh
    stored = checkpoints.load(folder)
    position = Position(**stored.trainer["position"])
    if position.total_steps != fresh.total_steps:
        if not config.checkpoint.retime:
            raise UserError(
                f"{folder} belongs to a run of {position.total_steps} steps, now there would be {fresh.total_steps}; "
                f"masks and learning rate depend on it. checkpoint.retime=true goes on all the same"
            )
        position.total_steps = fresh.total_steps
    for name in ("threads", "instruction_set", "machine"):
        before, now = stored.trainer["hardware"].get(name), machine["hardware"].get(name)
        if before != now:
            say(f"warning: {name} was {before} and is {now}: the resumed run will not be bit-identical")
    if position.best_step is not None and not checkpoints.step_folder(run.checkpoints, position.best_step).is_dir():
        position.best_loss = position.best_step = None  # keep_best was off then: the best one is gone
    engine.load(stored.weights, stored.moments, stored.trainer["engine"])
    say(f"going on from {folder}")
    return position


def sampler(
    run: RunDir, config: TrainConfig, model: Any, renderer: Renderer, loaded: Loaded
) -> Callable[[int], None] | None:
    """Greedy completions of a few validation (else training) prompts, into samples.jsonl."""
    if not config.log.samples_every_steps:
        return None
    import json

    examples = loaded.validation if loaded.validation is not None else loaded.train

    def sample(step: int) -> None:
        training, before = model.training, model.config._attn_implementation
        model.eval()
        model.config._attn_implementation = "sdpa"  # packed rows need lengths; generation has one plain sequence
        with torch.no_grad(), open(run.samples, "a", encoding="utf-8") as file:
            for i in range(min(config.log.samples, len(examples))):
                start = int(examples.offsets[i])
                first = start + int(examples.learnt[start : int(examples.offsets[i + 1])].argmax())
                prompt = torch.from_numpy(examples.tokens[start:first].astype("int64"))[None].to(model.device)
                made = model.generate(
                    input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=config.log.sample_tokens,
                    do_sample=False, eos_token_id=renderer.end_ids, pad_token_id=renderer.tokenizer.pad_token_id,
                )  # fmt: skip
                text = renderer.tokenizer.decode(made[0, prompt.shape[1] :], skip_special_tokens=True)
                file.write(
                    json.dumps({"step": step, "row": examples.keys[i], "completion": text}, ensure_ascii=False) + "\n"
                )
        model.config._attn_implementation = before
        model.train(training)

    return sample


# ---- export and evaluation ------------------------------------------------------------------------------------------


def write_exports(ready: Assembly, say: Say) -> None:
    """export/ of the last step, and export-best/ or export-step-*/ where they are to be evaluated."""
    fit = ready.fit
    config, run, position = fit.config, fit.run, fit.position
    weights, _, _ = fit.engine.state()
    todo: list[tuple[Path, int, dict[str, Any]]] = [(run.export, position.step, weights)]
    if config.checkpoint.keep_best and position.best_step is not None:
        folder = checkpoints.step_folder(run.checkpoints, position.best_step)
        todo.append((run.root / "export-best", position.best_step, checkpoints.load(folder).weights))
    if config.eval.checkpoints == "all":
        for step in checkpoints.steps_in(run.checkpoints):
            if step != position.step:
                folder = checkpoints.step_folder(run.checkpoints, step)
                todo.append((run.root / f"export-{folder.name}", step, checkpoints.load(folder).weights))
    derived_from = sorted({*inherited(locate(config.model, say)), *ready.loaded.derived_from})
    rows = fit.engine.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    keep = ready.method.keep_new_tokens
    for folder, step, tensors in todo:
        for name, (first, old) in {} if keep else ready.spare.items():
            if name in tensors:
                tensors[name] = tensors[name].clone()
                tensors[name][first : first + len(old)] = old
        facts = export_facts(config, settings_digest(config), step, ready.loaded.digests, derived_from)
        export(
            folder, fit.engine.model, tensors, vocabulary=rows if keep else ready.base_vocabulary,
            tokenizer=ready.tokenizer if keep else ready.base_tokenizer, dtype=fit.engine.dtype, facts=facts,
            end_ids=ready.end_ids, trust=config.model.trust_remote_code,
        )  # fmt: skip
        say(f"exported step {step} to {folder}")


def inherited(base: str) -> list[str]:
    """What the base model's own training data was made from, if it is an export: a continued run inherits the taint."""
    facts = Path(base) / "mft.json"
    return list(read_json(facts).get("derived_from", [])) if facts.is_file() else []
