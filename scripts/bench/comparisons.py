"""How often `mft compare` calls two equal settings higher or lower, and how often its intervals cover the truth.

    python scripts/bench/comparisons.py worlds=2000 seed=0

Worlds are drawn in which the two settings do not differ in truth (the means over all possible seeds and problems are
equal), and every one is compared by the code of `mft compare` itself. `false`: decided all the same, at the 5 % level;
`covers`: the 95 % interval holds the true difference, 0. One world is one pair, so Holm's correction does nothing here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np

from mft_cli.report.compare.pairs import Pair, compare, decide, decided
from mft_cli.report.compare.subjects import Subject, average

TOKENS = 100  # of every gold solution: the unit of the log-likelihood does not change


@dataclass(frozen=True)
class World:
    """A design: seeds on each side (0: a model that was not trained here), problems, and how much a seed moves a run."""

    name: str
    seeds: tuple[int, int]
    paired: bool = False
    problems: int = 200
    seed_sd: float = 0.05  # of a run's mean log-likelihood, nats per token; on accuracies, points / 100
    problem_sd: float = 0.02  # of what training does to one problem
    skewed: bool = False


WORLDS = (
    World("one run each, 4 problems", (1, 1), problems=4, seed_sd=0.0),
    World("one run each, 12 problems", (1, 1), problems=12, seed_sd=0.0),
    World("one run each, 12 problems, skewed", (1, 1), problems=12, seed_sd=0.0, skewed=True),
    World("one run each, 40 problems, skewed", (1, 1), problems=40, seed_sd=0.0, skewed=True),
    World("one run each, 200 problems", (1, 1), seed_sd=0.0),
    World("3 seeds each, paired", (3, 3), paired=True),
    World("3 seeds each, paired, 20 problems", (3, 3), paired=True, problems=20),
    World("3 seeds each, paired, seeds hardly matter", (3, 3), paired=True, seed_sd=0.001),
    World("3 seeds each, paired, seeds do not matter", (3, 3), paired=True, seed_sd=0.0),
    World("3 seeds each, other seeds", (3, 3)),
    World("3 seeds each, other seeds, hardly matter", (3, 3), seed_sd=0.001),
    World("5 seeds each, other seeds", (5, 5)),
    World("3 seeds against the model before training", (0, 3)),
    World("3 seeds against one trained run", (1, 3)),
)


def subject(generator: np.random.Generator, world: World, label: str, seed: str, base: np.ndarray) -> Subject:
    """One run: outcomes and log-likelihoods of `base` [problems], moved by the seed and by each problem's chance."""
    moved = generator.normal(0, world.seed_sd) if seed else 0.0
    noise = generator.exponential(1.0, len(base)) - 1 if world.skewed else generator.normal(0, 1, len(base))
    logprobs = -1.0 + base + moved + world.problem_sd * noise
    right = generator.random(len(base)) < np.clip(0.5 + base + moved, 0, 1)
    keys = [f"p{i}" for i in range(len(base))]
    return Subject(
        label=label, run=label, benchmark="b", values=dict(zip(keys, right.astype(float).tolist(), strict=True)),
        answers=dict.fromkeys(keys, "1"), logprobs=dict(zip(keys, logprobs.tolist(), strict=True)),
        tokens=dict.fromkeys(keys, TOKENS), binary=True, seed=seed,
    )  # fmt: skip


def side(generator: np.random.Generator, world: World, name: str, count: int, base: np.ndarray) -> Subject:
    """A setting: a model that was not trained here, one trained run, or several seeds averaged."""
    prefix = "" if world.paired else name
    runs = [
        subject(generator, world, f"{name}{i}", f"{prefix}{i}" if count else "", base) for i in range(max(1, count))
    ]
    return average(runs, name) if len(runs) > 1 else replace(runs[0], seed=runs[0].seed if count else "")


def compared(generator: np.random.Generator, world: World) -> Pair:
    base = generator.normal(0, 0.2, world.problems)  # what problems have in common under all runs
    pair = compare(*(side(generator, world, name, count, base) for name, count in zip("ab", world.seeds, strict=True)))
    decide([pair])
    return pair


def shares(world: World, worlds: int, seed: int) -> tuple[float, float, float, float]:
    """(false decisions, coverage) of the accuracies and of the log-likelihoods."""
    generator = np.random.default_rng(seed)
    pairs = [compared(generator, world) for _ in range(worlds)]
    result: list[float] = []
    for family in (pairs, [pair.gold for pair in pairs if pair.gold]):
        result.append(sum(decided(c.verdict) for c in family) / worlds)
        result.append(sum(c.interval is not None and c.interval[0] <= 0 <= c.interval[1] for c in family) / worlds)
    return result[0], result[1], result[2], result[3]


def main(arguments: list[str]) -> None:
    options = dict(argument.split("=", 1) for argument in arguments)
    worlds, seed = int(options.get("worlds", 2000)), int(options.get("seed", 0))
    print(f"{worlds} worlds a row, seed {seed}; no true difference; 5 % level, 95 % intervals\n")
    print("| design | accuracy: false | covers | log-likelihood: false | covers |\n|---|---|---|---|---|")
    for world in WORLDS:
        print(f"| {world.name} | " + " | ".join(f"{100 * share:.1f} %" for share in shares(world, worlds, seed)) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
