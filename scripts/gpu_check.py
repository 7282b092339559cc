"""What only a GPU can prove, by one command and without a network: numbers, speed, memory, ZeRO, checkpoints.

    python scripts/gpu_check.py --out DIR --minutes 9                 on one CUDA device
    python scripts/gpu_check.py --out DIR --device cpu --tiny         the same code in a minute (tests/scripts)

Models have random weights, examples are made up. Every row is written to DIR/rows.json and DIR/table.txt as soon as it is known; what
does not fit into the minutes is left out, and says so. Exit status 1: a row failed.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from gpu_liger import liger
from gpu_setup import METHODS, Check, Row, apart, make_model, make_rows, on, settings, start
from gpu_speed import speed

from mft_cli.config.compose import CONF
from mft_cli.errors import UserError
from mft_cli.methods.selection import keep_largest
from mft_cli.models.kernels.backends import IMPLEMENTATIONS, register
from mft_cli.models.pretrained import read_model
from mft_cli.plan.rows import rows_that_fit
from mft_cli.rng import Draw

LOSS_LIMIT, BF16_LIMIT, BYTES_LIMIT = 1e-4, 2e-2, 64e6


def versions(check: Check) -> None:
    import transformers

    for name, version in (
        ("python", sys.version.split()[0]),
        ("torch", torch.__version__),
        ("transformers", transformers.__version__),
    ):
        check.add(Row("versions", name, version))
    check.add(Row("versions", "device", torch.cuda.get_device_name() if check.device.type == "cuda" else "cpu"))
    for backend in IMPLEMENTATIONS:
        model = read_model(check.out / "tiny", dtype=torch.bfloat16, attn_implementation=register(backend))
        name = model.config._attn_implementation
        check.add(Row("versions", f"a model loads with {backend}", name, passed=name == IMPLEMENTATIONS[backend][0]))


def draws(check: Check) -> None:
    """Draws and selection, which have to be the same bits on every device."""
    ids = torch.arange(100_000, dtype=torch.int64) * 7919
    same = torch.equal(Draw(1)("check", 0, ids), Draw(1)("check", 0, ids.to(check.device)).cpu())
    check.add(Row("numbers", "draws, to the bit", str(same), "True", same))
    scores = torch.randn(512, 2048, generator=torch.Generator().manual_seed(0))
    same = torch.equal(keep_largest(scores, 100_000), keep_largest(scores.to(check.device), 100_000).cpu())
    check.add(Row("numbers", "mask selection, to the bit", str(same), "True", same))


def numbers(check: Check) -> None:
    """Two steps of every method against the processor's, in fp32; and bf16 against fp32 on the device."""
    draws(check)
    for method in METHODS:
        runs = {}
        for name, device, precision in (
            ("cpu", "cpu", "fp32"),
            ("fp32", check.device.type, "fp32"),
            ("bf16", check.device.type, "bf16"),
        ):
            config = settings(
                check, f"numbers-{method}-{name}", method, launch=on(device), train={"precision": precision}
            )
            trainer = start(config)
            runs[name] = [trainer.step(k) for k in range(2)]
            trainer.engine.close()
        for name, reference, limit in (("fp32", "cpu", LOSS_LIMIT), ("bf16", "fp32", BF16_LIMIT)):
            pairs = list(zip(runs[name], runs[reference], strict=True))
            check.limited(
                "numbers",
                f"{method}: loss, {name} against {reference}",
                apart([a.loss for a, _ in pairs], [b.loss for _, b in pairs]),
                limit,
            )
            same = all(a.counts == b.counts for a, b in pairs) and runs[name][0].shares == runs[reference][0].shares
            check.add(
                Row("numbers", f"{method}: masks and counts, {name} against {reference}", str(same), "True", same)
            )


