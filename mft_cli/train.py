"""`mft train`: the file to read first. From a validated configuration to an exported model, step by named step."""

from __future__ import annotations

import gc
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mft_cli import __version__, masks
from mft_cli import checkpoint as checkpoints
from mft_cli.allocation import place_from_slurm
from mft_cli.assembly import Assembly, assemble, describe, pick_device
from mft_cli.attention import packed_kwargs
from mft_cli.config import build, to_plain, to_yaml
from mft_cli.data.questions import with_inherited, write_questions
from mft_cli.errors import EXIT_STOPPED, EXIT_USER, RankFailed, Stopped, UserError
from mft_cli.evaluate import evaluate_exports
from mft_cli.export import export, export_facts, loaded_fp32, model_card, plain_model, verify_adapter
from mft_cli.export_streamed import describe_folder, export_streamed, generation_settings, verify
from mft_cli.launch import start_ranks, world_size
from mft_cli.loop import Fit, StopSignal
from mft_cli.methods.base import Losses
from mft_cli.metrics import Say
from mft_cli.models import embedding_rows
from mft_cli.peft_adapters import find_source
from mft_cli.ranks import Ranks, join, leave
from mft_cli.rerun import check_same_settings, is_done, run_folder, settings_digest
from mft_cli.run_dir import (
    RunDir,
    read_json,
    write_atomically,
    write_json,
)
from mft_cli.schema import TrainConfig
from mft_cli.zero import is_partitioned


def train(config: TrainConfig) -> Path:
    """Train, export and evaluate. Returns the run's folder. Raises UserError, Stopped."""
    run = RunDir(run_folder(config))
    if config.launch.node_rank and config.launch.name == "local":  # the first node's driver keeps the run folder
        if not is_done(run, config):
            start_and_wait(run, config, run.root / f"frozen-node{config.launch.node_rank}.json", Say(None))
        return run.root
    with run.lock():
        say = Say(run.log)
        if is_done(run, config):
            say(f"{run.root} is done; checkpoint.resume=false would train it anew")
        elif world_size(config.launch) == 1:
            train_in(run, config, Ranks(), say)
        else:
            train_on_ranks(run, config, say)
        evaluate_exports(run, config, say)
    return run.root


def train_on_ranks(run: RunDir, config: TrainConfig, say: Say) -> None:
    """Freeze the configuration and start the ranks, which read it: they never see Hydra, nor a command line's quotes."""
    try:
        start_and_wait(run, config, run.root / "frozen.json", say)
    except RankFailed:
        if run.get_state().get("state") == "running":  # died without a word
            run.set_state("failed", message="a rank ended without a word", **where(run))
        raise


def start_and_wait(run: RunDir, config: TrainConfig, frozen: Path, say: Say) -> None:
    """The ranks of this node (with SLURM: of all nodes), to their end. Raises Stopped, UserError, RankFailed."""
    write_json(frozen, to_plain(config))
    command = [sys.executable, "-m", "mft_cli", "rank", f"--frozen={frozen}", f"--run={run.root}"]
    code = start_ranks(command, config.launch, run.root / "logs", say)
    if code == EXIT_STOPPED:
        state = run.get_state()
        raise Stopped(state.get("message", "stopped by a signal"), state.get("by"))
    if code:
        if code == EXIT_USER:  # the rank has said it on this terminal
            raise UserError(f"{run.root}: stopped for the reason above (logs of the ranks: {run.root / 'logs'})")
        message = run.get_state().get("message", "")
        raise RankFailed(f"{run.root}: a rank failed: {message} (logs of the ranks: {run.root / 'logs'})")


def train_rank(frozen: Path, folder: Path) -> None:
    """One rank: reads the frozen configuration, finds the others, trains."""
    place_from_slurm()
    config: TrainConfig = build(TrainConfig, read_json(frozen))
    run = RunDir(folder)
    ranks = join(pick_device(config))
    try:
        train_in(run, config, ranks, Say(run.log if ranks.rank == 0 else None))
    finally:
        leave()


def train_in(run: RunDir, config: TrainConfig, ranks: Ranks, say: Say) -> None:
    """Everything up to the export, with the run's state kept true whatever happens."""
    stop = StopSignal()
    first = ranks.rank == 0
    say(f"run folder {run.root}")
    try:
        if first:
            prepare_folder(run, config)
            run.set_state("running")
        ready = assemble(run, config, stop, say, ranks)
        fit = ready.fit
        say(
            f"{fit.position.total_steps - fit.position.step} of {fit.position.total_steps} steps to go, {describe(fit)}"
        )
        fit.run_to_end()
        write_exports(ready, say)
        fit.metrics.close()
        if first:
            run.set_state(
                "done", step=fit.position.step, total_steps=fit.position.total_steps, seconds=fit.position.seconds
            )
        del ready, fit
        free_memory()
    except Stopped as stopped:
        if first:
            run.set_state("stopped", message=str(stopped), by=stopped.by, **where(run))
        raise
    except BaseException as error:
        message = str(error) or type(error).__name__
        if first or not isinstance(error, UserError):  # a mistake is found by all ranks, a fault perhaps by one
            run.set_state("failed", message=message, **where(run))
            with open(run.log, "a", encoding="utf-8") as log:
                log.write(message if isinstance(error, UserError) else traceback.format_exc())
        raise
    if stop.name:
        raise Stopped(f"stopped by {stop.name} after the last step; the run is done and exported", stop.name)


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


