"""`mft mask`: masks applied, shown as a table and a heat map, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mft_cli.console import text_table
from mft_cli.errors import UserError
from mft_cli.methods import weight_masks as packed
from mft_cli.methods.weight_masks import Masks, Overlap, Sparsity
from mft_cli.report.render.plots import heat_map


def apply(base: str, masks: str, out: str) -> None:
    packed.apply(base, Path(masks), Path(out))
    print(f"{out}: {base} without {share_text(packed.read(Path(masks)))}")


def share_text(masks: Masks) -> str:
    removed, entries = packed.totals(masks)
    return f"{removed:,} of {entries:,} masked weights ({removed / entries:.2%})"


def inspect(masks: str, out: str | None = None) -> None:
    """Prints layer x module shares and writes the heat map. Raises UserError."""
    path = Path(masks)
    read = packed.read(path)
    rows = packed.inspect(read)
    print(f"{path}: removes {share_text(read)} of {read.facts.get('base_model')}\n")
    print("\n".join(text_table(table(rows))))
    picture = Path(out) if out else (path if path.is_dir() else path.parent) / "sparsity.png"
    if picture.suffix != ".png":
        raise UserError(f"out={out}: expected a name that ends in .png")
    layers, modules, values = grid(rows)
    picture.parent.mkdir(parents=True, exist_ok=True)
    title = f"share removed of {read.facts.get('base_model')}"
    picture.write_bytes(heat_map(title, [str(x) for x in layers], modules, values))
    print(f"\nheat map: {picture}")


def grid(rows: Sequence[Sparsity]) -> tuple[list[int], list[str], list[list[float | None]]]:
    """(layers, modules, share removed [layer][module]); None where a layer's module is not masked."""
    layers = sorted({r.layer for r in rows})
    modules = list(dict.fromkeys(r.module for r in sorted(rows, key=lambda r: r.kind)))
    shares = {(r.layer, r.module): r.share for r in rows}
    return layers, modules, [[shares.get((x, m)) for m in modules] for x in layers]


def table(rows: Sequence[Sparsity]) -> list[tuple[str, ...]]:
    """A head, a line for each layer, and the sums of the modules."""
    layers, modules, values = grid(rows)
    lines = [("layer", *modules, "all")]
    for number, shares in zip(layers, values, strict=True):
        in_layer = [r for r in rows if r.layer == number]
        lines.append((str(number), *("-" if s is None else f"{s:.2%}" for s in shares), total(in_layer)))
    return [*lines, ("all", *(total([r for r in rows if r.module == m]) for m in modules), total(rows))]


def total(rows: Sequence[Sparsity]) -> str:
    return f"{sum(r.removed for r in rows) / sum(r.entries for r in rows):.2%}"


def diff(first: str, second: str) -> None:
    """Prints, for every weight that both mask, the removed entries that they share."""
    a, b = packed.read(Path(first)), packed.read(Path(second))
    if a.facts.get("base_digest") != b.facts.get("base_digest"):
        print("warning: the two were trained on different base models")
    overlaps = packed.diff(a, b)
    only = len(a.packed) + len(b.packed) - 2 * (len(overlaps) - 1)
    if only:
        print(f"{only} weights are masked by one of the two only and left out")
    print(f"A: {first}\nB: {second}\n")
    head = ("weight", "removed by A", "by B", "by both", "by chance", "Jaccard", "by chance")
    print("\n".join(text_table([head, *(overlap_row(o) for o in overlaps)])))
    if packed.same_start(a, b):
        print(
            f"\nBoth have seed {a.facts['seed']}, so they began as the same mask and share more than chance even where the "
            f"data pulled them apart: train one with another seed= to tell a common mask from a common start."
        )


def overlap_row(o: Overlap) -> tuple[str, ...]:
    counts = (f"{n:,}" for n in (o.first, o.second, o.both))
    chance = f"{o.chance:,.0f} ± {o.variance**0.5:,.0f}"
    return (o.name.removesuffix(".weight"), *counts, chance, f"{o.jaccard:.4f}", f"{o.chance_jaccard:.4f}")
