"""`mft analyze landscape`: the loss around a model's weights, between models, and on the plane through three.

After Li et al. 2018 (arXiv 1712.09913); mask fine-tuning (arXiv 2503.22764) shows such surfaces in figures 6 and 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from mft_cli.analysis import landscape_report
from mft_cli.analysis.scenes import Coordinates, Scene, make_scenes
from mft_cli.analysis.settings import LandscapeSettings, check_landscape
from mft_cli.analysis.subjects import Prepared, prepare
from mft_cli.config.schema.methods import SftConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.console import TokenProgress
from mft_cli.data.examples import Examples
from mft_cli.data.pack import Batch, make_batch, pack_examples
from mft_cli.errors import Stopped, UserError
from mft_cli.eval.journal import Journal
from mft_cli.files import JsonObject, digest_of, locked
from mft_cli.methods import make
from mft_cli.methods.base import Method, label_count
from mft_cli.models.probes import may_pack
from mft_cli.signals import StopSignal

VERSION = 1  # of what a record means: another one makes new records


class Loss:
    """Mean cross entropy of the label tokens of fixed examples, in fp32; sums of batches are added in fp64."""

    def __init__(self, examples: Examples, batch_tokens: int, pad_id: int, device: torch.device):
        self.method: Method = make(SftConfig(), 1024)

        def batches(packing: bool) -> list[Batch]:
            rows = pack_examples(examples.lengths, batch_tokens, packing)
            return [make_batch(examples, [row], 0, pad_id).to(device) for row in rows]

        self.batches = lru_cache(batches)
        self.labels = sum(label_count(batch) for batch in self.batches(True))

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> float:
        batches = self.batches(may_pack(model))
        sums = [float(self.method.loss(model, batch).sums["ce"]) for batch in batches]
        return math.fsum(sums) / self.labels


def landscape(config: TrainConfig, folders: list[str], own_model: bool, asked: LandscapeSettings) -> JsonObject:
    """Evaluate, print the table, write everything, return the JSON. Raises UserError; Stopped after a signal."""
    check_landscape(asked)
    ready = prepare(config, folders, own_model, asked.examples, asked.split)
    check_count(asked.kind, len(ready.subjects))
    loss = Loss(ready.examples, asked.batch_tokens, int(ready.tokenizer.pad_token_id), ready.device)
    print(f"{ready.source}; {loss.labels} label tokens", flush=True)
    shared = [
        VERSION,
        asked.kind,
        asked.dimensions,
        str(asked.keep_zeros).lower(),
        asked.batch_tokens,
        config.seed,
        data_digest(ready),
    ]
    settings = {k: v for k, v in asdict(asked).items() if k != "out"} | {"seed": config.seed}
    out = Path(asked.out or f"outputs/landscape-{config.data.name or 'data'}-{digest_of([settings, shared])[:8]}")
    with locked(out, f"{out} is in use by another mft process; wait for it, or set out="):
        stop = StopSignal()
        scenes = make_scenes(ready, asked, config.seed)
        keys = [[key_of(scene, point, shared) for point in (*scene.marks, *scene.places)] for scene in scenes]
        journal = Journal(out / "points.jsonl", list(dict.fromkeys(key for scene_keys in keys for key in scene_keys)))
        try:
            for scene, scene_keys in zip(scenes, keys, strict=True):
                evaluate(scene, scene_keys, journal, loss, stop)
        finally:
            journal.close()
        journal.finish()
        losses = [[journal.done[key]["loss"] for key in scene_keys] for scene_keys in keys]
        return landscape_report.write(ready, scenes, losses, settings, loss.labels, out)


def check_count(kind: str, count: int) -> None:
    expected = {"random": "one or more", "line": "two or more", "plane": "three"}[kind]
    if (kind == "line" and count < 2) or (kind == "plane" and count != 3):
        raise UserError(f"kind={kind} takes {expected} models and got {count}: name run folders or model folders")


def data_digest(ready: Prepared) -> str:
    e = ready.examples
    return digest_of([e.ids.tolist(), e.flat("tokens").tolist(), e.flat("loss_mask").tolist()])


def key_of(scene: Scene, point: Coordinates, shared: Sequence[object]) -> str:
    """A model's own place has a key of its own, so that it is evaluated once however many scenes it is in."""
    if point in scene.marks:
        data = [shared[0], *shared[4:5], shared[-1]]
        return digest_of(["model", *data, scene.subjects[scene.marks.index(point)].folder.weights_digest])
    return digest_of([*shared, [s.folder.weights_digest for s in scene.subjects], list(point)])


def evaluate(scene: Scene, keys: list[str], journal: Journal, loss: Loss, stop: StopSignal) -> None:
    """Add the scene's missing points to the journal."""
    places = dict(zip(keys, (*scene.marks, *scene.places), strict=True))
    missing = [key for key in places if key not in journal.done]
    if not missing:
        return
    model, put = scene.open()
    models = [s.folder.weights_digest for s in scene.subjects]
    progress = TokenProgress(scene.label, len(missing), 1)
    for key in missing:
        if stop.name:
            raise Stopped(f"stopped by {stop.name}; {journal.path} has what is evaluated", stop.name)
        put(places[key])
        value = loss(model)
        journal.add(key, {"models": models, "at": list(places[key]), "loss": value if math.isfinite(value) else None})
        progress.examples(1)
    progress.close()
