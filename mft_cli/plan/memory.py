"""Memory of one GPU, and of a node's processors, under every ZeRO stage (Rajbhandari et al. 2020, arXiv 1910.02054).

On paper a parameter in 16-bit training takes 16 bytes: weight 2, gradient 2, fp32 master 4, Adam's two moments 8. mft sums
bf16 gradients in fp32, in its own engine and under DeepSpeed (mft_cli/config/deepspeed.py): 18. In fp32: 4 + 4 + 8. Sizes of
DeepSpeed's buffers are those of conf/deepspeed/<stage>.yaml, with the configuration's own where it chose that stage, else
DeepSpeed's defaults (deepspeed/runtime/zero/config.py, 0.19).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import yaml

from mft_cli.config import deepspeed as zero_settings
from mft_cli.config.compose import CONF
from mft_cli.config.schema.launching import DeepspeedConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.plan.activations import Item, Micro, working
from mft_cli.plan.settings import Settings
from mft_cli.plan.shape import Shape
from mft_cli.plan.trained import Trained

STAGES = ("none", "zero1", "zero2", "zero3", "zero3_offload")


@dataclass(frozen=True)
class Buffers:
    """DeepSpeed's working buffers, in numbers (not bytes)."""

    reduce_bucket: float = 5e8
    live: float = 1e9  # stage3_max_live_parameters: gathered weights that may exist at once
    prefetch: float = 5e7
    sub_group: float = 1e9  # parameters that the optimizer steps at once in stage 3
    overlap: bool = False  # stages 1 and 2: a second bucket while the first is on its way

    @classmethod
    def of(cls, zero: dict[str, Any]) -> Buffers:
        """From DeepSpeed's `zero_optimization`."""
        plain = cls()

        def size(name: str, default: float) -> float:
            value = zero.get(name, zero.get(f"stage3_{name}", default))
            return default if value == "auto" else float(value)

        return cls(
            reduce_bucket=size("reduce_bucket_size", plain.reduce_bucket),
            live=size("max_live_parameters", plain.live), prefetch=size("prefetch_bucket_size", plain.prefetch),
            sub_group=size("sub_group_size", plain.sub_group), overlap=bool(zero.get("overlap_comm", False)),
        )  # fmt: skip


def own_stage(config: DeepspeedConfig) -> str | None:
    """The row of the table that the configuration stands in, its DeepSpeed file read; None for an offload that has none.
    Raises UserError for a file that cannot be read."""
    number, offloads = zero_settings.stage(config), zero_settings.offloads(config)
    zero = zero_settings.zero_section(config)
    if not offloads:
        return f"zero{number}" if number else "none"
    both = all((zero.get(k) or {}).get("device") == "cpu" for k in ("offload_optimizer", "offload_param"))
    return "zero3_offload" if number == 3 and both else None


def stage_buffers(config: DeepspeedConfig, stage: str) -> Buffers:
    """The configuration's own settings of its stage; of the others the preset's."""
    values = zero_settings.given(config)
    if own_stage(config) != stage:
        values = yaml.safe_load((CONF / "deepspeed" / f"{stage}.yaml").read_text()).get("config", {})
    return Buffers.of(values.get("zero_optimization", {}))


@dataclass(frozen=True)
class Problem:
    """Everything that the memory of a stage depends on."""

    shape: Shape
    trained: Trained
    micro: Micro
    gpus: int
    gpus_per_node: int
    gradient: int  # bytes of a gradient under DeepSpeed
    buffers: dict[str, Buffers]  # of each stage


@dataclass(frozen=True)
class StageMemory:
    """One stage. `cpu` is per node."""

    stage: str
    checkpointing: bool
    items: tuple[Item, ...]  # parameters, gradients, optimizer, masks, buffers
    work: tuple[Item, ...]  # what comes and goes within a step, at the moment when it is most
    cpu: tuple[Item, ...]
    loading: Item  # of a node's processors, too: from the files to the GPUs
    limit: float

    @property
    def total(self) -> float:
        return self.part_of(self.items) + self.work_total

    @property
    def work_total(self) -> float:
        return self.part_of(self.work)

    @property
    def cpu_total(self) -> float:
        return self.part_of(self.cpu)

    @property
    def fits(self) -> bool:
        return self.total <= self.limit

    @staticmethod
    def part_of(items: tuple[Item, ...]) -> float:
        return sum(i.bytes for i in items)

    def part(self, *names: str) -> float:
        return sum(i.bytes for i in self.items if i.name in names)


def make_problem(config: TrainConfig, settings: Settings, shape: Shape, trained: Trained, micro: Micro) -> Problem:
    default = "fp16" if config.train.precision == "fp16" else "fp32"  # as zero_settings writes it
    dtype = zero_settings.given(config.deepspeed).get("data_types", {}).get("grad_accum_dtype", default)
    gradient = 4 if dtype == "fp32" or micro.compute == 4 else 2
    buffers = {stage: stage_buffers(config.deepspeed, stage) for stage in STAGES if stage != "none"}
    return Problem(shape, trained, micro, settings.gpus, settings.gpus_per_node, gradient, buffers)


def stage_memory(p: Problem, stage: str, checkpointing: bool, limit: float) -> StageMemory:
    """The peak of one GPU in a step that has several micro-batches: earlier gradients are there during a forward."""
    work = working(p.shape, p.micro, p.trained, checkpointing)
    step = step_copy(p, stage)
    if step and step.bytes > sum(i.bytes for i in work):
        work = [step]  # by then all activations are gone
    items = [*states(p, stage), *buffers(p, stage)]
    return StageMemory(
        stage, checkpointing, tuple(items), tuple(work), tuple(cpu_items(p, stage)), loading(p, stage), limit
    )


