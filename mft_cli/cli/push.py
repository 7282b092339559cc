"""`mft push`: its help, its options and what it calls."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import read_options
from mft_cli.config.schema.base import STRICT, key
from mft_cli.console import text_table
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft push`."""

    part: Literal["merged", "adapter", "masks"] = key("merged", "What of the export.")
    base: str | None = key(None, "Hub id of the model that was fine-tuned, where the run had it from a folder.")
    license: str | None = key(
        None, "The hub's name of the license, such as apache-2.0: that of the base model and the data."
    )
    language: str | None = key(None, "Languages, between commas: en,de.")
    private: bool = key(True, "A private repository, if it is made now.")
    dry_run: bool = key(False, "Print the files and the card, and send nothing.")


def main(arguments: list[str]) -> None:
    options, rest = read_options(Options, "push", arguments)
    if len(rest) != 2:
        raise UserError("mft push takes an export and a repository: mft push outputs/<run>/export owner/name")
    from mft_cli.export.card import HubFacts
    from mft_cli.export.hub import prepare, push

    language = tuple(word.strip() for word in options.language.split(",")) if options.language else ()
    upload = prepare(
        Path(rest[0]), rest[1], options.part, HubFacts(base=options.base, license=options.license, language=language)
    )
    table = [("file", "bytes"), *((name, f"{upload.size(name):,}") for name in upload.files)]
    print("\n".join(text_table(table)), flush=True)
    if options.dry_run:
        print(f"\n{upload.files['README.md']}\nnothing was sent to {upload.repository}: dry_run=true")
        return
    print(f"pushed to {push(upload, options.private)}")


HELP = """mft push: put an export on the model hub

  mft push outputs/<run>/export owner/name dry_run=true              the files and the card, nothing is sent
  mft push outputs/<run>/export owner/name license=apache-2.0 language=en private=false
  mft push outputs/<run>/export owner/name part=adapter base=HuggingFaceTB/SmolLM2-135M-Instruct
  mft push outputs/<run>/export owner/name part=masks                masks of mask_finetune, for mft mask apply

The card has the scores of these weights with their intervals and settings, the data, the method and the command; the files say
nothing of this machine's folders. The license is not guessed. The hub's token is read from HF_TOKEN, or from `hf auth login`.
Options: part=merged base=null license=null language=null private=true dry_run=false
"""
