"""The recurrent head: refines the hidden states of masked chunks, all chunks of a batch at once.

z = encode(h_chunk), z attends to the z of earlier chunks, h_chunk += 0.1 * proj(swiglu(z)); again, up to max_steps times.
Shapes: R rows, M masked chunks, U others, C slots a chunk, D the backbone's width, W the head's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEP_SIZE = 0.1
START_UPDATE = 0.1  # size of proj(swiglu(z)) in a fresh head, in units of h: see RefineHead.initialise
START_CONFIDENCE = -2.0  # logit: a head that knows nothing should not think that all 16 tokens are right


@dataclass(frozen=True)
class HeadSettings:
    """What the head is, and how it is used: all that decoding has to know."""

    hidden_size: int
    mask_id: int
    mask_token: str
    chunk_size: int = 16
    width: int = 512
    layers: int = 2
    heads: int = 8
    hidden: str = "backbone"
    context: str = "causal"
    min_steps: int = 2
    max_steps: int = 8
    threshold: float = 0.01
    early_stop: bool = True  # in inference
    low_confidence_only: bool = False
    partial_fill: float = 0.0  # share of the training's masked chunks that were partly filled


@dataclass
class Context:
    """What masked chunks may read: codes of unmasked chunks [R, U, C, W], their slots, and who is earlier than whom."""

    codes: Tensor
    slots: Tensor  # bool [R, U, C]
    other_earlier: Tensor  # bool [R, M, U]
    earlier: Tensor  # bool [R, M, M], among the masked chunks themselves


@dataclass
class Refined:
    """What the head made of the masked chunks."""

    hidden: Tensor  # [R, M, C, D]
    confidence: Tensor  # [R, M] logits: the argmax of `hidden` is right in all open slots
    first_confidence: Tensor  # [R, M] the same of the hidden states that came in
    steps: Tensor  # int64 [R, M], steps after which the stopping rule holds
    refined: Tensor  # bool [R, M], False: left alone because the head was confident
    every: list[Tensor] = field(default_factory=list)  # `hidden` after each step


class Block(nn.Module):
    """Pre-norm transformer layer over the slots of a chunk; no biases, as a key's would never get a gradient."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, z: Tensor, allowed: Tensor) -> Tensor:
        """z [B, C, W]; allowed bool [B, 1, C, C]."""
        q, k, v = (split_heads(x, self.heads) for x in self.qkv(self.attention_norm(z)).chunk(3, -1))
        z = z + self.out(join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)))
        gate, up = self.up(self.mlp_norm(z)).chunk(2, -1)
        return z + self.down(F.silu(gate) * up)


class Encoder(nn.Module):
    """h_chunk [.., C, D], in units of the root mean square of the states that came in -> z [.., C, W].

    It also reads in which direction h has moved since it came in: next to h itself a few small steps would not show.
    """

    def __init__(self, s: HeadSettings):
        super().__init__()
        self.inner = nn.Linear(s.hidden_size, s.width, bias=False)
        self.moved = nn.Linear(s.hidden_size, s.width, bias=False)
        self.slot = nn.Parameter(torch.empty(s.chunk_size, s.width))
        self.blocks = nn.ModuleList(Block(s.width, s.heads) for _ in range(s.layers))

    def forward(self, x: Tensor, came_in: Tensor, slots: Tensor) -> Tensor:
        """x and came_in [R, K, C, D], slots bool [R, K, C]."""
        rows, chunks, size, width = x.shape
        direction = F.rms_norm(x - came_in, (width,), eps=1e-6)
        z = self.inner(F.rms_norm(x, (width,))) + self.moved(direction) + self.slot[:size]
        z, there = z.flatten(0, 1), slots.flatten(0, 1)
        # an empty slot sees itself: a softmax over nothing would be NaN
        allowed = (there[:, None] | torch.eye(size, dtype=torch.bool, device=x.device))[:, None]
        for block in self.blocks:
            z = block(z, allowed)
        return z.unflatten(0, (rows, chunks))


