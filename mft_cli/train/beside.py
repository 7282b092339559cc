"""Benchmarks beside a training: the weights of a step are exported, and `mft eval` answers in a process and on a GPU of its own.

The training waits for the scores, so that the best checkpoint and early stopping never depend on how long they take.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mft_cli import files
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.config.validate import to_plain
from mft_cli.distributed.placed import number
from mft_cli.errors import EXIT_USER, RankFailed, UserError
from mft_cli.eval.engines.placement import visible_gpus
from mft_cli.signals import die_with_parent
from mft_cli.train import checkpoint as checkpoints
from mft_cli.train.evaluation import how_it_ended
from mft_cli.train.exports import write_export
from mft_cli.train.live import fewer_problems, scores_of
from mft_cli.train.metrics import Row
from mft_cli.train.setup import Assembly

OF_THE_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class BesideEvaluation:
    """See LiveEvaluation, whose place in the Trainer it takes; every rank has one and has to call it.

    Raises UserError if every visible GPU has a rank.
    """

    def __init__(self, ready: Assembly):
        self.ready = ready
        self.environment = {k: v for k, v in os.environ.items() if k not in OF_THE_RANK}
        if ready.trainer.engine.device.type == "cuda":
            spare = spare_gpus(visible_gpus(), os.environ)
            self.environment["CUDA_VISIBLE_DEVICES"] = ",".join(spare)

    def __call__(self, step: int) -> Row:
        run, engine = self.ready.trainer.run, self.ready.trainer.engine
        started, out = time.monotonic(), run.live / f"step-{step:08d}"
        temporary = run.live / f".weights-{step:08d}"
        if engine.ranks.rank == 0:
            for before in (out, temporary):  # of an attempt that ended here
                if before.is_dir():
                    files.discard(before)
        engine.ranks.barrier()
        try:
            checkpoints.save(temporary, step, engine.shards(), {}, engine.ranks)
            write_export(self.ready, temporary / "export", step, temporary)
            if engine.ranks.rank:
                return {}
            self.evaluate(temporary, out, step)
        finally:
            if engine.ranks.rank == 0 and temporary.is_dir():
                files.discard(temporary)
        metrics = {
            name: files.read_object(out / name / "metrics.json") for name in self.ready.trainer.config.eval.benchmarks
        }
        return {**scores_of(metrics), "seconds": time.monotonic() - started}

    def evaluate(self, temporary: Path, out: Path, step: int) -> None:
        """`mft eval` of the export. A stop signal is noted by the training, which stops when the scores are there."""
        config, frozen = self.ready.trainer.config, temporary / "settings.json"
        exported = replace(config.model, path=str(temporary / "export"), revision=None)
        asked = replace(fewer_problems(config.eval), gold_logprob=False)
        files.write_json(frozen, to_plain(EvalRunConfig(model=exported, eval=asked, launch=config.launch)))
        command = [sys.executable, "-m", "mft_cli", "eval", f"--frozen={frozen}", f"--out={out}"]
        child = subprocess.Popen(command, env=self.environment, start_new_session=True, preexec_fn=die_with_parent)
        try:
            code = child.wait()
        finally:
            if child.poll() is None:  # a second Ctrl-C
                os.killpg(child.pid, signal.SIGKILL)
        if code:
            raise (UserError if code == EXIT_USER else RankFailed)(
                f"the evaluation of step {step} (eval.live=beside) {how_it_ended(code)}; the same command goes on from the last "
                f"checkpoint and evaluates that step again"
            )


def spare_gpus(visible: Sequence[str], environment: Mapping[str, str]) -> Sequence[str]:
    """The GPUs of this node that have no rank. Raises UserError if there is none."""
    ranks = number(environment, "LOCAL_WORLD_SIZE", 1)
    if len(visible) <= ranks:
        raise UserError(
            f"eval.live=beside needs a GPU without a rank, but {ranks} ranks train on the {len(visible)} visible GPUs: set "
            f"launch.gpus lower, or eval.live=inside"
        )
    return visible[ranks:]
