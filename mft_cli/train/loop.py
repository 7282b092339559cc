"""The training loop: the path of one optimizer step, and what happens between steps.

The examples and masks of step k are a function of (seed, k, total_steps, weights). So a resumed run goes on as if it had never
been stopped, and no generator or data-loader state has to be saved. Only what a model draws from torch's own generator, such
as its own dropout, depends on the rank as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from mft_cli import files
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.console import Logger, StepProgress
from mft_cli.data.deal import Layout, deal, padded_size
from mft_cli.data.examples import Examples
from mft_cli.data.pack import Batch, Order, make_batch
from mft_cli.errors import Stopped, UserError
from mft_cli.methods.base import Corrupted, Losses, Method
from mft_cli.rng import Draw, digest64
from mft_cli.run_dir import RunDir
from mft_cli.signals import StopSignal
from mft_cli.train import checkpoint as checkpoints
from mft_cli.train.engine import Outcome, TorchEngine
from mft_cli.train.engine_deepspeed import DeepSpeedEngine
from mft_cli.train.metrics import Metrics, Row, memory_gb
from mft_cli.train.optimizer import learning_rate_factor
from mft_cli.train.restart import remove_set_aside
from mft_cli.train.state import VALIDATION_LOSS, TrainerState
from mft_cli.train.sums import Numbers, Sums, logged, total


@dataclass
class StepBatches:
    """The examples of an optimizer step as this rank's micro-batches, corrupted and on its device."""

    chosen: np.ndarray  # int64, indices of all ranks' examples
    micro_batches: list[Corrupted]
    tokens: int  # of all ranks
    padded_tokens: int  # of all ranks, padding included


@dataclass
class StepResult:
    """What one optimizer step did."""

    terms: Numbers  # each term of the loss, before its weight
    metrics: Numbers  # means that are logged and not trained on
    shares: Numbers  # parts of a count, such as masked_share
    loss: float
    outcome: Outcome
    learning_rate: float
    epoch: float
    counts: dict[str, int]
    tokens: int
    padded_tokens: int  # of all ranks, padding included
    examples: list[str]

    @property
    def norm(self) -> float:
        """Norm of the whole gradient, before clipping."""
        return self.outcome.norm

    @property
    def applied(self) -> bool:
        return self.outcome.applied


