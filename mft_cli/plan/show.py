"""A plan as text with its arithmetic, and as plain values for scripts."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from mft_cli.console import duration
from mft_cli.data.deal import Balance
from mft_cli.models.device import Precision
from mft_cli.plan.activations import Item, layer_terms
from mft_cli.plan.estimate import Plan
from mft_cli.plan.memory import STAGES, StageMemory, gradient_bytes, optimizer_bytes, own_stage
from mft_cli.plan.rows import RESERVE, largest
from mft_cli.plan.saving import before_limit, seconds_for
from mft_cli.plan.trained import Trained
from mft_cli.plan.work import DataFacts, PassWork, Work

LEFT_OUT = (
    "Left out: the CUDA context, NCCL's buffers, gaps in the allocator's memory, and what a checkpoint's copy needs while "
    "it is written (docs/plan.md)."
)


RANK_BYTES = 4e9  # a rank's process besides weights: not measured on a GPU
RANK_CORES = 4  # Python, the backward pass, pinned copies, NCCL: a rule of thumb
PINNED = 1.5  # as DeepSpeed's own estimate of offload allows


def gb(value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e8 else f"{value / 1e9:,.3f} GB"


def as_text(p: Plan) -> str:
    sections = [model_lines(p), state_lines(p), activation_lines(p), stage_lines(p), verdict(p), work_lines(p)]
    return "\n\n".join("\n".join(lines) for lines in [*sections, disk_lines(p), [LEFT_OUT]])


def model_lines(p: Plan) -> list[str]:
    s, g = p.shape, p.settings
    return [
        f"model    {p.config.model.path or g.arch}: {s.parameters:,} parameters, from {s.source}",
        f"         L {s.layers} layers, D {s.width}, I {s.inner}, H {s.heads} heads of {s.head_dim} (A {s.queries}), "
        f"{s.kv_heads} key heads (K {s.keys}), V {s.vocabulary:,}, {'tied' if s.tied else 'untied'} head",
        f"trained  {p.trained.note}",
        f"machine  {g.gpus} GPUs on {g.nodes} node{'s' * (g.nodes > 1)}, {g.gpu_memory_gb:g} GB each, of which "
        f"{g.reserve:.0%} is left free: at most {gb(g.limit)} (1 GB = 1e9 bytes)",
    ]


def state_lines(p: Plan) -> list[str]:
    """The bytes of a parameter, and the whole of them."""
    b, t = p.problem.micro.compute, p.trained
    if not t.trained:
        return ["nothing trains: no gradients and no moments; the weights and their scores, one mask, one forward pass"]
    precision = {2: "16-bit (bf16 or fp16)", 4: "fp32"}[b]
    optimizer = optimizer_bytes(b)
    parts = "fp32 master 4 + Adam's moments 8" if b == 2 else "Adam's moments 8 (fp32 needs no master)"
    paper, held = 2 * b + optimizer, b + gradient_bytes(p.problem, "zero1") + optimizer
    lines = [
        f"bytes of a trained parameter, {precision}: weight {b} + gradient {b} + optimizer {optimizer} ({parts}) = {paper}",
        f"  on paper: {paper} B x {t.trained:,} = {gb(paper * t.trained)}",
    ]
    if held != paper:
        lines.append(
            f"  mft sums gradients in fp32, 4 bytes instead of {b}: {held} B, {gb(held * t.trained)}; the table counts these"
        )
    if t.frozen:
        lines.append(f"  frozen weights: {gb(t.parameter_bytes(b) - b * t.trained)} and nothing else")
    return lines


def activation_lines(p: Plan) -> list[str]:
    m, t, s = p.problem.micro, p.config.train, p.shape
    rows = f"M = micro_batch_size {t.rows_at_once} x {'row' if t.packing else 'longest example'} {p.row:,} tokens"
    terms = layer_terms(s, m)
    lines = [
        f"activations: {rows} = {m.positions:,} positions, {m.compute} bytes a number",
        "  kept per layer and position:",
    ]
    lines += [f"    {text} = {value:,.0f} B" for text, value in terms]
    of_layer = sum(v for _, v in terms)
    lines.append(
        f"    = {of_layer:,.0f} B; x M {m.positions:,} x L {s.layers} = {gb(of_layer * m.positions * s.layers)}"
    )
    kept = m.compute * s.width
    lines.append(
        f"  with gradient checkpointing {m.compute}D = {kept:,} B; x M x L = {gb(kept * m.positions * s.layers)}, "
        f"and one layer again while it goes backward"
    )
    chunk = min(m.chunk, m.labels)
    lines.append(
        f"  logits: at most train.logits_chunk {m.chunk:,} of {m.labels:,} label positions at once: {chunk:,} x V "
        f"{s.vocabulary:,} x {m.compute} B = {gb(chunk * s.vocabulary * m.compute)}"
    )
    if t.micro_batch_size == "auto":
        lines.append(
            f"  train.micro_batch_size=auto: counted as one row; a run on such GPUs tries {rows_tried(p)} first"
        )
    return lines


def rows_tried(p: Plan) -> int:
    """What train.micro_batch_size=auto begins with."""
    precision: Precision = "fp32" if p.problem.micro.compute == 4 else "bf16"
    settings = replace(p.settings, reserve=RESERVE)
    return largest(p.config, settings, p.shape, p.trained, precision)


def stage_lines(p: Plan) -> list[str]:
    """The table, then the arithmetic of every stage."""
    lines = ["memory of a GPU at its peak, GB"]
    header = ("", "parameters", "gradients", "optimizer", "work", "buffers", "total", "", "checkpointed", "")
    lines.append("{:14s} {:>10s} {:>10s} {:>10s} {:>8s} {:>8s} {:>8s} {:9s} {:>12s} {:9s}".format(*header).rstrip())
    for stage in STAGES:
        plain, checkpointed = (s for s in p.stages if s.stage == stage)
        lines.append(stage_row(plain, checkpointed))
    lines += work_arithmetic(p)
    for stage in STAGES:
        plain = next(s for s in p.stages if s.stage == stage)
        lines.append(f"  {stage}")
        lines += [item_line(i) for i in plain.items]
        lines.append(
            f"    on the processors of a node while it loads: {plain.loading.formula} = {gb(plain.loading.bytes)}"
        )
        if plain.cpu:
            lines.append(f"    on the processors of a node {gb(plain.cpu_total)}:")
            lines += ["  " + item_line(i) for i in plain.cpu]
            lines.append("      DeepSpeed's own estimate allows half as much again for pinned buffers")
    if p.problem.micro.compute < 4:
        lines.append(FP32_FILES)
    return lines


FP32_FILES = (
    "  files in fp32 take 4 B a weight while they load, and under zero1 and zero2 every rank 4 B more for each trained one that "
    "16 bits round"
)


def item_line(item: Item) -> str:
    return f"    {item.name}: {item.formula} = {gb(item.bytes)}"


def work_arithmetic(p: Plan) -> list[str]:
    """What comes and goes in a step, once for all stages; then where the optimizer's step is more than that."""
    lines = []
    for checkpointing in (False, True):
        first = next(s for s in p.stages if s.stage == "none" and s.checkpointing == checkpointing)
        lines.append(f"  work {'with' if checkpointing else 'without'} checkpointing, at its peak")
        lines += [item_line(i) for i in first.work]
        others = [s for s in p.stages if s.checkpointing == checkpointing and s.work != first.work]
        lines += [f"{item_line(s.work[0])} instead ({s.stage})" for s in others]
    return lines


