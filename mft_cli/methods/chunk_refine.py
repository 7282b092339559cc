"""Chunk refinement: whole chunks of a response are masked, and a small recurrent head refines their hidden states.

Position j predicts token j + 1, also inside the head: what it makes of a masked chunk depends on tokens before the
chunk alone. Unmasked chunks are predicted by the backbone as ever; the head reads them for later chunks only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mft_cli.config.schema.methods import ChunkRefineConfig
from mft_cli.data.examples import Examples
from mft_cli.data.pack import Batch, taken
from mft_cli.distributed.zero import shape_of
from mft_cli.methods.base import Corrupted, Losses, Method, mask_ratios, model_inputs
from mft_cli.methods.cost import ModelSizes, TrainedParameters
from mft_cli.methods.mask_token import choose_mask_token
from mft_cli.methods.refine.backbone import refuse_bidirectional
from mft_cli.methods.refine.folder import FOLDER, read_head, write_head
from mft_cli.methods.refine.head import Context, HeadSettings, Refined, RefineHead, count_parameters
from mft_cli.methods.refine.layout import Chunks, Layout, choose_chunks, choose_tokens, find_chunks, lay_out
from mft_cli.models.kernels.cross_entropy import causal_lm, head_losses, hidden_states
from mft_cli.models.vocabulary import check_has_row, embedding_rows, table, token_id
from mft_cli.rng import Draw, digest64

HEAD = "refine_head"  # its name in the module tree
# (states [n, D], labels [n], weights [n] or None) -> (weighted sum, losses [n], argmax [n])
HeadLosses = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]


class ChunkRefine(Method):
    """See the definition in docs/chunk_refine.md."""

    config: ChunkRefineConfig
    marked_as = "masked in the input, predicted by the head"
    weights = {"chunk": 1.0, "confidence": 1.0}  # noqa: RUF012  confidence: gradients of its own layer only

    def __init__(self, config: ChunkRefineConfig, logits_chunk: int = 1024):
        super().__init__(config, logits_chunk)
        self.trains_backbone = self.config.backbone == "trained"
        self.unigram: Tensor | None = None  # log share [V] of each token among the training's response tokens, plus one
        self.peft_refusal = (
            None if self.trains_backbone else "method.backbone=frozen trains no weight that an adapter could stand for"
        )

    def prepare(self, tokenizer: PreTrainedTokenizerFast) -> list[str]:
        """Choose the mask token; returns it if it has to be added."""
        self.mask_token = choose_mask_token(tokenizer, self.config.mask_token)
        self.tokenizer_size = len(tokenizer)
        return [] if self.mask_token in tokenizer.get_vocab() else [self.mask_token]

    def adapt(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
        """Freezes the backbone (if so configured) and puts the head into the module tree.

        Raises UserError for a backbone whose states see later tokens.
        """
        self.mask_id = token_id(tokenizer, self.mask_token)
        if not hasattr(model, "get_input_embeddings"):  # mft data show has no model
            return model
        check_has_row(model, "method.mask_token", self.mask_token, self.mask_id)
        if embedding_rows(model) == self.mask_id + 1:
            self.vocab_size = self.mask_id  # the last row: only read, never predicted
        backbone = cast(PreTrainedModel, model)
        refuse_bidirectional(backbone)
        if not self.trains_backbone:
            model.requires_grad_(False)
        head = self.make_head(backbone)
        model.add_module(HEAD, head)
        return model

    def make_head(self, model: PreTrainedModel) -> RefineHead:
        """A new head, or the one that lies next to the export that this run starts from."""
        width = shape_of(table(model.get_input_embeddings()))[1]
        self.settings = self.head_settings(width, self.mask_id, self.mask_token)
        start = Path(str(getattr(causal_lm(model).config, "_name_or_path", ""))) / FOLDER
        # initial_seed is what manual_seed was given: the run's seed, however many numbers were drawn since
        head = RefineHead(self.settings, digest64(HEAD, torch.initial_seed()))
        self.started_from = None
        if (start / "config.json").is_file():
            read_head(start.parent, into=head)
            self.started_from = str(start)
        return head

    def head_settings(self, hidden_size: int, mask_id: int, mask_token: str) -> HeadSettings:
        c = self.config
        return HeadSettings(
            hidden_size=hidden_size, mask_id=mask_id, mask_token=mask_token, chunk_size=c.chunk_size, width=c.width,
            layers=c.layers, heads=c.heads, hidden=c.hidden, context=c.context, min_steps=c.min_steps,
            max_steps=c.max_steps, threshold=c.threshold, early_stop=c.early_stop != "never",
            low_confidence_only=c.refine_low_confidence_only, partial_fill=c.partial_fill,
        )  # fmt: skip

    def facts(self) -> list[str]:
        origin = "added" if self.mask_id >= self.tokenizer_size else "the tokenizer's own"
        lines = [f"mask token: {self.mask_token} (id {self.mask_id}, {origin}), kept in the export"]
        started = getattr(self, "started_from", None)
        lines += [f"refinement head: continued from {started}"] if started else []
        if self.config.hidden == "embedding" and self.config.context == "none":
            lines.append(
                "WARNING: with method.hidden=embedding and method.context=none the head is told nothing of the question or of "
                "other chunks: of a wholly masked chunk it can learn which tokens are common, and no more (masked_loss_unigram)"
            )
        return lines

    def check(self, examples: Examples) -> None:
        """Counts the training's response tokens, for the floor that a masked chunk's loss is compared with."""
        if self.unigram is None:
            tokens = torch.from_numpy(examples.flat("tokens")[examples.flat("loss_mask")].astype("int64"))
            size = max(self.mask_id + 1, self.tokenizer_size)  # validation may hold tokens that training does not
            counts = torch.bincount(tokens, minlength=size).double() + 1
            self.unigram = (counts / counts.sum()).log().float()

    # ---- what mft plan asks ----

    def most_new_tokens(self) -> int:
        return 1

    def trained_parameters(self, sizes: ModelSizes) -> TrainedParameters:
        """The head, and the backbone if it trains. A frozen backbone's activations are counted as if kept."""
        head = count_parameters(self.head_settings(sizes.width, mask_id=0, mask_token=""))
        whole = f"{sizes.parameters:,} parameters"
        if self.trains_backbone:
            return TrainedParameters(sizes.parameters + head, 0, f"all {whole} and a head of {head:,} train")
        note = f"{self.config.name}: a head of {head:,} parameters trains, {whole} are frozen"
        return TrainedParameters(head, sizes.parameters, note, trains_head=False)

    # ---- masks ----

    def corrupt(self, batch: Batch, progress: float, draw: Draw) -> Corrupted:
        p = mask_ratios(batch, self.config.mask_ratio)
        chunks = find_chunks(batch, self.config.chunk_size)
        masked = choose_chunks(chunks, p[chunks.row, chunks.first], batch.epoch, draw)
        tokens = choose_tokens(batch, chunks, masked, self.config.partial_fill, draw, self.config.filled_prefixes)
        layout = lay_out(batch, chunks, masked, tokens, self.config.chunk_size)
        extra = {**vars(layout), "number": numbers(chunks)[layout.chunk.clamp(min=0)] if len(masked) else layout.chunk}
        corrupted = replace(batch, input_ids=batch.input_ids.masked_fill(tokens, self.mask_id), extra=extra)
        candidates = chunks.candidates
        counts = {
            "masked": int(masked.sum()),
            "unmasked": int((candidates & ~masked).sum()),
            "masked_tokens": int(layout.open.sum()),
        }
        counts["confidence"] = 2 * counts["masked"]  # before and after refinement
        counts["chunk"] = counts["masked"] + (counts["unmasked"] if self.trains_backbone else 0)
        plain = int((layout.share > 0).sum()) if self.trains_backbone else 0
        counts["ce"] = counts["masked_tokens"] + plain  # supervised tokens: the log's label_tokens
        shares = {
            "masked_share": (int(tokens.sum()), int((batch.real & batch.loss_mask).sum())),
            "masked_chunk_share": (counts["masked"], int(candidates.sum())),
        }
        return Corrupted(corrupted, counts, shares)

    def for_validation(self, batch: Batch, draw: Draw) -> Corrupted:
        """Masked as in training: the head is what has to be validated. The masks are the same each time (epoch 0)."""
        return self.corrupt(batch, 0.0, draw)

    def describe(self, corrupted: Corrupted) -> str:
        masked, whole = corrupted.shares["masked_chunk_share"]
        numbers = corrupted.batch.extra["number"][0, :masked].tolist()
        others = "" if self.trains_backbone else ", only these are trained"
        return f"masked chunks {numbers} of {whole} (of {self.config.chunk_size} tokens, counted from 0){others}"

    # ---- loss ----

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        """Sums over chunks. Without corrupt's layout: the backbone's plain loss."""
        if not batch.extra:
            return super().loss(model, batch)
        layout = layout_of(batch)
        with self.backbone_gradient():
            hidden = self.states(model, batch)
        refined, came_in = self.refine(model, hidden, layout)
        losses = self.head_loss(model)
        labels = taken(at(batch.labels, layout.columns), layout.open_at, 3)
        weight = torch.where(refined.refined, 1 + self.config.deep_supervision_weight, 1.0)
        total, ce, right = self.masked(losses, refined, labels, weight, layout)
        with torch.no_grad():
            _, ce_before, predicted = losses(taken(came_in, layout.open_at, 3), labels, None)
        whole, whole_before = (all_right(r, layout) for r in (right, predicted == labels))
        with self.backbone_gradient():
            plain, plain_sum = self.unmasked(losses, hidden, batch, layout)
        real, sure = layout.real, torch.sigmoid(refined.confidence.detach())
        metrics: dict[str, tuple[Tensor | float, str]] = {
            "token_accuracy": (right.sum(), "masked_tokens"),
            "masked_loss": (chunk_means(ce, layout), "masked"),
            "masked_loss_before": (chunk_means(ce_before, layout), "masked"),
            **self.floors(labels, ce_before, layout),
            "unmasked_loss": (plain_sum, "unmasked"),
            "chunk_weight": ((weight * real).sum(), "masked"),
            "chunk_accuracy": ((whole & real).sum(), "masked"),
            "confidence": ((sure * real).sum(), "masked"),
            "mean_steps": ((refined.steps * real).sum(), "masked"),
        }
        return Losses({"chunk": total + plain, "confidence": self.doubt(refined, layout, whole, whole_before)}, metrics)

    def floors(self, labels: Tensor, ce_before: Tensor, layout: Layout) -> dict[str, tuple[Tensor | float, str]]:
        """What a head has to beat: counting tokens, and the backbone's own loss where its state is exact, the first open slot."""
        first = taken(by_slot(ce_before.detach().float(), layout), layout.first_at, 3)
        metrics: dict[str, tuple[Tensor | float, str]] = {"first_slot_loss": (first.sum(), "masked")}
        if self.unigram is not None:
            self.unigram = self.unigram.to(labels.device)
            metrics["masked_loss_unigram"] = (chunk_means(-self.unigram[labels], layout), "masked")
        return metrics

    def backbone_gradient(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.trains_backbone else torch.no_grad()

    def states(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the head reads, [R, T, D]."""
        if self.config.hidden == "embedding":
            embedded: Tensor = model.get_input_embeddings()(batch.input_ids)  # type: ignore[operator]
            return embedded
        return hidden_states(model, **model_inputs(batch))

    def refine(self, model: nn.Module, hidden: Tensor, layout: Layout) -> tuple[Refined, Tensor]:
        """The head on the masked chunks, and the states [R, M, C, D] that came in."""
        head: RefineHead = getattr(model, HEAD)
        came_in = at(hidden, layout.columns)
        context = None
        if head.attend is not None:
            codes = head.encode(at(hidden, layout.other_columns), layout.other_slots)
            context = Context(codes, layout.other_slots, layout.other_earlier, layout.earlier)
        early = self.config.early_stop == "always" or (self.config.early_stop == "eval" and not head.training)
        every = self.config.supervise == "every_step"
        refined: Refined = head(came_in, layout.slots, layout.real, context, early=early, keep=every)
        return refined, came_in

    def head_loss(self, model: nn.Module) -> HeadLosses:
        def compute(hidden: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
            return head_losses(
                model, hidden, labels, weights, vocab_size=self.vocab_size, chunk_tokens=self.logits_chunk
            )

        return compute

    def masked(
        self, losses: HeadLosses, refined: Refined, labels: Tensor, weight: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The sum over masked chunks of weight [R, M] x mean cross entropy; loss and argmax correct of the open slots."""
        share = (weight[..., None] / layout.open.sum(-1, keepdim=True).clamp(min=1)).expand_as(layout.open)
        share = taken(share, layout.open_at, 3)
        states = refined.every or [refined.hidden]  # kept with supervise=every_step, and there is a step
        n = len(states)
        total, ce, predicted = losses(
            torch.cat([taken(h, layout.open_at, 3) for h in states]), labels.repeat(n), share.repeat(n) / n
        )
        last = (n - 1) * len(labels)
        return total, ce[last:], predicted[last:] == labels

    def doubt(self, refined: Refined, layout: Layout, whole: Tensor, whole_before: Tensor) -> Tensor:
        """Sum of binary cross entropies of the confidence after and before refinement."""
        logits = torch.stack([refined.confidence, refined.first_confidence])
        target = torch.stack([whole, whole_before]).float()
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (each * layout.real).sum()

    def unmasked(
        self, losses: HeadLosses, hidden: Tensor, batch: Batch, layout: Layout
    ) -> tuple[Tensor | float, Tensor]:
        """(term, metric): the sum of mean cross entropies of unmasked chunks; the term is 0 for a frozen backbone."""
        total, _, _ = losses(*(taken(x, layout.share_at) for x in (hidden, batch.labels, layout.share)))
        return (total if self.trains_backbone else 0.0), total.detach()

    # ---- samples and export ----

    @torch.no_grad()
    def sample(
        self, model: nn.Module, batch: Batch, tokenizer: PreTrainedTokenizerFast, draw: Draw
    ) -> dict[str, object]:
        """Predicted against true text of the masked chunks of one example, with loss, weight and steps."""
        done = self.for_validation(batch, draw).batch
        layout = layout_of(done)
        refined, _ = self.refine(model, self.states(model, done), layout)
        labels, rows = at(batch.labels, layout.columns), []
        for m in layout.real[0].nonzero()[:, 0].tolist():
            there = layout.open[0, m]
            logits = model.get_output_embeddings()(refined.hidden[0, m][there]).float()[:, : self.vocab_size]  # type: ignore[operator]
            true_ids = labels[0, m][there]
            rows.append(
                {
                    "chunk": int(done.extra["number"][0, m]),
                    "loss": round(float(F.cross_entropy(logits, true_ids)), 4),
                    "weight": 1 + self.config.deep_supervision_weight * bool(refined.refined[0, m]),
                    "steps": int(refined.steps[0, m]),
                    "confidence": round(float(torch.sigmoid(refined.confidence[0, m])), 4),
                    "predicted": tokenizer.decode(logits.argmax(-1)),
                    "true": tokenizer.decode(true_ids),
                }
            )
        return {"masked_chunks": rows}

    def extra_files(self, model: nn.Module) -> dict[str, list[str]]:
        return {FOLDER: [n for n in model.state_dict() if n.startswith(f"{HEAD}.")]}

    def write_extra_files(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        write_head(folder, self.settings, {n.removeprefix(f"{HEAD}."): t for n, t in tensors.items()})


def layout_of(batch: Batch) -> Layout:
    return Layout(**{n: t for n, t in batch.extra.items() if n != "number"})


def numbers(chunks: Chunks) -> Tensor:
    """int64 [N], the number of a chunk among the candidates of its example, from 0."""
    before = chunks.candidates.long().cumsum(0) - 1
    opens = torch.cat([chunks.example.new_ones(1).bool(), chunks.example[1:] != chunks.example[:-1]])
    first = torch.where(opens, before + (~chunks.candidates).long(), 0).cummax(0).values
    return before - first


def at(values: Tensor, columns: Tensor) -> Tensor:
    """values [R, T] or [R, T, D] at columns [R, M, C]."""
    rows = torch.arange(len(values), device=values.device)[:, None, None]
    return values[rows, columns]


def all_right(right: Tensor, layout: Layout) -> Tensor:
    """bool [R, M] of argmax correct [open slots]: all of a chunk's open slots."""
    return by_slot(right, layout, closed=True).all(-1)


def by_slot(values: Tensor, layout: Layout, closed: float = 0) -> Tensor:
    """[R, M, C] of values [open slots], `closed` in the other slots."""
    every = torch.full((layout.open.numel(),), closed, dtype=values.dtype, device=values.device)
    return every.index_put((layout.open_at,), values).view_as(layout.open)


def chunk_means(losses: Tensor, layout: Layout) -> Tensor:
    """The sum over chunks of mean losses, given those of all open slots."""
    return (by_slot(losses.float(), layout).sum(-1) / layout.open.sum(-1).clamp(min=1)).sum()