# ---- export and evaluation ------------------------------------------------------------------------------------------


def write_exports(ready: Assembly, say: Say) -> None:
    """export/ of the last step, and export-best/ or export-step-*/ where they are to be evaluated. From checkpoints."""
    fit = ready.fit
    config, run, position = fit.config, fit.run, fit.position
    todo: list[tuple[Path, int]] = [(run.export, position.step)]
    if config.checkpoint.keep_best and position.best_step is not None:
        todo.append((run.root / "export-best", position.best_step))
    if config.eval.checkpoints == "all":
        for step in checkpoints.steps_in(run.checkpoints):
            if step != position.step:
                todo.append((run.root / f"export-step-{step:08d}", step))
    for folder, step in todo:
        write_export(ready, folder, step)
        say(f"exported step {step} to {folder}")


def write_export(ready: Assembly, folder: Path, step: int) -> None:
    """The checkpoint of one step as a Hugging Face folder. All ranks have to call."""
    fit = ready.fit
    config, engine = fit.config, fit.engine
    model: Any = engine.model
    engine.ranks.barrier()  # the checkpoint is there for every rank
    stored = checkpoints.Stored(checkpoints.step_folder(fit.run.checkpoints, step))
    keep = ready.method.keep_new_tokens
    derived_from = sorted({*inherited(ready.start), *ready.loaded.derived_from})
    settings: dict[str, Any] = {
        "vocabulary": embedding_rows(model) if keep else ready.base_vocabulary,
        "tokenizer": ready.tokenizer if keep else ready.base_tokenizer, "dtype": engine.dtype,
        "facts": export_facts(config, settings_digest(config), step, ready.loaded.digests, derived_from),
        "end_ids": ready.end_ids, "trust": config.model.trust_remote_code,
    }  # fmt: skip

    if (buffers := ready.method.masks_of_base()) is not None:
        found = {weight: stored.tensor(mask) for weight, mask in buffers.items()}
        write_masked_base(ready, folder, step, found, settings)
        return

    def tensor(name: str) -> torch.Tensor:
        if name not in stored.shapes:
            return engine.full(name)
        if engine.ranks.rank:
            return torch.empty(0)  # rank 0 reads and writes
        value = stored.tensor(name)
        if not keep and name in ready.spare:
            first, old = ready.spare[name]
            value[first : first + len(old)] = old
        return value

    parts = {where: {n: tensor(n) for n in names} for where, names in ready.method.beside(model).items()}
    adapters, whole = ready.adapters, stored.weights

    def merged(name: str, merge: bool = True) -> torch.Tensor:
        assert adapters is not None
        value = adapters.plain(name, tensor, merge)
        if not keep and name in ready.spare and len(value):
            first, old = ready.spare[name]
            value[first : first + len(old)] = old.to(value.dtype)
        return value

    if adapters is not None:
        model, whole = adapters.base, list(adapters.names)
        settings["beside"] = adapter_writer(ready, tensor, merged, settings)
    settings["beside"] = with_parts(ready, parts, settings.get("beside"))
    if any(is_partitioned(p) for p in model.parameters()):
        engine.model.eval()  # no dropout
        last = step == fit.position.step  # other steps' weights are on the disk only
        probe, logits = probe_model(fit, settings["vocabulary"])
        # with adapters in 16 bits rounding differs more than any limit; `beside` compares them in fp32
        comparable = last and (adapters is None or engine.dtype == torch.float32)
        expected = logits[..., : settings["vocabulary"]] if comparable else None
        first, old = next(iter(ready.spare.values()), (0, torch.empty(0)))
        settings["restored"] = range(0) if keep else range(first, first + len(old))
        own = {n for tensors in parts.values() for n in tensors}
        read, names = (tensor, [n for n in model.state_dict() if n not in own])
        if adapters is not None:
            read, names = merged, whole
        export_streamed(folder, model, read, engine.ranks, expected, probe, names=names, **settings)
        engine.model.train()
    else:
        if engine.ranks.rank == 0:
            read = tensor if adapters is None else merged
            export(folder, model, {name: read(name) for name in whole}, **settings)
        engine.ranks.barrier()
    if engine.ranks.rank == 0:
        asked = with_inherited(ready.loaded.training_questions(), Path(ready.start))
        for place in (fit.run.root, folder, folder / "adapter"):
            if place.is_dir():
                write_questions(place, asked)
    engine.ranks.barrier()