def stage_row(plain: StageMemory, checkpointed: StageMemory) -> str:
    parts = [plain.part("parameters", "masks"), plain.part("gradients"), plain.part("optimizer"), plain.work_total]
    numbers = [f"{v / 1e9:.1f}" for v in [*parts, plain.part("buffers"), plain.total]]
    fits = ["fits" if s.fits else "too much" for s in (plain, checkpointed)]
    return (
        f"{plain.stage:14s} {numbers[0]:>10s} {numbers[1]:>10s} {numbers[2]:>10s} {numbers[3]:>8s} {numbers[4]:>8s} "
        f"{numbers[5]:>8s} {fits[0]:9s} {checkpointed.total / 1e9:12.1f} {fits[1]}"
    )


def asked_for(p: Plan) -> str:
    """The stage and the checkpointing that the configuration has."""
    name, on = own_stage(p.config.deepspeed), p.config.train.gradient_checkpointing
    chosen = next((s for s in p.stages if s.stage == name and s.checkpointing == on), None)
    how = f"{name} {'with' if on else 'without'} gradient checkpointing"
    if chosen is None:
        return "this configuration: an offload that is not in the table"
    cpu = f", and {gb(chosen.cpu_total)} of processors' memory on each node" if chosen.cpu else ""
    return f"this configuration: {how}, {gb(chosen.total)}{cpu}: {'fits' if chosen.fits else 'too much'}"


