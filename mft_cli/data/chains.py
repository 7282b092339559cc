"""`generated:chains`: definitions in shuffled order, one asked for; its solution, and the graph that the solution follows.

A world in the sense of the physics of language models (Allen-Zhu and Li 2024, arXiv 2407.20311, iGSM): the truth of every
step is known by construction. What each row carries and what each knob does: docs/laboratory.md.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from mft_cli.config.schema.base import STRICT, AtLeastOne, Count, Fraction, Seed, Values, key
from mft_cli.data.chain_wording import WORDINGS, Definition
from mft_cli.errors import UserError
from mft_cli.rng import digest64

LARGEST = 99  # of any value where there is no modulus
NAMES = tuple(string.ascii_lowercase)
SPLITS = ("train", "test", "distracted", "longer", "facts")
Range = Annotated[list[Count], Field(min_length=2, max_length=2)]


@checked_dataclass(config=STRICT, frozen=True)
class ChainOptions:
    """The knobs of `generated:chains`, in `options` of a source."""

    seed: Seed = key(0, "Another seed, other problems; splits stay disjoint.")
    steps: Range = key([4, 6], "Fewest and most definitions that the answer needs.")
    distractors: Range = key([0, 2], "Fewest and most definitions that the answer does not need.")
    more_distractors: Count = key(6, "Further ones in the split `distracted`, whose problems are those of `test`.")
    more_steps: AtLeastOne = key(2, "Steps that the problems of the split `longer` have more.")
    operations: Annotated[str, Field(pattern=r"^[-+*]+$")] = key("+-*", "Operations of the definitions.")
    modulus: Annotated[int, Field(ge=2, le=100)] | None = key(
        10, "Values are taken modulo this; null: between 0 and 99."
    )
    distance: AtLeastOne = key(4, "How many steps back a step may look for its second value; 1: only the step before.")
    joints: Fraction = key(0.4, "Share of the steps that take a second value from an earlier step, not a number.")
    wording: Literal["symbols", "sentences"] = key("symbols", "b = a + 3, or Ben has 3 more beads than Ann.")
    redundancy: Literal["value", "values", "full"] = key(
        "full", "What a step of the solution says: b = 7; b = 4 + 3 = 7; b = a + 3 = 4 + 3 = 7."
    )
    shuffled: bool = key(
        True, "Definitions in any order; false: each behind those that it needs, so that one may read on."
    )
    noise: Fraction = key(
        0.0, "Share of the rows with a wrong value in one step of the solution; later steps follow from it."
    )


@dataclass(frozen=True)
class Chain:
    """What is asked and what is not: definitions whose operands are places in `chain + others`; the last of chain is asked."""

    chain: tuple[Definition, ...]
    others: tuple[Definition, ...]


def chains(split: str, rows: int | None, options: ChainOptions) -> Iterator[Values]:
    """Rows of one split: question, response, answer, steps, distractors, content. Raises UserError.

    train, test and longer hold no chain in common, whatever the names, the order and the distractors: a digest of the
    chain decides its split. `facts` holds chains of one and two steps, all of them.
    """
    if split not in SPLITS:
        raise UserError(f"generated:chains has the splits {', '.join(SPLITS)}, not {split}")
    check(options)
    low, high = (1, 2) if split == "facts" else options.steps
    further = options.more_steps if split == "longer" else 0
    drawn_from = "test" if split == "distracted" else split
    count, seen, attempt = 2000 if rows is None else rows, set[str](), 0
    while len(seen) < count:
        if attempt > 50 * count + 1000:
            raise UserError(f"generated:chains cannot make {count} different {split} problems; set rows lower")
        rng = Random(digest64("chains", options.seed, drawn_from, attempt))
        attempt += 1
        steps = rng.randint(low, high) + further
        drawn = draw_chain(rng, steps, rng.randint(*options.distractors), options)
        content = digest64("chains", drawn.chain)
        if split != "facts" and (content % 5 == 0) == (split == "train"):
            continue
        if split == "distracted":
            drawn = replace(drawn, others=extended(rng, drawn, options.more_distractors, options))
        row = as_row(rng, drawn, options)
        if row["question"] not in seen:
            seen.add(row["question"])
            yield {**row, "content": content}


def check(options: ChainOptions) -> None:
    """Raises UserError for options that contradict each other."""
    for name, (low, high) in (("steps", options.steps), ("distractors", options.distractors)):
        if low > high or (name == "steps" and low < 1):
            raise UserError(f"options.{name}=[{low}, {high}]: expected the fewest and the most")
    most = options.steps[1] + options.more_steps + options.distractors[1] + options.more_distractors
    if most > len(NAMES):
        raise UserError(
            f"options: {most} definitions (further steps and distractors included), but only {len(NAMES)} names"
        )
    if options.wording == "sentences" and options.modulus is not None:
        raise UserError(f"options.modulus={options.modulus}: sentences count beads; set it to null")


# ---- structure ------------------------------------------------------------------------------------------------------


def draw_chain(rng: Random, steps: int, others: int, options: ChainOptions) -> Chain:
    """Each step needs the one before it, so the order of a solution is the only one that there is."""
    chain: list[Definition] = []
    while len(chain) < steps:
        chain.append(draw_definition(rng, chain, len(chain) - 1, options))
    drawn = Chain(tuple(chain), ())
    return replace(drawn, others=extended(rng, drawn, others, options))


def extended(rng: Random, drawn: Chain, count: int, options: ChainOptions) -> tuple[Definition, ...]:
    """`count` more definitions that nothing in the chain needs; they may need the chain."""
    known = [*drawn.chain, *drawn.others]
    for _ in range(count):
        known.append(draw_definition(rng, known, rng.randrange(-1, len(known)), options))
    return tuple(known[len(drawn.chain) :])


def draw_definition(rng: Random, known: list[Definition], first: int, options: ChainOptions) -> Definition:
    """A number if `first` is negative, else an operation on the value `first` and a number or an earlier value."""
    largest = LARGEST if options.modulus is None else options.modulus - 1
    if first < 0:
        value = rng.randint(1, min(largest, 9))
        return Definition(None, "", value, False, value)
    while True:
        operation = rng.choice(options.operations)
        back = range(max(0, first + 1 - options.distance), first)
        joint = bool(back) and rng.random() < options.joints and (operation != "*" or options.wording == "symbols")
        second = rng.choice(back) if joint else rng.randint(1 if operation != "*" else 2, min(largest, 9))
        value = compute(known[first].value, operation, known[second].value if joint else second, options.modulus)
        if 0 <= value <= largest:
            return Definition(first, operation, second, joint, value)


def compute(first: int, operation: str, second: int, modulus: int | None) -> int:
    result = {"+": first + second, "-": first - second, "*": first * second}[operation]
    return result if modulus is None else result % modulus


# ---- a row ----------------------------------------------------------------------------------------------------------


def as_row(rng: Random, drawn: Chain, options: ChainOptions) -> Values:
    """The texts of a chain, and where in them each step's definition and value stand ([start, end) in characters)."""
    wording = WORDINGS[options.wording]
    definitions = [*drawn.chain, *drawn.others]
    names = wording.draw_names(rng, len(definitions))
    order = shuffled(rng, definitions) if options.shuffled else merged(rng, definitions)
    question, spans = joined([wording.definition(definitions[i], names, i) for i in order], wording.between)
    question += wording.question(names[len(drawn.chain) - 1])
    said = stated_values(rng, drawn.chain, options)
    texts = [wording.step(d, names, said, i, options.redundancy) for i, d in enumerate(drawn.chain)]
    response, step_spans = joined(texts, wording.between)
    ends = [end - len(wording.stop) for _, end in step_spans]
    steps = [
        {
            "name": names[i], "value": d.value, "needs": d.needs, "definition": spans[order.index(i)],
            "value_at": [end - len(str(said[i])), end],
        }
        for i, (d, end) in enumerate(zip(drawn.chain, ends, strict=True))
    ]  # fmt: skip
    return {
        "question": question,
        "response": f"{response}{wording.end}#### {said[-1]}",
        "answer": str(drawn.chain[-1].value),
        "steps": steps,
        "distractors": names[len(drawn.chain) :],
        "wrong_step": next((i for i, d in enumerate(drawn.chain) if said[i] != d.value), None),
    }