def with_parts(
    ready: Assembly, parts: dict[str, dict[str, torch.Tensor]], other: Callable[..., None] | None
) -> Callable[..., None]:
    """What puts the method's own parts of the module tree beside the model, and then what `other` does."""

    def write(folder: Path, *probed: Any) -> None:
        for where, tensors in parts.items():
            dtype = ready.fit.engine.dtype
            ready.method.write_beside(folder / where, {n: t.to(dtype) for n, t in tensors.items()})
        if other is not None:
            other(folder, *probed)

    return write


def adapter_writer(
    ready: Assembly, tensor: Callable[[str], torch.Tensor], plain: Callable[..., torch.Tensor], settings: dict[str, Any]
) -> Callable[..., None]:
    """What puts the adapter beside its merged model, in the folder being written, and compares the two."""
    config, adapters = ready.fit.config, ready.adapters
    assert adapters is not None
    source = find_source(config.model)
    path = Path(source.base.path).expanduser()
    of = {"path": str(path.absolute()) if path.exists() else source.base.path, "revision": source.base.revision}
    facts = {"mft_version": __version__, "adapter_of": of, **settings["facts"]}
    new = set() if ready.method.keep_new_tokens else {*ready.new_ids}

    def beside(folder: Path, probe: torch.Tensor, expected: torch.Tensor | None) -> None:
        own = folder / "adapter"
        adapters.write(own, tensor, ready.base, lambda token: token not in new)
        settings["tokenizer"].save_pretrained(str(own))
        write_json(own / "mft.json", facts)
        write_atomically(own / "README.md", model_card(settings["facts"], {}))
        if expected is not None:  # rank 0 has all weights
            parts = [{n: plain(n, merge) for n in adapters.names} for merge in (False, True)]
            base, whole = (plain_model(adapters.base, p, torch.float32, settings["trust"]) for p in parts)
            close = 1e-4
        else:
            base, whole = loaded_fp32(ready.base, source.base), loaded_fp32(str(folder), source.base)
            close = 1e-4 if settings["dtype"] == torch.float32 else 0.1  # weights rounded to 16 bits
        verify_adapter(own, base, whole, probe.cpu(), settings["vocabulary"], close)

    return beside


def write_masked_base(
    ready: Assembly, folder: Path, step: int, found: dict[str, torch.Tensor], settings: dict[str, Any]
) -> None:
    """The base model's own files with masked weights removed, and the masks. All ranks have to call; the first writes."""
    fit, config = ready.fit, ready.fit.config
    probe, logits = probe_model(fit, settings["vocabulary"])
    # other steps' masks are on the disk only; in 16 bits rounding differs more than any limit that would find a fault
    comparable = step == fit.position.step and fit.engine.dtype == torch.float32
    expected = logits if comparable else None
    if fit.engine.ranks.rank == 0:
        base = masks.base_folder(config.model)
        sizes = {name: tensor.nbytes for name, tensor in masks.tensors(base)}
        facts = {"base_model": config.model.path, "method": settings["facts"]["method"], "step": step}
        named = {masks.stored_name(name, set(sizes)): mask for name, mask in found.items()}
        packed = masks.make(named, {**facts, "base_digest": masks.weights_digest(base)})
        settings["facts"]["masks"] = masks.about(packed)
        generation = generation_settings(fit.engine.model, settings["tokenizer"], settings["end_ids"])

        def finish(temporary: Path) -> None:
            describe_folder(temporary, settings["facts"], [generation, settings["tokenizer"]])
            verify(temporary, sizes, probe, expected, range(0), fit.engine.dtype, settings["trust"])

        masks.write_folder(base, packed, folder, finish)
    fit.engine.ranks.barrier()


def probe_model(fit: Fit, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids [1, 8], the trained model's logits of them). All ranks have to call."""
    model: Any = fit.engine.model
    training = model.training
    model.eval()
    probe = torch.arange(8, device=fit.engine.device).remainder(vocabulary)[None]
    with torch.no_grad():
        logits = fit.engine.run(probe_logits, probe).sums["logits"]
    model.train(training)
    return probe, logits


def probe_logits(model: Any, ids: torch.Tensor) -> Losses:
    """Logits [1, T, V] of one sequence, in the form in which an engine runs a loss."""
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    packed = packed_kwargs([[ids.shape[1]]], None)
    return Losses({"logits": model(input_ids=ids, position_ids=positions, use_cache=False, **packed).logits})


def inherited(base: str) -> list[str]:
    """What the base model's own training data was made from, if it is an export: a continued run inherits the taint."""
    facts = Path(base) / "mft.json"
    return list(read_json(facts).get("derived_from", [])) if facts.is_file() else []