def slurm_line(p: Plan) -> list[str]:
    """The options of a job for the stage that the configuration has; nothing for an offload that is not in the table."""
    name, g = own_stage(p.config.deepspeed), p.settings
    chosen = next((s for s in p.stages if s.stage == name), None)
    if chosen is None:
        return []
    counted = max(chosen.loading.bytes, PINNED * chosen.cpu_total)
    memory = math.ceil((counted + RANK_BYTES * g.gpus_per_node) / 2**30)
    signal = before_limit(seconds_for(p.disk.checkpoint, 1 if name == "none" else g.nodes))
    return [
        f"SLURM    --nodes={g.nodes} --ntasks-per-node={g.gpus_per_node} --gpus-per-node={g.gpus_per_node} "
        f"--cpus-per-task={RANK_CORES} --mem={memory}G --signal=B:USR1@{signal}",
        f"         memory: loading or offload, and {RANK_BYTES / 1e9:g} GB a rank for libraries, CUDA's context and data",
    ]


def verdict(p: Plan) -> list[str]:
    lines = [asked_for(p), *slurm_line(p)]
    for checkpointing in (False, True):
        how = "with" if checkpointing else "without"
        chosen = p.lowest(checkpointing)
        if chosen is None:
            lines.append(f"{how} gradient checkpointing nothing fits")
        else:
            cpu = f", and {gb(chosen.cpu_total)} of processors' memory on each node" if chosen.cpu else ""
            lines.append(f"{how} gradient checkpointing the lowest that fits: {chosen.stage}, {gb(chosen.total)}{cpu}")
        if chosen is None or chosen.stage == "zero3_offload":
            gpus = p.fewest_gpus(checkpointing)
            enough = f"fits from {gpus} such GPUs on" if gpus else "does not fit on 4,096 such GPUs"
            lines.append(f"  zero3 without offload {enough}")
    if p.lowest(True) is None:
        lines.append("  less memory: train.micro_batch_size=1, a shorter train.row_length, peft=lora, more GPUs")
    return lines


def work_lines(p: Plan) -> list[str]:
    w, d, s = p.work, p.data, p.settings
    if not p.trained.trained:
        return [
            "steps    0: the mask is chosen at the start; what takes time is loading, one validation and the export"
        ]
    if w is None:
        return [d.missing]
    t = p.config.train
    lines = [
        f"tokens   {d.rows:,} examples x {d.mean_tokens:,.1f} tokens = {w.tokens_per_epoch:,.0f} an epoch ({d.origin})",
        f"steps    {d.rows:,} / global_batch_size {t.global_batch_size} = {w.steps_per_epoch:,} an epoch, {w.steps:,} in all; "
        f"{w.balance.passes:.3g} forward passes a GPU in each",
        f"         {balance_text(w.balance, s.gpus, d)}",
        *flops_lines(p, w),
    ]
    if w.seconds is None:
        lines.append("time     not known: give peak_tflops=, the GPU's peak in the precision of the run")
    else:
        lines.append(
            f"time     {w.flops:.4g} / ({s.gpus} GPUs x {s.peak_tflops:g}e12 x mfu {s.mfu:g}) = {w.seconds:,.0f} s = "
            f"{duration(w.seconds)}, {s.gpus * w.seconds / 3600:,.1f} GPU hours"
        )
        lines.append(f"         {mfu_remark(p, w)}")
    return lines


def balance_text(b: Balance, gpus: int, data: DataFacts) -> str:
    """How much of the GPUs' work is of use."""
    supposed = "" if data.order else ", as if all examples were of the mean length"
    idle = f"; {b.idle} of {gpus} GPUs have no example in a step: raise train.global_batch_size" if b.idle else ""
    return f"{b.useful:.0%} of the positions that they compute or wait for are tokens, the rest is padding and waiting{supposed}{idle}"


