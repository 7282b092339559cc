"""How chains of definitions are written: as symbols, or as sentences about beads."""

from __future__ import annotations

import string
from dataclasses import dataclass
from random import Random

PEOPLE = [
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jana", "Kai", "Lena", "Max", "Nora", "Omar", "Pia", "Quin",
    "Rosa", "Sam", "Tara", "Udo", "Vera", "Will", "Xena", "Yuri", "Zoe",
]  # fmt: skip


@dataclass(frozen=True)
class Definition:
    """`first` operation `second`: places of earlier definitions, `second` only with `joint`; else it is a number.

    Without `first` it is the number `second` alone. `value` is what it comes to.
    """

    first: int | None
    operation: str
    second: int
    joint: bool
    value: int

    @property
    def needs(self) -> list[int]:
        """Places of the definitions that this one needs."""
        return [] if self.first is None else [self.first, self.second] if self.joint else [self.first]


class Symbols:
    """b = a + 3; a = 4. b?"""

    between, end, stop = "; ", ". ", ""  # between definitions and steps, before the answer, behind a step's value

    def draw_names(self, rng: Random, count: int) -> list[str]:
        return rng.sample(string.ascii_lowercase, count)

    def right_side(self, d: Definition, names: list[str]) -> str:
        if d.first is None:
            return str(d.second)
        return f"{names[d.first]} {d.operation} {names[d.second] if d.joint else d.second}"

    def definition(self, d: Definition, names: list[str], i: int) -> str:
        return f"{names[i]} = {self.right_side(d, names)}"

    def question(self, name: str) -> str:
        return f". {name}?"

    def step(self, d: Definition, names: list[str], said: list[int], i: int, redundancy: str) -> str:
        """One step of a solution; it ends in its value."""
        parts = [names[i], str(said[i])]
        if d.first is not None and redundancy != "value":
            values = [str(value) for value in said]
            parts[1:1] = [self.right_side(d, values)]
            if redundancy == "full":
                parts[1:1] = [self.right_side(d, names)]
        return " = ".join(parts)


class Sentences(Symbols):
    """Ben has 3 more beads than Ann. How many beads does Ben have?"""

    between, end, stop = " ", " ", "."

    def draw_names(self, rng: Random, count: int) -> list[str]:
        return rng.sample(PEOPLE, count)

    def definition(self, d: Definition, names: list[str], i: int) -> str:
        if d.first is None:
            return f"{names[i]} has {d.second} beads."
        first, second = names[d.first], names[d.second] if d.joint else str(d.second)
        if d.joint:
            verbs = {
                "+": f"as many beads as {first} and {second} together",
                "-": f"as many beads as {first} has more than {second}",
            }
        else:
            verbs = {"+": f"{second} more beads than {first}", "-": f"{second} fewer beads than {first}"}
        return f"{names[i]} has {verbs.get(d.operation, f'{second} times as many beads as {first}')}."

    def question(self, name: str) -> str:
        return f" How many beads does {name} have?"

    def step(self, d: Definition, names: list[str], said: list[int], i: int, redundancy: str) -> str:
        return super().step(d, names, said, i, redundancy) + self.stop


WORDINGS: dict[str, Symbols] = {"symbols": Symbols(), "sentences": Sentences()}


def vocabulary() -> list[str]:
    """Every word, digit and sign that a chain can hold, with and without a blank before it."""
    sentences = "has have beads more fewer than times as many and together How does do The the answer is"
    words = [*sentences.split(), *PEOPLE, *string.ascii_lowercase, *string.digits, *"=+-*;.?#,:()"]
    return [*words, *(f" {word}" for word in words), "\n", " "]
