"""What a run exports, from its checkpoints: the model, what lies next to it, and the digests of its training questions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mft_cli import __version__
from mft_cli.console import Log
from mft_cli.data.questions import with_inherited, write_questions
from mft_cli.distributed.zero import is_partitioned, shape_of
from mft_cli.export.card import HubFacts, export_facts, model_card
from mft_cli.export.generation import generation_settings
from mft_cli.export.streamed import Written, describe_folder, export_streamed, verify
from mft_cli.export.whole import ExportSettings, WriteExtraFiles, export, loaded_fp32, plain_model, verify_adapter
from mft_cli.files import read_json, write_atomically, write_json
from mft_cli.methods import weight_masks as masks
from mft_cli.methods.base import Losses
from mft_cli.models.checksums import write_sums
from mft_cli.models.device import memory_left
from mft_cli.models.folder import find_source
from mft_cli.models.kernels.attention import packed_kwargs
from mft_cli.models.kernels.cross_entropy import causal_lm
from mft_cli.models.vocabulary import embedding_rows
from mft_cli.train import checkpoint as checkpoints
from mft_cli.train.loop import Trainer
from mft_cli.train.settings import settings_digest
from mft_cli.train.setup import Assembly


def write_exports(ready: Assembly, log: Log) -> None:
    """export/ of the last step, and export-best/ or export-step-*/ where they are to be evaluated. From checkpoints."""
    trainer = ready.trainer
    config, run, state = trainer.config, trainer.run, trainer.state
    todo: list[tuple[Path, int]] = [(run.export, state.step)]
    if config.checkpoint.keep_best and state.best_step is not None:
        todo.append((run.root / "export-best", state.best_step))
    if config.eval.checkpoints == "all":
        for step in checkpoints.steps_in(run.checkpoints):
            if step != state.step:
                todo.append((run.root / f"export-step-{step:08d}", step))
    for folder, step in todo:
        write_export(ready, folder, step)
        log(f"exported step {step} to {folder}")


def write_export(ready: Assembly, folder: Path, step: int, root: Path | None = None) -> None:
    """The checkpoint of one step as a Hugging Face folder, with digests of the training questions. All ranks have to call.

    `root` is the folder of the checkpoint; None: the run's.
    """
    trainer, config = ready.trainer, ready.trainer.config
    model = trainer.engine.model
    trainer.engine.ranks.barrier()  # the checkpoint is there for every rank
    stored = checkpoints.Stored(checkpoints.step_folder(root or trainer.run.checkpoints, step))
    keep = ready.method.keep_new_tokens
    derived_from = sorted({*inherited(ready.start), *ready.loaded.derived_from})
    settings = ExportSettings(
        vocabulary=embedding_rows(model) if keep else ready.base_vocabulary,
        tokenizer=ready.tokenizer if keep else ready.base_tokenizer, dtype=trainer.engine.dtype,
        facts=export_facts(config, settings_digest(config), step, ready.loaded.digests, derived_from),
        end_ids=ready.end_ids, trust=config.model.trust_remote_code,
    )  # fmt: skip
    if (buffers := ready.method.masks_of_base()) is not None:
        weight_masks = {weight: stored.tensor(mask) for weight, mask in buffers.items()}
        write_masked_base(ready, folder, step, weight_masks, settings)
    else:
        write_model(ready, folder, step, stored, settings)
    if trainer.engine.ranks.rank == 0:
        asked = with_inherited(ready.loaded.training_questions(), Path(ready.start))
        for copy in (trainer.run.root, folder, folder / "adapter"):
            if copy.is_dir():
                write_questions(copy, asked)
        for sealed in (folder / "adapter", folder):
            if sealed.is_dir():
                write_sums(sealed)
    trainer.engine.ranks.barrier()


def write_model(ready: Assembly, folder: Path, step: int, stored: checkpoints.Stored, settings: ExportSettings) -> None:
    """The trained weights, adapters merged, and the extra files. All ranks have to call; the first writes."""
    trainer, engine, adapters = ready.trainer, ready.trainer.engine, ready.adapters
    model = ready.model
    keep, whole = ready.method.keep_new_tokens, stored.weights

    def given_back(name: str, value: torch.Tensor) -> torch.Tensor:
        """Rows that new tokens took over, as they were; a rank that does not write has an empty tensor."""
        if not keep and name in ready.spare and len(value):
            first, old = ready.spare[name]
            value[first : first + len(old)] = old.to(value.dtype)
        return value

    def tensor(name: str) -> torch.Tensor:
        if name not in stored.shapes:
            return engine.full(name)
        return torch.empty(0) if engine.ranks.rank else given_back(name, stored.tensor(name))  # rank 0 reads and writes

    def merged(name: str, merge: bool = True) -> torch.Tensor:
        assert adapters is not None
        return given_back(name, adapters.plain(name, tensor, merge))

    read = tensor if adapters is None else merged
    parts = {part: {n: tensor(n) for n in names} for part, names in ready.method.extra_files(model).items()}
    elsewhere = {n for tensors in parts.values() for n in tensors}
    names = [n for n in model.state_dict() if n not in elsewhere]
    if adapters is not None:
        model, whole = adapters.base, list(adapters.names)
        names = whole
        settings.write_extra_files = adapter_writer(ready, tensor, merged, settings)
    settings.write_extra_files = with_parts(ready, parts, settings.write_extra_files)
    if any(is_partitioned(p) for p in model.parameters()):
        last = step == trainer.state.step  # other steps' weights are on the disk only
        probe, logits = probe_model(trainer, settings.vocabulary)
        # with adapters in 16 bits rounding differs more than any limit; the adapter's writer compares them in fp32
        comparable = last and (adapters is None or engine.dtype == torch.float32)
        expected = logits[..., : settings.vocabulary] if comparable else None
        first, old = next(iter(ready.spare.values()), (0, torch.empty(0)))
        restored = range(0) if keep else range(first, first + len(old))
        export_streamed(folder, model, read, engine.ranks, expected, probe, settings, restored, names)
    elif engine.ranks.rank == 0:
        export(folder, model, {name: read(name) for name in whole}, settings)
    engine.ranks.barrier()


def with_parts(
    ready: Assembly, parts: dict[str, dict[str, torch.Tensor]], other: WriteExtraFiles | None
) -> WriteExtraFiles:
    """What writes the method's own parts of the module tree into the export's folder, and then what `other` does."""

    def write(folder: Path, probe: torch.Tensor, expected: torch.Tensor | None) -> None:
        for part, tensors in parts.items():
            dtype = ready.trainer.engine.dtype
            ready.method.write_extra_files(folder / part, {n: t.to(dtype) for n, t in tensors.items()})
        if other is not None:
            other(folder, probe, expected)

    return write


def adapter_writer(
    ready: Assembly, tensor: Callable[[str], torch.Tensor], plain: Callable[..., torch.Tensor], settings: ExportSettings
) -> WriteExtraFiles:
    """What writes the adapter into its merged model's folder and compares the two."""
    config, adapters = ready.trainer.config, ready.adapters
    assert adapters is not None
    source = find_source(config.model)
    path = Path(source.base.path).expanduser()
    of = {"path": str(path.absolute()) if path.exists() else source.base.path, "revision": source.base.revision}
    facts = {"mft_version": __version__, "adapter_of": of, **settings.facts}
    new = set() if ready.method.keep_new_tokens else {*ready.new_ids}

    def write(folder: Path, probe: torch.Tensor, expected: torch.Tensor | None) -> None:
        adapter = folder / "adapter"
        adapters.write(adapter, tensor, ready.base, lambda token: token not in new)
        settings.tokenizer.save_pretrained(str(adapter))
        write_atomically(adapter / "README.md", model_card(settings.facts, {}, HubFacts(library="peft")))
        # two models in fp32, one after the other made from the files or from the trained weights
        needed = 2 * 4 * sum(math.prod(shape_of(p)) for p in adapters.base.parameters())
        compared = needed <= memory_left()
        write_json(adapter / "mft.json", {**facts, "compared_with_merged": compared})
        if not compared:
            ready.trainer.log(
                f"{adapter}: NOT compared with the merged model: that takes two models in fp32, {needed / 2**30:,.0f} GiB, "
                f"and {memory_left() / 2**30:,.0f} GiB are free here; the merged model itself was checked"
            )
            return
        if expected is not None:  # rank 0 has all weights
            parts = [{n: plain(n, merge) for n in adapters.names} for merge in (False, True)]
            base, whole = (plain_model(adapters.base, p, torch.float32, settings.trust) for p in parts)
            close = 1e-4
        else:
            base, whole = loaded_fp32(ready.base, source.base), loaded_fp32(str(folder), source.base)
            close = 1e-4 if settings.dtype == torch.float32 else 0.1  # weights rounded to 16 bits
        verify_adapter(adapter, base, whole, probe.cpu(), settings.vocabulary, close)

    return write