def flops_lines(p: Plan, w: Work) -> list[str]:
    """FLOPs of a token by their parts, and of the run."""
    weights = "6 x adapters + 4 x frozen weights" if p.trained.adapters else "6 x weights"
    attention = f"6 x L x D x {p.data.document or 0:,.0f} tokens"
    first, of_all = f"FLOPs    {w.flops_per_token:.4g} a token ({weights} + {attention})", f"x {w.tokens:,.0f} tokens"
    if not w.extra:
        return [f"{first} {of_all} = {w.flops:.4g}"]
    return [first, *map(pass_line, w.extra), f"         {of_all} = {w.flops:.4g}"]


def pass_line(extra: PassWork) -> str:
    """The FLOPs of a pass before the training's own."""
    times = f"{extra.products} products" if extra.products > 1 else "1 product"
    head = f", and for {extra.share:.3f} of the tokens (chosen, mean of the run) {times} of 2VD"
    return f"         + {extra.flops_per_token:.4g} a token of the {extra.name}: a third of that without the head" + (
        head if extra.products else ""
    )


def mfu_remark(p: Plan, w: Work) -> str:
    """What the mfu that was given counts."""
    text = "mfu counts the model's operations as training logs them"
    computed = w.flops_per_token + sum(e.flops_per_token for e in w.extra)
    if w.extra:
        names = " and the ".join(e.name for e in w.extra)
        logged = p.settings.mfu * w.flops_per_token / computed
        text += f", and the {names}, which the log leaves out: it will say {logged:.2f}"
    more = w.recomputed / computed
    text += f"; gradient checkpointing, which mfu leaves out, computes {more:.0%} more"
    if p.config.train.gradient_checkpointing and w.seconds is not None:
        text += f" and is on: {duration(w.seconds * (1 + more))} if the GPUs are as fast with it"
    return text


def disk_lines(p: Plan) -> list[str]:
    d, c = p.disk, p.config.checkpoint
    best = " + the best" if c.keep_best else ""
    return [
        f"disk     checkpoint {checkpoint_formula(p.trained)} = {gb(d.checkpoint)}; x (keep_last {c.keep_last}{best} + 1 "
        f"being written) = {gb(d.checkpoint * d.checkpoints)}",
        f"         export {p.problem.micro.compute} B x {p.shape.parameters:,} = {gb(d.export)}"
        + (f", {d.exports} of them" if d.exports > 1 else "")
        + f"; in all {gb(d.total)}",
    ]


def checkpoint_formula(t: Trained) -> str:
    masks = f" + masks 1 B x {t.scores:,}" if t.scores else ""
    return (f"(4 + 8) B x {t.trained:,}" if t.trained else f"4 B x {t.untrained_scores:,}") + masks


def as_json(p: Plan) -> dict[str, Any]:
    """Bytes, seconds and counts; nothing rounded."""
    keys = [*vars(p.shape)]
    shape = {k: getattr(p.shape, k) for k in keys if k not in ("linears", "model")}
    return {
        "model": {"path": p.config.model.path, **shape},
        "trained": {k: getattr(p.trained, k) for k in ("trained", "frozen", "quantized", "adapters", "scores", "note")},
        "settings": vars(p.settings),
        "micro_batch": vars(p.problem.micro),
        "limit": p.settings.limit,
        "stages": [stage_values(s) for s in p.stages],
        "lowest": {
            "plain": stage_name(p.lowest(False)),
            "gradient_checkpointing": stage_name(p.lowest(True)),
        },
        "data": {k: v for k, v in vars(p.data).items() if k != "order"},
        "work": None if p.work is None else asdict(p.work),
        "disk": {**vars(p.disk), "total": p.disk.total},
    }


def stage_name(s: StageMemory | None) -> str | None:
    return s.stage if s else None


def stage_values(s: StageMemory) -> dict[str, Any]:
    return {
        "stage": s.stage, "gradient_checkpointing": s.checkpointing,
        "total": s.total, "fits": s.fits,
        "items": [vars(i) for i in s.items],
        "work": [vars(i) for i in s.work], "loading_per_node": s.loading.bytes,
        "cpu_per_node": s.cpu_total, "cpu_items": [vars(i) for i in s.cpu],
    }  # fmt: skip
