"""Where `mft analyze landscape` evaluates the loss: around a model, between models, and on the plane through three."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from mft_cli.analysis import directions
from mft_cli.analysis.directions import Point
from mft_cli.analysis.settings import LandscapeSettings
from mft_cli.analysis.subjects import Prepared, Subject
from mft_cli.errors import UserError

Coordinates = tuple[float, ...]
Put = Callable[[Coordinates], None]


@dataclass
class Scene:
    """Places to evaluate; `open` loads the weights and gives the model and what puts it at a place."""

    label: str
    places: list[Coordinates]
    subjects: list[Subject]
    open: Callable[[], tuple[nn.Module, Put]]
    axes: tuple[list[float], ...]  # coordinates along each axis
    marks: list[Coordinates]  # where the subjects lie, in their order


def make_scenes(ready: Prepared, asked: LandscapeSettings, seed: int) -> list[Scene]:
    subjects = ready.subjects
    if asked.kind == "random":
        return [around(subject, ready.device, asked, seed) for subject in subjects]
    if asked.kind == "line":
        pairs = itertools.pairwise(subjects)
        return [between(list(pair), number, ready.device, asked.points) for number, pair in enumerate(pairs)]
    return [through(subjects, ready.device, asked)]


def spread(low: float, high: float, points: int) -> list[float]:
    """Evenly spaced coordinates; the middle one of an odd number of them between -x and x is exactly 0."""
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle + half * (2 * i - points + 1) / (points - 1) for i in range(points)]


def around(subject: Subject, device: torch.device, asked: LandscapeSettings, seed: int) -> Scene:
    """One or two random filter-normalised directions; their coordinate 1 is a step as long as the weights."""
    axis = spread(-asked.reach, asked.reach, asked.points)

    def load() -> tuple[nn.Module, Put]:
        model = subject.load(device)
        origin = directions.weights_of(model)
        steps = [
            directions.random_direction(origin, seed, number, asked.keep_zeros) for number in range(asked.dimensions)
        ]
        return model, lambda point: directions.put_sum(model, origin, list(zip(point, steps, strict=True)))

    places: list[Coordinates] = [(a,) for a in axis] if asked.dimensions == 1 else [(a, b) for b in axis for a in axis]
    return Scene(subject.label, places, [subject], load, (axis,) * asked.dimensions, [(0.0,) * asked.dimensions])


def between(pair: list[Subject], number: int, device: torch.device, points: int) -> Scene:
    """The straight line from one model to the next; coordinates count models."""
    axis = [number + i / (points - 1) for i in range(points)]

    def load() -> tuple[nn.Module, Put]:
        model, (first, second) = loaded(pair, device)
        return model, lambda point: directions.put_between(model, first, second, point[0] - number)

    marks: list[Coordinates] = [(float(number),), (float(number + 1),)]
    return Scene(f"{pair[0].label} → {pair[1].label}", [(a,) for a in axis], pair, load, (axis,), marks)


def through(subjects: list[Subject], device: torch.device, asked: LandscapeSettings) -> Scene:
    """The plane through three models; coordinates are distances of weights (Euclidean norm)."""
    model, points = loaded(subjects, device)
    try:
        u, v, marks = directions.plane(points)
    except ValueError as error:
        raise UserError(f"kind=plane: of {', '.join(s.label for s in subjects)} {error}; take kind=line") from None
    origin = points[0]
    axes = []
    for values in zip(*marks, strict=True):
        room = asked.margin * (max(values) - min(values))
        axes.append(spread(min(values) - room, max(values) + room, asked.points))

    def put(point: Coordinates) -> None:
        if point in marks:  # the model's own bits, without the rounding of the way there
            directions.put_sum(model, points[marks.index(point)], [])
        else:
            directions.put_sum(model, origin, [(point[0], u), (point[1], v)])

    places: list[Coordinates] = [(a, b) for b in axes[1] for a in axes[0]]
    return Scene("plane", places, subjects, lambda: (model, put), (axes[0], axes[1]), list(marks))


def loaded(subjects: list[Subject], device: torch.device) -> tuple[nn.Module, list[Point]]:
    """The first model, and every model's weights. Raises UserError for models of different shape."""
    model = subjects[0].load(device)
    points = [directions.weights_of(model)]
    for other in subjects[1:]:
        points.append(directions.weights_of(other.load(device)))
        a, b = ({n: tuple(p.shape) for n, p in point.items()} for point in (points[0], points[-1]))
        if a != b:
            name = next(n for n in (*a, *b) if a.get(n) != b.get(n))
            raise UserError(
                f"{subjects[0].label} and {other.label} differ in shape ({name}: {a.get(name)} and {b.get(name)}); "
                f"there is no line between them"
            )
    return model, points
