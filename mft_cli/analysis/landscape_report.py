"""The numbers of `mft analyze landscape` as JSON, as a table, as plots and as a page."""

from __future__ import annotations

import math
from pathlib import Path

from mft_cli.analysis.page import publish
from mft_cli.analysis.scenes import Scene
from mft_cli.analysis.subjects import Prepared
from mft_cli.files import JsonObject
from mft_cli.report.render.document import Picture, TextTable
from mft_cli.report.render.plots import loss_lines, loss_surface
from mft_cli.report.wording import count, one_line, signed, significant

READING = [
    "The loss is the mean cross entropy of the response tokens of fixed examples, in fp32, on clean inputs.",
    "Around a model: coordinate 1 is a random step that is as long, filter by filter, as the weights (Li et al. 2018).",
    "Between models: coordinate 0 is the first model, 1 the second, and so on. Barrier: the most that the loss lies above "
    "the straight line between the losses of its ends; 0 where it nowhere does.",
    "On a plane: axes are Euclidean distances in weight space from the first model; the first axis leads to the second.",
]

Losses = list[list[float | None]]  # [scenes][marks, then places]; None: not finite


def write(
    ready: Prepared, scenes: list[Scene], losses: Losses, settings: JsonObject, labels: int, out: Path
) -> JsonObject:
    """Prints tables and writes landscape.json, .html and PNG files into `out`."""
    result = as_json(ready, scenes, losses, settings, labels)
    source = f"{ready.source}; {labels} label tokens; fp32"
    return publish(
        out, "landscape", "Loss landscape", in_short(result), source, result, tables(result), plots(result), READING
    )


def as_json(ready: Prepared, scenes: list[Scene], losses: Losses, settings: JsonObject, labels: int) -> JsonObject:
    model_losses: dict[str, float | None] = {}
    scene_results = []
    for scene, values in zip(scenes, losses, strict=True):
        count = len(scene.marks)
        model_losses.update(zip((s.label for s in scene.subjects), values[:count], strict=True))
        marks = [{"label": s.label, "at": list(p)} for s, p in zip(scene.subjects, scene.marks, strict=True)]
        scene_result: JsonObject = {"label": scene.label, "marks": marks, "axes": [list(a) for a in scene.axes]}
        rest = values[count:]
        wide = len(scene.axes[0])
        scene_result["loss"] = rest if len(scene.axes) == 1 else [rest[i : i + wide] for i in range(0, len(rest), wide)]
        scene_result |= summary(scene, values[:count], rest, settings["kind"])
        scene_results.append(scene_result)
    return {
        "data": ready.source,
        "examples": len(ready.examples),
        "label_tokens": labels,
        "settings": settings,
        "precision": "fp32",
        "models": [
            {
                "label": s.label,
                "path": s.config.path,
                "weights_digest": s.folder.weights_digest,
                "loss": model_losses[s.label],
            }
            for s in ready.subjects
        ],
        "scenes": scene_results,
    }


def summary(scene: Scene, model_losses: list[float | None], rest: list[float | None], kind: str) -> JsonObject:
    """Lowest loss and where, the mean rise over the model (kind=random), the barrier (kind=line)."""
    finite = [(v, p) for v, p in zip(rest, scene.places, strict=True) if v is not None]
    # models lie between grid points
    models = [(v, p) for v, p in zip(model_losses, scene.marks, strict=True) if v is not None]
    lowest = min([*finite, *models], default=(None, None))
    result: JsonObject = {"lowest": {"loss": lowest[0], "at": lowest[1] and list(lowest[1])}}
    result["not_finite"] = len(rest) - len(finite)
    if kind == "random" and model_losses[0] is not None and finite:
        result["mean_rise"] = sum(v for v, _ in finite) / len(finite) - model_losses[0]
    if kind == "line" and model_losses[0] is not None and model_losses[1] is not None:
        start = scene.marks[0][0]
        above = [v - (model_losses[0] + (p[0] - start) * (model_losses[1] - model_losses[0])) for v, p in finite]
        result["barrier"] = max(0.0, *above)
    return result


# ---- shown ----------------------------------------------------------------------------------------------------------