@dataclass
class Trainer:
    """A training run in progress."""

    engine: TorchEngine | DeepSpeedEngine
    method: Method
    train: Examples
    validation: Examples | None
    config: TrainConfig
    run: RunDir
    metrics: Metrics
    log: Logger
    stop: StopSignal
    pad_id: int
    state: TrainerState
    flops_per_token: float
    peak_flops: float | None = None
    sample: Callable[[int], None] | None = None
    benchmarks: Callable[[int], Row] | None = None  # scores of the weights as they are, of the first rank; see evaluate
    hardware: Mapping[str, object] = field(default_factory=dict)  # kept in checkpoints
    before_forward: Callable[[Batch], None] = lambda batch: None  # gets every training batch before its forward pass

    def __post_init__(self) -> None:
        t = self.config.train
        self.draw = Draw(self.config.seed)
        self.order = Order(self.train, self.config.seed, t.global_batch_size)
        self.layout = Layout.of(t, self.config.data.max_length, self.engine.ranks.world)
        self.last_save = time.monotonic()
        self.saved_step = self.state.step

    # ---- one step ----

    def step(self, k: int) -> StepResult:
        """Optimizer step k, from 0. A loss term is its sum over the step divided by its count over the step, both of all ranks:
        so neither packing nor micro-batches nor ranks change a number (a model's own dropout aside). All ranks have to call.
        """
        engine, method, t = self.engine, self.method, self.config.train
        ranks = engine.ranks
        torch.manual_seed(digest64("torch", self.config.seed, k, ranks.rank))
        method.begin_step(engine.model, self.progress(k), engine.master)
        mine = self.batches_of_step(k)
        counts = total([Sums(counts=m.counts) for m in mine.micro_batches], ranks).counts
        results: list[tuple[Losses, Corrupted]] = []
        for i, micro_batch in enumerate(mine.micro_batches):
            self.before_forward(micro_batch.batch)
            losses = engine.run(method.loss, micro_batch.batch)
            # a count may be 0, such as unmasked chunks of a step: its sum is then 0, too
            loss: Any = sum(method.weights[n] * s / max(1, counts[n]) for n, s in losses.sums.items())
            engine.backward(loss, last=i == len(mine.micro_batches) - 1)
            results.append((losses.detached(), micro_batch))
        with ranks.waiting():  # on GPUs, for what the other ranks' gradients are summed with
            rows = logged(results)
        sums = total([row.divided(counts) for row in rows], ranks)
        step_loss = sum(method.weights[n] * v for n, v in sums.terms.items())
        learning_rate = t.learning_rate * learning_rate_factor(k, self.state.total_steps, t)
        outcome = engine.step(learning_rate, step_loss)
        return StepResult(
            terms=sums.terms, metrics=sums.metrics, shares=sums.shares,
            loss=step_loss, outcome=outcome, learning_rate=learning_rate, epoch=(k + 1) / self.order.steps_per_epoch,
            counts={n: int(v) for n, v in counts.items()},
            tokens=mine.tokens, padded_tokens=mine.padded_tokens,
            examples=[self.train.key(i) for i in mine.chosen],
        )  # fmt: skip

    def progress(self, k: int) -> float:
        return k / self.state.total_steps

    def batches_of_step(self, k: int) -> StepBatches:
        """This rank's part of optimizer step k, packed and corrupted on the CPU: it knows all counts without asking a GPU."""
        epoch, chosen = self.order.step(k)
        lengths = self.train.lengths[chosen]
        dealt = deal(lengths, self.layout)
        # micro-batches of packed sequences of examples
        mine = [[[int(chosen[i]) for i in row] for row in rows] for rows in dealt[self.engine.ranks.rank]]
        micro_batches = [
            self.on_device(self.method.corrupt(self.batch(self.train, rows, epoch), self.progress(k), self.draw))
            for rows in mine
        ]
        padded = sum(padded_size(rows, lengths) for blocks in dealt for rows in blocks)
        return StepBatches(chosen, micro_batches, int(lengths.sum()), padded)

    def batch(self, examples: Examples, rows: list[list[int]], epoch: int) -> Batch:
        return make_batch(examples, rows, epoch, self.pad_id)

    def on_device(self, corrupted: Corrupted) -> Corrupted:
        return replace(corrupted, batch=corrupted.batch.to(self.engine.device))

    # ---- the run ----

    def run_to_end(self) -> None:
        """From the stored position to the last step. Raises Stopped after a signal, UserError after bad steps."""
        state = self.state
        progress = StepProgress("step", state.step, state.total_steps)
        self.engine.model.train()
        try:
            while state.step < state.total_steps and not state.stopped_early:
                start = time.monotonic()
                result = self.step(state.step)
                seconds = time.monotonic() - start
                self.engine.ranks.note_step(seconds)
                self.account(result, seconds)
                speed = result.tokens / seconds
                progress.update(state.step, loss=f"{result.loss:.4f}", **{"tokens/s": f"{speed:,.0f}"})
                self.between_steps(result)
        finally:
            progress.close()
        if not self.method.trains and self.validation is not None:
            self.validate()
        if self.saved_step != state.step or not self.method.trains:
            self.save()

    def account(self, result: StepResult, seconds: float) -> None:
        state = self.state
        state.step += 1
        state.seconds += seconds
        state.tokens += result.tokens
        state.label_tokens += result.counts.get("ce", 0)
        if result.applied:
            state.bad_in_a_row = 0
        elif not result.outcome.finding_loss_scale:
            state.bad_in_a_row += 1
            state.skipped += 1
            self.log(
                f"step {state.step}: loss {result.loss}, gradient norm {result.norm}: skipped ({state.skipped} so far)"
            )
        if state.step % self.config.log.every_steps == 0 or state.step == state.total_steps or not result.applied:
            self.metrics.write(self.row(result, seconds))

    def row(self, result: StepResult, seconds: float) -> Row:
        row: Row = {
            "kind": "train", "step": self.state.step, "epoch": round(result.epoch, 6), "loss": result.loss,
            **{f"loss/{n}": v for n, v in result.terms.items()}, **result.metrics, **result.shares,
            "learning_rate": result.learning_rate, "grad_norm": result.norm, "examples": len(result.examples),
            "tokens": result.tokens, "label_tokens": result.counts.get("ce", 0),
            "padding_share": 1 - result.tokens / max(1, result.padded_tokens),
            "tokens_per_s": result.tokens / seconds, "step_s": seconds,
            "memory_gb": memory_gb(self.engine.device), "skipped": not result.applied,
        }  # fmt: skip
        if self.peak_flops:
            row["mfu"] = result.tokens * self.flops_per_token / seconds / (self.peak_flops * self.engine.ranks.world)
        return row

    def between_steps(self, result: StepResult) -> None:
        """Validation, benchmarks, samples, checkpoints, the limit on bad steps, and signals, in that order."""
        state, c = self.state, self.config.checkpoint
        # the end of the run counts as one
        end_of_epoch = state.step % self.order.steps_per_epoch == 0 or state.step == state.total_steps
        every = self.config.data.validation.every_steps
        improved = False
        validates = self.validation is not None
        validation_due = (state.step % every == 0 or state.step == state.total_steps) if every else end_of_epoch
        if validates and validation_due:
            improved = self.validate()
        every = self.config.eval.every_steps
        evaluation_due = every > 0 and (state.step % every == 0 or state.step == state.total_steps)
        if evaluation_due:
            improved |= self.evaluate()
        if state.stopped_early:  # the last step measures what was not due, as the last of total_steps does
            if validates and not validation_due:
                improved |= self.validate()
            if every and not evaluation_due:
                improved |= self.evaluate()
        if self.config.log.samples_every_steps and state.step % self.config.log.samples_every_steps == 0:
            self.method.refresh(self.engine.model, self.engine.master)
            if self.sample:
                self.sample(state.step)
            self.engine.ranks.barrier()  # in the next step the others would give up waiting after minutes
        stopping = self.engine.ranks.any(self.stop.name is not None)
        broken = state.bad_in_a_row >= self.config.train.max_bad_steps
        minutes = (time.monotonic() - self.last_save) / 60
        due = state.step % c.every_steps == 0 if c.every_steps else end_of_epoch
        time_due = self.engine.ranks.any(c.every_minutes > 0 and minutes >= c.every_minutes)
        if due or time_due or stopping or broken or (improved and c.keep_best):
            self.save()
            self.engine.ranks.barrier()  # the first rank has pruned the old ones
        if broken:
            shown = ", ".join(result.examples[:8]) + (" ..." if len(result.examples) > 8 else "")
            raise UserError(
                f"{state.bad_in_a_row} steps in a row had no finite loss and gradient; stopped at step {state.step} with a "
                f"checkpoint. The examples of the last one: {shown}. Look at them with mft data show; a lower "
                f"train.learning_rate or train.precision=fp32 may help"
            )
        if stopping and state.step < state.total_steps:
            name = self.stop.name or "a signal"
            raise Stopped(f"stopped by {name} after step {state.step} of {state.total_steps}, saved", self.stop.name)

    def validate(self) -> bool:
        """Loss on the validation split. True if it is the best so far."""
        loss, label_tokens, metrics = self.validation_loss()
        state = self.state
        row = {"kind": "validation", "step": state.step, "loss": loss, "label_tokens": label_tokens, **metrics}
        self.metrics.write(row)
        self.log(f"step {state.step}: validation loss {loss:.4f} over {label_tokens:,} label tokens")
        return self.record_measurement(VALIDATION_LOSS, loss)

    def evaluate(self) -> bool:
        """Benchmarks on the weights as they are, by the first rank. True if a score is the best so far. All ranks have to call."""
        self.method.refresh(self.engine.model, self.engine.master)
        scores = self.engine.ranks.from_first(self.benchmarks(self.state.step) if self.benchmarks else {})
        self.metrics.write({"kind": "evaluation", "step": self.state.step, **scores})
        best_by = self.config.checkpoint.best_by
        return best_by in scores and self.record_measurement(best_by, scores[best_by])

    def record_measurement(self, measured: str, value: float) -> bool:
        """Keeps a measurement; true if it is the best so far by checkpoint.best_by. Ends the training after train.stop_after others."""
        state, patience = self.state, self.config.train.stop_after
        better = state.take(measured, value, self.config.checkpoint.best_by)
        if patience and state.without_best >= patience and not state.stopped_early:
            state.stopped_early = True
            self.log(
                f"step {state.step}: no better {measured} in {patience} measurements (train.stop_after): the last step; the "
                f"best was step {state.best_step}"
            )
        return better

    @torch.no_grad()
    def validation_loss(self) -> tuple[float, int, dict[str, float]]:
        """(loss, label tokens, metrics), means over the validation split: on clean inputs, for most methods."""
        examples, engine = self.validation, self.engine
        assert examples is not None
        self.method.refresh(engine.model, engine.master)
        engine.model.eval()
        results: list[tuple[Losses, Corrupted]] = []
        for rows in deal(examples.lengths, self.layout)[engine.ranks.rank]:
            corrupted = self.on_device(self.method.for_validation(self.batch(examples, rows, 0), self.draw))
            results.append((engine.run(self.method.loss, corrupted.batch), corrupted))
        engine.model.train()
        divided_by: dict[str, str] = {}  # metric -> the term whose count divides it
        parts: list[Sums] = []
        for row, (_, corrupted) in zip(logged(results), results, strict=True):
            divided_by |= {n: term for n, (_, term) in row.metrics.items()}
            metrics = {n: value for n, (value, _) in row.metrics.items()}
            parts.append(Sums(counts=corrupted.counts, terms=row.terms, metrics=metrics))
        sums = total(parts, engine.ranks)
        counts = {n: max(1, v) for n, v in sums.counts.items()}
        loss = sum(self.method.weights[n] * v / counts[n] for n, v in sums.terms.items())
        means = {n: sums.metrics[n] / counts[term] for n, term in divided_by.items()}
        return loss, int(counts["ce"]), means

    # ---- checkpoints ----

    def save(self) -> None:
        """A checkpoint of this step, then the old ones pruned."""
        engine = self.engine
        self.method.refresh(engine.model, engine.master)
        digests = self.run.logged() if engine.ranks.rank == 0 else {}
        facts = {
            "position": vars(self.state), "engine": engine.state(), "hardware": self.hardware, "logged": digests
        }  # fmt: skip
        root = self.run.checkpoints
        self.run.check_there(f"noticed at step {self.state.step}")
        checkpoints.save(root, self.state.step, engine.shards(), facts, engine.ranks)
        self.last_save, self.saved_step = time.monotonic(), self.state.step
        if engine.ranks.rank:
            return
        for step in checkpoints.steps_in(root):
            if step > self.state.step:  # damaged ones that the resume rejected: pruning would count them
                files.discard(checkpoints.step_folder(root, step))
        best = self.state.best_step if self.config.checkpoint.keep_best else None
        keep_all = self.config.eval.checkpoints == "all"
        if not keep_all:
            checkpoints.prune(root, self.config.checkpoint.keep_last, best)
        remove_set_aside(self.run)
        self.run.set_state("running", step=self.state.step, total_steps=self.state.total_steps)