def shuffled(rng: Random, definitions: list[Definition]) -> list[int]:
    """Places in any order."""
    order = list(range(len(definitions)))
    rng.shuffle(order)
    return order


def merged(rng: Random, definitions: list[Definition]) -> list[int]:
    """Places in a random order in which each definition stands behind those that it needs."""
    order: list[int] = []
    while len(order) < len(definitions):
        ready = [i for i, d in enumerate(definitions) if i not in order and set(d.needs) <= set(order)]
        order.append(rng.choice(ready))
    return order


def stated_values(rng: Random, chain: tuple[Definition, ...], options: ChainOptions) -> list[int]:
    """The values that the solution states: right ones, or, in a noisy row, one wrong and the later ones by it."""
    wrong = rng.randrange(len(chain)) if rng.random() < options.noise else -1
    said: list[int] = []
    for i, d in enumerate(chain):
        value = (
            d.second
            if d.first is None
            else compute(said[d.first], d.operation, said[d.second] if d.joint else d.second, options.modulus)
        )
        said.append((value + rng.randint(1, 9)) % (options.modulus or LARGEST + 1) if i == wrong else value)
    return said


def joined(texts: list[str], between: str) -> tuple[str, list[list[int]]]:
    """The texts with `between` between them, and where each stands."""
    spans, start = [], 0
    for text in texts:
        spans.append([start, start + len(text)])
        start += len(text) + len(between)
    return between.join(texts), spans
