"""`mft claims`: its help, its options and what it calls."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import read_options
from mft_cli.config.schema.base import STRICT, key
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft claims`."""

    runs: Path = key(Path("outputs/claims"), "Folder of the runs.")
    out: Path | None = key(None, "report: write the page to this file, too.")


def main(arguments: list[str]) -> None:
    """Raises UserError for words that it does not know, and what the runs raise."""
    options, words = read_options(Options, "claims", arguments)
    verb, names = (words or [""])[0], words[1:]
    if verb not in ("list", "run", "report") or (verb == "run") != bool(names):
        raise UserError("mft claims has the commands list, run NAME and report; see mft claims --help")
    from mft_cli.sweep.claims import design

    if verb == "run":
        for name in names:
            run(name, options.runs)
        return
    from mft_cli.sweep.claims import page
    from mft_cli.sweep.claims.verdict import corrected, state_of

    states = corrected([state_of(name, design.read(name), options.runs) for name in design.names()])
    if verb == "list":
        print(page.listing(states))
        return
    text = page.page(states, options.runs)
    if options.out is not None:
        from mft_cli.files import write_atomically

        write_atomically(options.out, text)
    print(text, end="")


def run(name: str, out: Path) -> None:
    """The missing runs of one claim, then what they say."""
    from mft_cli.cli.lab import pretrain
    from mft_cli.cli.train import run_training
    from mft_cli.sweep.claims import design, page
    from mft_cli.sweep.claims.run import run as run_claim
    from mft_cli.sweep.claims.verdict import state_of

    claim = design.read(name)
    run_claim(name, claim, out, run_training, pretrain)
    print("\n".join(page.section(state_of(name, claim, out))))


HELP = """mft claims: claims of papers, written down before they are tested

  mft claims list                      every claim: how much was run, what its design can detect, the verdict
  mft claims run NAME [NAME ...]       run what is missing (the same command goes on after a stop), and print the verdict
  mft claims report [out=FILE]         the page of all claims: docs/results.md is one

runs=outputs/claims is the folder of the runs. The designs: conf/experiment/claims/*.yaml. docs/laboratory.md
"""
