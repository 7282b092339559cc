"""`mft train`: the file to read first. From a validated configuration to an exported model, step by named step."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from mft_cli import checkpoint as checkpoints
from mft_cli import fast_modules
from mft_cli.allocator import keep_freed_memory
from mft_cli.attention import resolve
from mft_cli.config import read_yaml, to_plain, to_yaml
from mft_cli.data.load import Loaded, load
from mft_cli.data.prompts import Renderer
from mft_cli.data.sources import local_file
from mft_cli.engine import TorchEngine, pick_precision
from mft_cli.errors import EXIT_USER, Stopped, UserError
from mft_cli.export import add_scores_to_card, export, export_facts
from mft_cli.loop import STOP_SIGNALS, Fit, Position, StopSignal, total_steps
from mft_cli.methods import Method, make
from mft_cli.metrics import Metrics, Say, peak_flops
from mft_cli.models import add_tokens, flops_per_token, load_model, load_tokenizer, locate
from mft_cli.run_dir import (
    RunDir,
    digest_of,
    file_digest,
    hardware,
    provenance,
    read_json,
    write_atomically,
    write_json,
)
from mft_cli.schema import EvalRunConfig, TrainConfig

# Sections that change no number of the training: not part of the settings' digest, and free to change in a resume.
FREE = ("run_dir", "note", "log", "checkpoint", "launch", "eval")
TIMING_KEYS = {"train.epochs", "train.max_steps"}  # may change with checkpoint.retime=true


def settings_digest(config: TrainConfig) -> str:
    """Digest of the settings that decide the trained weights."""
    return digest_of({k: v for k, v in to_plain(config).items() if k not in FREE})


def run_folder(config: TrainConfig) -> Path:
    """run_dir, else a name that the settings decide: the same command finds its own run again and goes on."""
    if config.run_dir:
        return Path(config.run_dir)
    name = f"{config.method.name}-{config.data.name or 'data'}-s{config.seed}-{settings_digest(config)[:8]}"
    return Path("outputs") / name


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


def is_done(run: RunDir, config: TrainConfig) -> bool:
    if run.get_state().get("state") != "done" or not config.checkpoint.resume:
        return False
    check_same_settings(run, config)
    before = read_json(run.provenance).get("data", {}) if run.provenance.exists() else {}
    for name, source in config.data.sources.items():
        file = None if source.path.startswith("generated:") else local_file(source)
        if file is not None and name in before and file_digest(file) != before[name]["digest"]:
            raise UserError(
                f"{run.root} was trained on another version of {file}; choose another run_dir, or checkpoint.resume=false"
            )
    longer = config.checkpoint.retime and TIMING_KEYS & changed_keys(run, config).keys()
    wanted = [folder for folder, _ in exports_to_evaluate(run, config)]
    return not longer and all((folder / "config.json").exists() for folder in wanted)


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


def check_same_settings(run: RunDir, config: TrainConfig) -> None:
    """Raises UserError if the folder's run was started with settings that give other numbers."""
    done = run.get_state().get("state") == "done"
    if not run.config.exists() or not (done or checkpoints.steps_in(run.checkpoints)):
        return
    allowed = TIMING_KEYS if config.checkpoint.retime else set()
    changed = {k: v for k, v in changed_keys(run, config).items() if k not in allowed}
    if changed:
        shown = "; ".join(f"{k} was {old}, is {new}" for k, (old, new) in list(changed.items())[:5])
        raise UserError(
            f"{run.root} holds a run with other settings ({shown}); choose another run_dir, or checkpoint.resume=false "
            f"to throw its checkpoints away"
        )


def check_same_data(run: RunDir, loaded: Loaded) -> None:
    """Raises UserError if the folder's checkpoints were trained on other rows: a path may stay and its file change."""
    if not checkpoints.steps_in(run.checkpoints) or not run.provenance.exists():
        return
    if read_json(run.provenance).get("data") != loaded.digests:
        raise UserError(
            f"{run.root} holds a run on other data (a data file was changed since); choose another run_dir, or "
            f"checkpoint.resume=false to train anew"
        )


def changed_keys(run: RunDir, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Key -> (value in the folder, value now), of the settings that decide the trained weights."""
    old, new = flatten(to_plain(read_yaml(TrainConfig, run.config))), flatten(to_plain(config))
    decisive = [k for k in sorted(old | new) if k.split(".")[0] not in FREE]
    return {k: (old.get(k), new.get(k)) for k in decisive if old.get(k) != new.get(k)}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


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


def run_forwarding(command: list[str]) -> int:
    """The exit code of a child process. TERM, USR1 and INT end it; then Stopped is raised: its journal is kept."""
    caught: list[str] = []
    child = subprocess.Popen(command)

    def end_child(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number).name)
        child.terminate()

    before = {s: signal.signal(s, end_child) for s in STOP_SIGNALS}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise Stopped(f"stopped by {caught[0]} during the evaluation; the completions that it has are kept")
    return code


def inherited(base: str) -> list[str]:
    """What the base model's own training data was made from, if it is an export: a continued run inherits the taint."""
    facts = Path(base) / "mft.json"
    return list(read_json(facts).get("derived_from", [])) if facts.is_file() else []


def exports_to_evaluate(run: RunDir, config: TrainConfig) -> list[tuple[Path, Path]]:
    """(export, evaluation folder) pairs that eval.checkpoints asks for."""
    pairs = {"last": [(run.export, run.root / "eval")], "best": [(run.root / "export-best", run.root / "eval-best")]}
    if config.eval.checkpoints != "all":
        return pairs[config.eval.checkpoints]
    steps = sorted(run.root.glob("export-step-*"))
    return [(p, run.root / p.name.replace("export", "eval")) for p in steps] + pairs["last"]


def evaluate_exports(run: RunDir, config: TrainConfig, say: Say) -> None:
    """`mft eval` on the exports, in a process of its own: the trainer's memory is free by then on a GPU, too."""
    if not config.eval.benchmarks:
        return
    for folder, out in exports_to_evaluate(run, config):
        asked = EvalRunConfig(model=config.model, eval=config.eval, launch=config.launch)
        plain = to_plain(asked)
        plain["model"] = {**plain["model"], "path": str(folder), "revision": None}
        frozen = run.root / f"{out.name}.json"
        write_json(frozen, plain)
        say(f"evaluating {folder}")
        start = time.monotonic()
        command = [sys.executable, "-m", "mft_cli", "eval", f"--frozen={frozen}", f"--out={out}"]
        code = run_forwarding(command)
        if code:
            kind = UserError if code == EXIT_USER else RuntimeError
            raise kind(
                f"the evaluation of {folder} failed (exit code {code}); the trained model is safe. "
                f"Again: {' '.join(command)}"
            )
        scores = {p.parent.name: read_json(p) for p in sorted(out.glob("*/metrics.json"))}
        add_scores_to_card(folder, scores)
        say(f"evaluated in {time.monotonic() - start:.0f} s")
