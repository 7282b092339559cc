"""`mft claims run`: the missing runs of a claim, one after the other, and a note of the design that they belong to."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from mft_cli.config.compose import compose_values
from mft_cli.config.laboratory import PREFIX
from mft_cli.config.schema.base import Values
from mft_cli.errors import UserError
from mft_cli.files import write_sealed
from mft_cli.sweep.claims.design import FOLDER, Claim, overrides_of
from mft_cli.sweep.jobs import is_finished
from mft_cli.sweep.ledger import Ledger
from mft_cli.sweep.local import in_sequence
from mft_cli.sweep.start import first_line
from mft_cli.sweep.verbs import Task


def run(name: str, claim: Claim, out: Path, train: Task, make: Callable[[str], None]) -> None:
    """Run what is not done; `make` makes a model of the laboratory. Raises UserError, Stopped."""
    ledger = Ledger(out / name)
    with ledger.lock():
        write_sealed(ledger.facts, noted(ledger, name, claim))
        numbers = []
        for seed in claim.seeds:  # all arms of a seed: what is stopped early has whole pairs
            for arm in claim.arms:
                words = overrides_of(claim, arm, seed, out)
                job = ledger.add(words)
                ledger.freeze(job.number, composed(words, make))
                if not is_finished(ledger, job):
                    ledger.reset(job.number)
                    numbers.append(job.number)
        in_sequence(ledger, numbers, train)
        refuse_unfinished(ledger, name, numbers)


def refuse_unfinished(ledger: Ledger, name: str, numbers: list[int]) -> None:
    """Raises UserError where runs of this design failed; those of an earlier design do not count."""
    bad = [job for n in numbers if (job := ledger.truth(ledger.get(n))).state != "done"]
    if bad:
        told = f"job {bad[0].number} {bad[0].state}: {first_line(bad[0])}"
        raise UserError(
            f"{len(bad)} of {len(numbers)} runs of the claim are not done ({told}); again: mft claims run {name}"
        )


def composed(words: list[str], make: Callable[[str], None]) -> Values:
    """The configuration of a run. A model of the laboratory that it starts from is made first."""
    values = compose_values("train", words)
    path = str(values.get("model", {}).get("path", ""))
    if path.startswith(PREFIX):
        make(path.removeprefix(PREFIX))
    return values


def noted(ledger: Ledger, name: str, claim: Claim) -> Values:
    """sweep.json: with the designs that ran, and whether each was committed as it is when it first ran."""
    facts: Values = (
        ledger.read(ledger.facts)
        if ledger.facts.is_file()
        else {"command": ["mft", "claims", "run", name], "launcher": {}}
    )
    designs = facts.get("designs", [])
    if not designs or designs[-1]["digest"] != claim.digest:
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        designs.append({"digest": claim.digest, "time": now, "commit": committed(FOLDER / f"{name}.yaml")})
    return {**facts, "designs": designs}


def committed(file: Path) -> str | None:
    """The last commit that changed the file; None where it differs from that, or where there is no git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(file.parent), *words, "--", file.name], capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain")
    return None if changed is None or changed else (git("log", "-1", "--format=%h") or None)