def write_masked_base(
    ready: Assembly, folder: Path, step: int, weight_masks: dict[str, torch.Tensor], settings: ExportSettings
) -> None:
    """The base model's own files with masked weights removed, and the masks. All ranks have to call; the first writes."""
    trainer, config = ready.trainer, ready.trainer.config
    probe, logits = probe_model(trainer, settings.vocabulary)
    # other steps' masks are on the disk only; in 16 bits rounding differs more than any limit that would find a fault
    comparable = step == trainer.state.step and trainer.engine.dtype == torch.float32
    expected = logits if comparable else None
    if trainer.engine.ranks.rank == 0:
        base = masks.base_folder(config.model)
        sizes: Written = {name: (tensor.nbytes, None) for name, tensor in masks.tensors(base)}
        facts = {
            "base_model": config.model.path,
            "method": settings.facts["method"],
            "seed": config.seed,
            "step": step,
        }
        named = {masks.stored_name(name, set(sizes)): mask for name, mask in weight_masks.items()}
        packed = masks.make(named, {**facts, "base_digest": masks.weights_digest(base)})
        settings.facts["masks"] = masks.about(packed)
        generation = generation_settings(ready.model, settings.tokenizer, settings.end_ids)

        def finish(temporary: Path) -> None:
            describe_folder(temporary, settings.facts, [generation, settings.tokenizer])
            verify(temporary, sizes, probe, expected, range(0), trainer.engine.dtype, settings.trust)

        masks.write_folder(base, packed, folder, finish)
    trainer.engine.ranks.barrier()


def probe_model(trainer: Trainer, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids [1, 8], the trained model's logits of them). All ranks have to call."""
    model = trainer.engine.model
    training = model.training
    model.eval()
    probe = torch.arange(8, device=trainer.engine.device).remainder(vocabulary)[None]
    with torch.no_grad():
        logits = trainer.engine.run(probe_logits, probe).sums["logits"]
    model.train(training)
    return probe, logits


def probe_logits(model: nn.Module, ids: torch.Tensor) -> Losses:
    """Logits [1, T, V] of one sequence, in the form in which an engine runs a loss."""
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    packed = packed_kwargs([[ids.shape[1]]], None)
    # peft calls the model inside it by forward(), which runs no hook
    return Losses({"logits": causal_lm(model)(input_ids=ids, position_ids=positions, use_cache=False, **packed).logits})


def inherited(base: str) -> list[str]:
    """What the base model's own training data was made from, if it is an export: a continued run inherits the taint."""
    facts = Path(base) / "mft.json"
    return list(read_json(facts).get("derived_from", [])) if facts.is_file() else []
