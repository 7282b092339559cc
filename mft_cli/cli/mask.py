"""`mft mask`: its help, its options and what it calls."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import read_options
from mft_cli.config.schema.base import STRICT, key
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft mask`."""

    out: str | None = key(None, "Of inspect: file of the heat map; null: sparsity.png next to the masks.")


def main(arguments: list[str]) -> None:
    options, rest = read_options(Options, "mask", arguments)
    counts = {"apply": 3, "inspect": 1, "diff": 2}
    if not rest or len(rest) - 1 != counts.get(rest[0]):
        raise UserError("expected mft mask apply BASE MASKS OUT, mft mask inspect MASKS or mft mask diff MASKS MASKS")
    from mft_cli.cli.mask_tables import apply, diff, inspect

    if rest[0] == "apply":
        apply(*rest[1:])
    elif rest[0] == "diff":
        diff(*rest[1:])
    else:
        inspect(rest[1], options.out)


HELP = """mft mask: what mask_finetune removed

  mft mask apply BASE MASKS OUT      the base model with the masked weights removed, as a model folder
  mft mask inspect MASKS             share removed in every layer and module, as a table and a heat map
                   [out=FILE.png]    where the heat map goes (default: sparsity.png next to the masks)
  mft mask diff MASKS MASKS          how many weights two masks both remove, against what chance gives

MASKS: a masks.mft file, or the folder of an export that holds one. BASE: a model folder, hub id, .gguf file or
package:<python package>/<file>. Masks fit the base model that they were trained on and no other: its weights are digested.
Layout of the file and meaning of the numbers: docs/mask_finetune.md
"""