class Attend(nn.Module):
    """z attends to the z of earlier chunks, slot by slot, or to a trained vector for nothing where there is no earlier chunk."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query_norm, self.key_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.nothing = nn.Parameter(torch.empty(2, width))

    def forward(self, z: Tensor, read: Tensor, allowed: Tensor) -> Tensor:
        """z [R, Q, W] reads `read` [R, K, W] where allowed, bool [R, Q, K]."""
        rows = z.shape[0]
        k, v = self.key_value(self.key_norm(read)).chunk(2, -1)
        none_k, none_v = (x.expand(rows, 1, -1) for x in self.nothing[:, None])
        q, k, v = (
            split_heads(x, self.heads)
            for x in (self.query(self.query_norm(z)), torch.cat([none_k, k], 1), torch.cat([none_v, v], 1))
        )
        allowed = F.pad(allowed, (1, 0), value=True)[:, None]
        return z + self.out(join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)))


class RefineHead(nn.Module):
    """See the module's text. `context=none` has no attention across chunks (the published code)."""

    def __init__(self, settings: HeadSettings, seed: int = 0):
        super().__init__()
        s = self.settings = settings
        self.encoder = Encoder(s)
        self.attend = Attend(s.width, s.heads) if s.context == "causal" else None
        self.norm = nn.RMSNorm(s.width, eps=1e-6)
        self.swiglu = nn.Linear(s.width, 4 * s.width, bias=False)
        self.proj = nn.Linear(2 * s.width, s.hidden_size, bias=False)
        self.confidence = nn.Linear(s.width, 1)
        self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """The same weights for the same seed, whatever was drawn before.

        With usual small weights an update hardly moves h, and so z: the first cosine is 1.0000 and the rule stops every
        chunk at once. Large updates would move z, and distort the states that came in. So updates start small, and the
        encoder reads their direction at full size.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith(("norm.weight", "_norm.weight")):
                parameter.fill_(1.0)
            elif name == "confidence.bias":
                parameter.fill_(START_CONFIDENCE)
            elif name in ("encoder.slot", "attend.nothing"):
                parameter.normal_(0, 0.5, generator=generator)
            else:
                gated = name.endswith(("down.weight", "proj.weight"))  # silu(a) * b of unit normals has size 0.6
                gain = (START_UPDATE if name == "proj.weight" else 1.0) / (0.6 if gated else 1.0)
                gain = 0.1 if name == "confidence.weight" else gain
                parameter.normal_(0, gain / math.sqrt(parameter.shape[1]), generator=generator)

    # ---- pieces ----

    def encode(self, hidden: Tensor, slots: Tensor) -> Tensor:
        """Codes [R, U, C, W] of unmasked chunks, for later chunks to read."""
        x = hidden / root_mean_square(hidden)
        codes: Tensor = self.encoder(x, x, slots)
        return codes

    def look(self, x: Tensor, came_in: Tensor, slots: Tensor, context: Context | None) -> Tensor:
        """z [R, M, C, W] of the masked chunks as they stand."""
        z: Tensor = self.encoder(x, came_in, slots)
        if self.attend is not None and context is not None:
            chunks, size = z.shape[1:3]
            of_masked, of_others = (
                (mine[:, :, None, :, None] & there[:, None, None]).expand(-1, -1, size, -1, -1)
                for mine, there in ((context.earlier, slots), (context.other_earlier, context.slots))
            )
            allowed = torch.cat([of_others.flatten(3), of_masked.flatten(3)], 3).flatten(1, 2)
            read = torch.cat([context.codes.flatten(1, 2), z.flatten(1, 2)], 1)
            z = self.attend(z.flatten(1, 2), read, allowed).unflatten(1, (chunks, size))
        return self.norm(z)

    def sure(self, z: Tensor, slots: Tensor) -> Tensor:
        """Confidence logits [R, M] in fp32. It reads z and sends no gradient into it: refinement learns from text alone."""
        there = slots[..., None].to(z.dtype)
        mean = (z.detach() * there).sum(2) / there.sum(2).clamp(min=1)
        logits: Tensor = self.confidence(mean)
        return logits[..., 0].float()

    # ---- refinement ----

    def forward(
        self, hidden: Tensor, slots: Tensor, real: Tensor, context: Context | None, *, early: bool, keep: bool = False,
        alone: bool = False,
    ) -> Refined:  # fmt: skip
        """Refine hidden [R, M, C, D] of the chunks `real` [R, M] in their slots [R, M, C].

        early: a chunk stays as it is from where the stopping rule holds. alone: no other rank runs this batch's steps, so
        the loop may end when all chunks have stopped; under ZeRO-3 all ranks have to run the same modules, in validation
        too. keep: fill Refined.every.
        """
        s = self.settings
        unit = root_mean_square(hidden)
        x = came_in = hidden / unit
        z = self.look(x, came_in, slots, context)
        first = self.sure(z, slots)
        refined = real & ~(first > 0) if s.low_confidence_only else real.clone()
        going, steps, every = refined.clone(), torch.zeros_like(real, dtype=torch.long), []
        for step in range(1, s.max_steps + 1):
            gate, up = self.swiglu(z).chunk(2, -1)
            moved = x + STEP_SIZE * self.proj(F.silu(gate) * up)
            x = torch.where((going if early else refined)[..., None, None], moved, x)
            steps += going
            before, z = z, self.look(x, came_in, slots, context)
            if step >= s.min_steps:
                going = going & (cosine(before, z, slots) <= 1 - s.threshold)
            if keep:
                every.append(x * unit)
            if early and alone and not bool(going.any()):
                break
        moved = torch.where(refined[..., None, None], x * unit, hidden)
        return Refined(moved, self.sure(z, slots), first, steps, refined, every)


def count_parameters(settings: HeadSettings) -> int:
    """Of a head with these settings, which is not built."""
    s, w = settings, settings.width
    block = 2 * w + 4 * w * w + 4 * w * w + 2 * w * w
    attend = 2 * w + 4 * w * w + 2 * w if s.context == "causal" else 0
    ends = 2 * s.hidden_size * w + s.chunk_size * w + w + 4 * w * w + 2 * w * s.hidden_size + w + 1
    return s.layers * block + attend + ends


def cosine(a: Tensor, b: Tensor, slots: Tensor) -> Tensor:
    """Cosine [R, M] of the codes of chunks [R, M, C, W], over their slots."""
    a, b = ((x.detach().float() * slots[..., None]).flatten(2) for x in (a, b))
    return F.cosine_similarity(a, b, dim=-1)


def root_mean_square(hidden: Tensor) -> Tensor:
    """[..., 1], a constant to autograd."""
    size = hidden.detach().float().pow(2).mean(-1, keepdim=True).add(1e-12).sqrt()
    return size.to(hidden.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
