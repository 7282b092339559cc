"""A claim and its design, one YAML in conf/experiment/claims: what is claimed by whom, what is run, which rule decides."""

from __future__ import annotations

import difflib
from math import sqrt
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from mft_cli.config.compose import CONF
from mft_cli.config.schema.base import STRICT, AtLeastOne, FileName, Fraction, Positive, Seed, Values, key
from mft_cli.config.validate import read_yaml, to_plain
from mft_cli.errors import UserError
from mft_cli.files import digest_of
from mft_cli.stats.hierarchy import Effect

FOLDER = CONF / "experiment" / "claims"
FROM = "from="  # a word of an arm: the arm whose finished run of the same seed it starts from
CHANGEABLE = ("claim", "source", "at_paper_size", "remark")  # wording: another one is no other design


@dataclass(config=STRICT, frozen=True)
class ClaimSource:
    """Who claims it."""

    document: Literal["000", "001", "002", "003"] = key(..., "The document: 000 to 003, docs/glossary.md.")
    section: str = key(..., "Section, table or figure.")
    published: str = key(..., "The published number, with its setting; 'none' where only words are given.")


@dataclass(config=STRICT, frozen=True)
class Assumed:
    """Guesses that the smallest detectable difference is computed from before anything runs."""

    discordant: Fraction = key(0.3, "Share of the problems on which two runs differ.")
    seed_deviation: Fraction = key(0.03, "Standard deviation over seeds of one run's mean score.")


@dataclass(config=STRICT, frozen=True)
class Claim:
    """A claim in one sentence, and the design that decides it.

    A contrast is a weighted sum of cells `arm/benchmark`. Each has to be above zero for the claim to hold.
    """

    claim: str = key(..., "The claim in one sentence.")
    source: ClaimSource = key(..., "Who claims it.")
    arms: dict[FileName, list[str]] = key(
        ...,
        "Arm -> overrides of mft train; from=ARM, first: starts from the finished model of an earlier arm, seed by seed.",
    )
    contrasts: dict[str, dict[str, float]] = key(..., "What has to be above zero: name -> {arm/benchmark: weight}.")
    seeds: list[Seed] = key(..., "Each arm is trained with each of them.")
    benchmarks: list[str] = key(..., "What every run is evaluated on.")
    problems: AtLeastOne = key(..., "Problems of each benchmark.")
    smallest: Positive = key(
        ..., "Smallest difference that matters: an interval below it says that the claim does not hold."
    )
    budget_minutes: Positive = key(..., "What it may cost, on two cores.")
    common: list[str] = key([], "Overrides of every arm.")
    metric: str = key("correct", "Field of scores.jsonl that is compared: correct, or a share such as right_steps.")
    assumed: Assumed = key(Assumed, "Guesses for the smallest detectable difference.")
    at_paper_size: list[str] = key([], "Commands that test it at the paper's size; not run until a GPU ran them.")
    remark: str = key("", "What the runs showed that a reader of the verdict should know.")

    @property
    def digest(self) -> str:
        """Of what decides: a claim whose digest changed after a run says so."""
        return digest_of({k: v for k, v in to_plain(self).items() if k not in CHANGEABLE})[:12]

    def detectable(self, terms: dict[str, float]) -> float | None:
        """Smallest true value of a contrast that this design finds with 80 % power at the two-sided 5 % level; None for one seed.

        Seeds add seed_deviation^2 a run; problems, at worst, a difference of one on the discordant share of them.
        """
        squares = sum(weight**2 for weight in terms.values())
        if len(self.seeds) < 2:
            return None
        of_seeds = squares * self.assumed.seed_deviation**2 / len(self.seeds)
        of_problems = squares * self.assumed.discordant / 2 / self.problems
        parts = (of_problems, self.problems - 1), (of_seeds, len(self.seeds) - 1)
        return Effect(0.0, sqrt(of_problems + of_seeds), parts, 0.0, "").detectable


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> Claim:
    """A claim's design. Raises UserError for an unknown name, and for a file that is no design."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"valid: {', '.join(names())}"
        raise UserError(f"no claim {name!r}; {hint}")
    claim = read_yaml(Claim, FOLDER / f"{name}.yaml")
    check_starts(name, claim)
    for contrast, terms in claim.contrasts.items():
        if strange := set(terms) - {f"{arm}/{benchmark}" for arm in claim.arms for benchmark in claim.benchmarks}:
            raise UserError(
                f"claim {name}: contrasts.{contrast}.{min(strange)}: expected arm/benchmark with one of the arms "
                f"{', '.join(claim.arms)} and one of the benchmarks {', '.join(claim.benchmarks)}"
            )
    return claim


def check_starts(name: str, claim: Claim) -> None:
    """Raises UserError for a from= that names no earlier arm: arms run in their order."""
    for number, (arm, words) in enumerate(claim.arms.items()):
        earlier = list(claim.arms)[:number]
        for start in (word.removeprefix(FROM) for word in words if word.startswith(FROM)):
            if start not in earlier or words.index(FROM + start):
                raise UserError(
                    f"claim {name}: arms.{arm}: {FROM}{start}: expected first among its words, with one of the arms "
                    f"before it ({', '.join(earlier) or 'there is none'})"
                )


def overrides_of(claim: Claim, arm: str, seed: int, out: Path) -> list[str]:
    """The words of one run. Claims that share a run share its folder."""
    benchmarks = [
        f"eval=[{','.join(claim.benchmarks)}]",
        *(f"eval.benchmarks.{b}.limit={claim.problems}" for b in claim.benchmarks),
    ]
    words = [*claim.common, *started(claim, arm, seed, out), *benchmarks, f"seed={seed}"]
    return [*words, f"run_dir={out / 'runs' / digest_of(words)[:16]}"]


def started(claim: Claim, arm: str, seed: int, out: Path) -> list[str]:
    """An arm's overrides, with the model that it starts from instead of from=."""
    words = claim.arms[arm]
    if not words or not words[0].startswith(FROM):
        return words
    run_dir = overrides_of(claim, words[0].removeprefix(FROM), seed, out)[-1].removeprefix("run_dir=")
    return ["model=local", f"model.path={Path(run_dir) / 'export'}", *words[1:]]


def as_facts(claim: Claim) -> Values:
    """What is kept of a design when it runs."""
    return {"digest": claim.digest, "design": to_plain(claim)}