def states(p: Problem, stage: str) -> list[Item]:
    """Parameters, gradients and optimizer state on a GPU."""
    b, t, n = p.micro.compute, p.trained, p.gpus
    held = t.parameter_bytes(b)
    per = f"{b} B x {t.total:,}" if not t.quantized else f"{b} B x {t.total - t.quantized:,} + 4-bit {t.quantized:,}"
    shared = f" / {n}"
    parameters = Item("parameters", per, held)
    g = gradient_bytes(p, stage)
    gradients = Item("gradients", f"{g} B x {t.trained:,}", g * t.trained)
    items = [parameters, gradients, optimizer_item(b, t)]
    cut = {"none": 0, "zero1": 1, "zero2": 2}.get(stage, 3)  # how many of them, from the last, are shared out
    items = [Item(i.name, i.formula + shared, i.bytes / n) if index >= 3 - cut else i for index, i in enumerate(items)]
    if t.scores:
        items.append(Item("masks", f"1 B x {t.scores:,} scored weights (a buffer: not shared out)", t.scores))
    return [i for i in items if not (stage == "zero3_offload" and i.name != "masks")]


def gradient_bytes(p: Problem, stage: str) -> int:
    return 4 if stage == "none" else p.gradient


def optimizer_bytes(compute: int) -> int:
    """fp32 master 4 (16-bit training only) + two moments 8."""
    return 8 if compute == 4 else 12


def optimizer_item(compute: int, t: Trained) -> Item:
    """Scores that never train have no moments, but an fp32 copy in 16-bit training."""
    if t.untrained_scores:
        copy = 0 if compute == 4 else 4
        return Item("optimizer", f"{copy} B x {t.untrained_scores:,} scores in fp32", copy * t.untrained_scores)
    o = optimizer_bytes(compute)
    return Item("optimizer", f"{o} B x {t.trained:,}", o * t.trained)


def buffers(p: Problem, stage: str) -> list[Item]:
    """What DeepSpeed keeps besides the states, by its own settings."""
    if stage == "none":
        return []
    b, size = p.micro.compute, p.buffers[stage]
    bucket = size.reduce_bucket * b
    twice = size.overlap and stage in ("zero1", "zero2")
    items = [
        Item(
            "buffers",
            f"{b} B x reduce_bucket_size {size.reduce_bucket:.0e}" + (" x 2 (overlap_comm)" if twice else ""),
            bucket * (2 if twice else 1),
        )
    ]
    if stage.startswith("zero3"):
        live = min(p.trained.total, size.live + size.prefetch)
        gathered = live / p.trained.total * p.trained.parameter_bytes(b)
        items.append(Item("buffers", f"{b} B x {live:,.0f} gathered weights (max_live_parameters, prefetch)", gathered))
    return items


def step_copy(p: Problem, stage: str) -> Item | None:
    """DeepSpeed steps with an fp32 copy of its share of 16-bit gradients; activations are gone by then."""
    if stage in ("none", "zero3_offload") or p.gradient == 4:
        return None
    count = p.trained.trained / p.gpus
    if stage == "zero3":
        count = min(count, p.buffers[stage].sub_group)
    return Item("fp32 gradients of the step", f"4 B x {count:,.0f}", 4 * count)


def cpu_items(p: Problem, stage: str) -> list[Item]:
    """Memory of a node's processors while it trains: offloaded states only."""
    if stage != "zero3_offload":
        return []
    b, t, share = p.micro.compute, p.trained, p.gpus_per_node / p.gpus
    of = f" x {p.gpus_per_node}/{p.gpus}"
    gradient = p.gradient
    full = 4 if b < 4 else 0
    optimizer = optimizer_item(b, t)
    return [
        Item("parameters", f"{b} B x {t.total:,}{of}", t.parameter_bytes(b) * share),
        Item(
            "gradients",
            f"({gradient} B + {full} B for the step in fp32) x {t.trained:,}{of}",
            (gradient + full) * t.trained * share,
        ),
        Item("optimizer", f"{optimizer.formula}{of}", optimizer.bytes * share),
    ]


def loading(p: Problem, stage: str) -> Item:
    """Memory of a node's processors while the weights go from their files to the GPUs.

    The files' own pages, which all ranks of a node have in common, in the files' precision (here: the one that it computes in),
    and nothing has to be cloned; stage 3 reads in fp32, and every rank its part.
    """
    b, t, ranks = p.micro.compute, p.trained, p.gpus_per_node
    if stage.startswith("zero3"):
        return Item("loading", f"4 B x {t.total:,} x {ranks}/{p.gpus}", 4.0 * t.total * ranks / p.gpus)
    return Item("loading", f"{b} B x {t.total:,}, one copy for all ranks", float(b) * t.total)


def table(p: Problem, limit: float) -> list[StageMemory]:
    """Every stage without and with gradient checkpointing."""
    return [stage_memory(p, stage, checkpointing, limit) for stage in STAGES for checkpointing in (False, True)]


def fewest_gpus(p: Problem, limit: float, checkpointing: bool) -> int | None:
    """The fewest GPUs on which ZeRO-3 without offload fits, up to 4,096; None if not even then."""
    for gpus in [*range(1, 65), *range(72, 4097, 8)]:
        if stage_memory(replace(p, gpus=gpus), "zero3", checkpointing, limit).fits:
            return gpus
    return None