def tables(result: JsonObject) -> list[TextTable]:
    parts = [
        TextTable("models", ["model", "loss"], [[one_line(m["label"]), number(m["loss"])] for m in result["models"]])
    ]
    scenes, kind = result["scenes"], result["settings"]["kind"]
    extra = {"random": ("mean_rise", "mean rise"), "line": ("barrier", "barrier"), "plane": None}[kind]
    head = ["where", "lowest loss", "at", *([extra[1]] if extra else [])]
    rows = [
        [one_line(s["label"]), number(s["lowest"]["loss"]), coordinates(s["lowest"]["at"]),
         *([number(s.get(extra[0]))] if extra else [])]
        for s in scenes
    ]  # fmt: skip
    parts.append(TextTable("summary", head, rows))
    if all(len(s["axes"]) == 1 for s in scenes):
        if kind == "line":
            rows = [
                [f"{a:.3f}", one_line(s["label"]), number(v)]
                for s in scenes
                for a, v in zip(s["axes"][0], s["loss"], strict=True)
            ]
            parts.append(TextTable("loss along the way", ["coordinate", "between", "loss"], rows))
        else:
            rows = [[signed(a, 3), *(number(s["loss"][i]) for s in scenes)] for i, a in enumerate(scenes[0]["axes"][0])]
            parts.append(
                TextTable("loss along the direction", ["coordinate", *(one_line(s["label"]) for s in scenes)], rows)
            )
    return parts


def in_short(result: JsonObject) -> list[str]:
    """What was found in each scene."""
    kind = result["settings"]["kind"]
    losses = {model["label"]: model["loss"] for model in result["models"]}
    return [sentence(scene, kind, losses) for scene in result["scenes"]]


def sentence(scene: JsonObject, kind: str, losses: dict[str, float | None]) -> str:
    """Such as "sft → masked: barrier 0.0312 between losses of 1.234 and 1.201."."""
    label = one_line(scene["label"])
    ends = " and ".join(number(losses[mark["label"]]) for mark in scene["marks"])
    lowest = f"the lowest loss, {number(scene['lowest']['loss'])}, is at {coordinates(scene['lowest']['at'])}"
    gone = f"; {count(scene['not_finite'], 'point')} not finite" if scene["not_finite"] else ""
    if kind == "line" and "barrier" in scene:
        barrier = f"barrier {number(scene['barrier'])}" if scene["barrier"] else "no barrier"
        return f"{label}: {barrier} between losses of {ends}; {lowest}{gone}."
    if kind == "random" and "mean_rise" in scene:
        rise = scene["mean_rise"]
        return f"{label}: loss {ends}; around it {number(abs(rise))} {'higher' if rise > 0 else 'lower'} on average; {lowest}{gone}."
    return f"{label}: losses of {ends}; {lowest}{gone}."


def number(value: float | None) -> str:
    return "not finite" if value is None else significant(value, 4)


def coordinates(at: list[float] | None) -> str:
    return "" if at is None else "(" + ", ".join(signed(x, 3) for x in at) + ")"


def plots(result: JsonObject) -> dict[str, Picture]:
    """One of all lines, or one for each surface."""
    scenes, kind = result["scenes"], result["settings"]["kind"]
    if len(scenes[0]["axes"]) == 1:
        return {"landscape": lines(scenes, kind)}
    names = {index: "landscape" if len(scenes) == 1 else f"landscape-{index + 1}" for index in range(len(scenes))}
    return {names[index]: surface(scene, kind) for index, scene in enumerate(scenes)}


def lines(scenes: list[JsonObject], kind: str) -> Picture:
    series = [(s["label"], s["axes"][0], [gap(v) for v in s["loss"]]) for s in scenes]
    title, x, marks = "Loss along a random direction", "step, in norms of the weights' filters", []
    if kind == "line":
        title, x = "Loss between models", "models along the way"
        marks = list(dict.fromkeys((m["at"][0], m["label"]) for s in scenes for m in s["marks"]))
    return Picture(title, loss_lines(title, x, series, marks), loss_lines(title, x, series, marks, dark=True))


def surface(scene: JsonObject, kind: str) -> Picture:
    title, names = f"Loss around {scene['label']}", ("first direction, in norms of filters", "second direction")
    if kind == "plane":
        title = "Loss on the plane through three models"
        names = ("distance along the first axis", "distance along the second")
    across, up = scene["axes"]
    loss = [[gap(v) for v in row] for row in scene["loss"]]
    marks = [(m["at"][0], m["at"][1], m["label"]) for m in scene["marks"]]
    light, dark = (loss_surface(title, names, across, up, loss, marks, dark) for dark in (False, True))
    return Picture(title, light, dark)


def gap(value: float | None) -> float:
    return math.nan if value is None else value
