"""chunk_refine: `supervise=last` against `every_step`, and what each refinement step is worth. One command makes all of it.

    python scripts/bench/refine_steps.py [out=refine] [any override of mft train ...]

Two trainings from the same state on the same examples and masks (`mft train`, so a second start goes on or finds them
done), each in out=/<supervise>. Then, on the validation rows with their masks, the mean loss a masked chunk and the share
of masked tokens that are right after every step, without stopping; and where the stopping rule stops.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SMALL = [  # minutes on one core, most of them for every_step
    "model=smollm2_135m", "data=gsm8k", "prompt=step_by_step_marked", "method.partial_fill=0.5", "method.filled_prefixes=0",
    "data.sources.gsm8k.rows=224", "data.validation.rows=32", "data.validation.every_steps=16",
    "train.global_batch_size=4", "train.max_steps=48", "train.learning_rate=3e-4", "train.warmup_steps=4",
    "train.min_ratio=0.1", "train.precision=bf16",
]  # fmt: skip


def train(folder: Path, supervise: str, overrides: list[str]) -> None:
    command = [sys.executable, "-m", "mft_cli", "train", *SMALL, *overrides]
    subprocess.run([*command, "method=chunk_refine", f"method.supervise={supervise}", f"run_dir={folder}"], check=True)


def measure(folder: Path) -> tuple[list[tuple[float, float]], dict[str, float]]:
    """(loss and accuracy after each step, the validation's means) of a finished run's export."""
    import torch
    import yaml

    from mft_cli.config.load import train_config
    from mft_cli.console import Log
    from mft_cli.data.pack import make_batch, pack_examples
    from mft_cli.methods.chunk_refine import at, chunk_means, layout_of
    from mft_cli.models.kernels.cross_entropy import head_losses
    from mft_cli.run_dir import RunDir
    from mft_cli.signals import StopSignal
    from mft_cli.train.setup import assemble

    values: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    values["model"]["path"] = str(folder / "export")
    values["method"]["supervise"] = "every_step"  # so that the states of all steps are kept
    with tempfile.TemporaryDirectory() as temporary:
        run = RunDir(Path(temporary))
        trainer = assemble(run, train_config({**values, "run_dir": temporary}), StopSignal(), Log(run.log)).trainer
        _, _, with_rule = trainer.validation_loss()
        method: Any = trainer.method
        model = trainer.engine.model.eval()
        method.config.early_stop = "never"
        sums = torch.zeros(method.config.max_steps, 2, dtype=torch.float64)
        chunks = tokens = 0
        with torch.no_grad():
            for block in pack_examples(trainer.validation.lengths, trainer.layout.row_length, True):
                batch = make_batch(trainer.validation, [block], 0, trainer.pad_id).to(trainer.engine.device)
                batch = method.for_validation(batch, trainer.draw).batch
                layout = layout_of(batch)
                labels = at(batch.labels, layout.columns)[layout.open]
                refined, _ = method.refine(model, method.states(model, batch), layout)
                for step, hidden in enumerate(refined.every):
                    _, each, predicted = head_losses(model, hidden[layout.open], labels, vocab_size=method.vocab_size)
                    sums[step] += torch.tensor([float(chunk_means(each, layout)), float((predicted == labels).sum())])
                chunks, tokens = chunks + int(layout.real.sum()), tokens + len(labels)
        return [(float(a) / chunks, float(b) / tokens) for a, b in sums], with_rule


def main() -> None:
    out = next((Path(a[4:]) for a in sys.argv[1:] if a.startswith("out=")), Path("refine"))
    overrides = [a for a in sys.argv[1:] if not a.startswith("out=")]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kinds = ("last", "every_step")
    for kind in kinds:
        train(out / kind, kind, overrides)
    found = {kind: measure(out / kind) for kind in kinds}
    print("after step   " + "".join(f"{kind:>24s}" for kind in kinds))
    before = [found[kind][1] for kind in kinds]
    print("0 (backbone) " + "".join(f"{b['masked_loss_before']:15.3f}{'':9s}" for b in before))
    for step in range(len(found["last"][0])):
        cells = (found[kind][0][step] for kind in kinds)
        print(f"{step + 1:<13d}" + "".join(f"{loss:15.3f} {share:8.1%}" for loss, share in cells))
    print("by the rule  " + "".join(f"{b['masked_loss']:15.3f} {b['token_accuracy']:8.1%}" for b in before))
    print("mean steps   " + "".join(f"{b['mean_steps']:15.2f}{'':9s}" for b in before))


if __name__ == "__main__":
    main()