def attention(check: Check) -> None:
    """Loss and gradient norm of a step in bf16 under every attention that runs here, against one call a document."""
    expected = None
    for name in IMPLEMENTATIONS:
        model, train = {"attention": name}, {"precision": "bf16"}
        try:
            trainer = start(settings(check, f"attention-{name}", model=model, train=train))
        except UserError as error:
            check.add(Row("attention", name, f"does not run here: {str(error).split(': ')[0][:80]}"))
            continue
        result = trainer.step(0)
        trainer.engine.close()
        expected = expected or result
        check.limited("attention", f"{name}: loss", apart([result.loss], [expected.loss]), BF16_LIMIT)
        check.limited("attention", f"{name}: gradient norm", apart([result.norm], [expected.norm]), 2 * BF16_LIMIT)


def rows(check: Check) -> None:
    """train.micro_batch_size=auto: from the plan, then a trial; a step of so many rows has the numbers of one row at a time."""
    losses = []
    for size in (1, "auto"):
        train = {"micro_batch_size": size, "row_length": 1024, "global_batch_size": 64}
        trainer = start(settings(check, f"rows-{size}", train=train), rows_that_fit)
        losses.append(trainer.step(0).loss)
        trainer.engine.close()
    check.add(
        Row("rows", "micro_batch_size=auto", f"{trainer.layout.micro_batch_size} rows of {trainer.layout.row_length}")
    )
    check.limited("rows", "loss against one row at a time", apart(losses[1:], losses[:1]), LOSS_LIMIT)


def resume(check: Check) -> None:
    """6 steps against 3 and 3: the masters, to the bit."""
    whole = start(settings(check, "six", "masked_thought"))
    for k in range(6):
        whole.step(k)
    half = start(settings(check, "three", "masked_thought"))
    half.state.step = 3
    for k in range(3):
        half.step(k)
    begun = time.perf_counter()
    half.save()
    size = sum(f.stat().st_size for f in half.run.checkpoints.rglob("*") if f.is_file())
    check.add(Row("resume", "a checkpoint is written", f"{size / 1e9 / (time.perf_counter() - begun):.3f} GB/s"))
    again = start(settings(check, "three", "masked_thought"))
    for k in range(again.state.step, 6):
        again.step(k)
    same = again.state.step == 3 and all(
        torch.equal(again.engine.master(n), whole.engine.master(n)) for n in whole.engine.named
    )
    check.add(Row("resume", "6 steps = 3 + 3, to the bit", str(same), "True", same))


def zero(check: Check) -> None:
    """ZeRO stages on one rank against plain torch, and what stays on the device after them."""
    plain = start(settings(check, "zero-none"))
    expected = [plain.step(k).loss for k in range(2)]
    plain.engine.close()
    for stage in ("zero1", "zero2", "zero3"):
        preset = yaml.safe_load((CONF / "deepspeed" / f"{stage}.yaml").read_text())
        trainer = start(settings(check, f"zero-{stage}", deepspeed=preset))
        losses = [trainer.step(k).loss for k in range(2)]
        trainer.engine.close()
        check.limited(
            "zero",
            f"{stage}: loss against plain torch",
            apart(losses, expected),
            LOSS_LIMIT,
        )
        del trainer
    if check.device.type == "cuda":
        del plain
        gc.collect()
        torch.cuda.empty_cache()
        check.limited("zero", "bytes on the device after the end", torch.cuda.memory_allocated(), BYTES_LIMIT)


PARTS: dict[str, tuple[float, Callable[[Check], None]]] = {
    "versions": (20, versions), "numbers": (90, numbers), "attention": (40, attention),
    "rows": (20, rows), "resume": (30, resume), "zero": (60, zero), "liger": (15, liger), "speed": (120, speed),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models only, no clock")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but torch sees no GPU; --device cpu --tiny runs the same code")
    asked.out.mkdir(parents=True)
    check = Check(asked.out, torch.device(asked.device), asked.tiny, time.monotonic() + 60 * asked.minutes)
    make_model(asked.out / "tiny", "tiny")
    make_rows(asked.out / "rows.jsonl")
    for name in asked.parts:
        check.run(name, *PARTS[name])
    failed = [row for row in check.rows if row.passed is False]
    print(f"{len(check.rows)} rows, {len(failed)} failed: {asked.out / 'table.txt'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
