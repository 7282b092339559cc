"""The speed and memory of scripts/gpu_check.py, beside a plain loop."""

from __future__ import annotations

import time

import torch
from gpu_setup import Check, Row, make_model, settings, start, wait

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.models.pretrained import read_model
from mft_cli.plan.estimate import make_plan
from mft_cli.plan.settings import PlanOptions, settings_of
from mft_cli.train.loop import Trainer

MFU_GOAL, MEMORY_LIMIT, WAITS_LIMIT = 0.5, 0.1, 3


def speed(check: Check) -> None:
    """Tokens/s and MFU, kernels and waits of a micro-batch, the peak of memory against `mft plan`."""
    for shape in ("tiny",) if check.tiny else ("135M", "1B"):
        if not (check.out / shape).exists():
            make_model(check.out / shape, shape)
        for attention in ("auto", "sdpa"):
            if time.monotonic() > check.end - 60 and not check.tiny:
                check.add(Row("speed", f"{shape}, {attention}", "left out: no time"))
                continue
            trained_speed(check, shape, attention)
        plain_speed(check, shape)


def trained_speed(check: Check, shape: str, attention: str) -> None:
    train = {
        "precision": "bf16" if check.device.type == "cuda" else "fp32",
        "global_batch_size": 64,
        "micro_batch_size": 8,
        "max_steps": 9,
    }
    config = settings(check, f"speed-{shape}-{attention}", shape=shape, train=train, model={"attention": attention})
    trainer, name = start(config), f"{shape}, {attention}"
    trainer.step(0)
    wait(check.device)
    begun, tokens = time.perf_counter(), 0
    for k in range(1, 3 if check.tiny else 6):
        tokens += trainer.step(k).tokens
    wait(check.device)
    rate = tokens / (time.perf_counter() - begun)
    check.add(Row("speed", name, f"{rate:,.0f} tokens/s"))
    if trainer.peak_flops:
        mfu = rate * trainer.flops_per_token / trainer.peak_flops
        check.add(
            Row(
                "speed",
                f"{name}: MFU",
                f"{mfu:.2f}",
                f">= {MFU_GOAL}" * (shape == "1B"),
                mfu >= MFU_GOAL if shape == "1B" else None,
            )
        )
    count_kernels(check, trainer, name)
    if check.device.type == "cuda":
        memory(check, config, name)
    trainer.engine.close()


def count_kernels(check: Check, trainer: Trainer, name: str) -> None:
    from torch.profiler import ProfilerActivity, profile

    gpu = check.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]) as found:
        trainer.step(7)
        wait(check.device)
    events, passes = found.key_averages(), len(trainer.batches_of_step(7).micro_batches)
    launched = sum(e.count for e in events if (e.key == "cudaLaunchKernel" if gpu else e.key.startswith("aten::")))
    check.add(Row("speed", f"{name}: {'kernels' if gpu else 'operations'} a micro-batch", f"{launched / passes:,.0f}"))
    if gpu:
        waits = sum(
            e.count
            for e in events
            if e.key in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
        )
        check.limited(
            "speed", f"{name}: waits a micro-batch", (waits - 1) / passes, WAITS_LIMIT
        )  # one is this script's


def memory(check: Check, config: TrainConfig, name: str) -> None:
    plan = make_plan(config, settings_of(PlanOptions(gpus=1), config))
    planned = next(s.total for s in plan.stages if s.stage == "none" and not s.checkpointing)
    measured = torch.cuda.max_memory_allocated()
    off = abs(measured - planned) / planned
    text = f"{measured / 1e9:.2f} GB, planned {planned / 1e9:.2f}"
    check.add(Row("speed", f"{name}: peak against mft plan", text, f"{MEMORY_LIMIT:.0%} apart", off <= MEMORY_LIMIT))
    torch.cuda.reset_peak_memory_stats()


def plain_speed(check: Check, shape: str) -> None:
    """The ceiling: transformers' model with its own attention and loss, dense rows, fused AdamW, bf16 weights without masters."""
    rows, length, steps = (2, 64, 2) if check.tiny else (8, 1024, 5)
    model = read_model(check.out / shape, dtype=torch.bfloat16).to(check.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(2, 200, (rows, length), device=check.device)
    begun = 0.0
    for k in range(steps + 1):
        if k == 1:
            wait(check.device)
            begun = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    wait(check.device)
    rate = steps * rows * length / (time.perf_counter() - begun)
    check.add(Row("speed", f"{shape}, a plain loop on dense rows", f"{rate:,.0f} tokens/s"))
