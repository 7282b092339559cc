"""`mft init`: writes a commented file of settings for a model, data and a method, after a look at the data and the machine."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from mft_cli.cli.options import read_options
from mft_cli.config.schema.base import NEEDS, STRICT, Values, key
from mft_cli.config.schema.inputs import SourceConfig
from mft_cli.errors import UserError
from mft_cli.files import write_atomically

LOOKED_AT = 1000  # rows of a file
CHARACTERS_A_TOKEN = 2.5  # of dense text; prose has four
SHOWN = (
    "run_dir", "seed", "train.epochs", "train.learning_rate", "train.global_batch_size", "train.micro_batch_size",
    "train.gradient_checkpointing", "data.on_long", "checkpoint.every_minutes", "log.every_steps", "log.wandb",
)  # fmt: skip


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft init`."""

    data: str = key("gsm_symbolic", "A file, a folder or hub id, or a preset.")
    model: str = key("smollm2_135m", "A folder, a run folder or hub id, or a preset.")
    method: str = key("sft", "A preset.")
    eval: str = key("", "Benchmarks, separated by commas.")
    question: str | None = key(None, "The field with the question, where the form is not detected.")
    response: str | None = key(None, "The field with the response.")
    out: Path = key(Path("mft.yaml"), "The file that is written.")


def main(arguments: list[str]) -> None:
    """Write the file, and say what comes next. Raises UserError; a file that is there is never replaced."""
    options, rest = read_options(Options, "init", arguments)
    if rest:
        raise UserError(f"mft init takes key=value words, not {rest[0]!r}; see mft init --help")
    if options.out.exists():
        raise UserError(f"out={options.out} exists; remove it, or name another file with out=")
    write_atomically(options.out, page(options))
    print(f"wrote {options.out}; read it, then\n{next_steps(options.out, '  ')}", flush=True)
    if trouble := what_is_missing(options.out):
        print(f"before it can train: {trouble}", flush=True)


def what_is_missing(file: Path) -> str:
    """What keeps the written file from training, such as a key of the method that has no default."""
    from mft_cli.config.compose import run_with_hydra
    from mft_cli.config.load import train_config

    try:
        run_with_hydra("train", ["--config", str(file)], train_config)
    except UserError as error:
        return str(error)
    return ""


def page(options: Options) -> str:
    """The file's text. Raises UserError for a preset, file or form that is not there."""
    parts = [
        "# Written by mft init. A line is a setting as on the command line (key: value for key=value), where words win over\n"
        f"# this file. Every key: docs/keys.md.\n#\n{next_steps(options.out, '#   ')}",
        f"# ---- model\n{model_lines(options.model)}",
        f"# ---- data\n{data_lines(options)}",
        f"# ---- method\n{method_lines(options.method)}",
        f"# ---- evaluation after the training; mft eval list shows all benchmarks\n{eval_lines(options.eval)}",
        f"# ---- this machine\n{machine_lines()}",
        f"# ---- often changed; these are the defaults\n{common_lines()}",
    ]
    return "\n\n".join(parts) + "\n"


def next_steps(file: Path, margin: str) -> str:
    return "\n".join(
        f"{margin}mft {verb:<10} --config {file}   {what}"
        for verb, what in (
            ("data show", "what is trained on, and what is masked"),
            ("plan", "memory, time and disk"),
            ("train", "trains; the same command goes on after a stop"),
        )
    )


def preset(group: str, name: str) -> bool:
    """Whether `name` is an option of a group. Raises UserError for what is neither one nor a path or hub id."""
    from mft_cli.config.compose import groups

    options = [option for option in groups()[group] if option not in ("local", "none")]
    if name in options:
        return True
    if group in ("model", "data") and ("/" in name or Path(name).expanduser().exists()):
        return False
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"presets: {', '.join(options)}"
    what = (
        "a file or folder that is here, a hub id (with a /), or a preset" if group in ("model", "data") else "a preset"
    )
    raise UserError(f"{group}={name}: expected {what}; {hint}")


def line(name: str, value: object, doc: str = "", active: bool = True) -> str:
    return f"{'' if active else '# '}{name}: {json.dumps(value, ensure_ascii=False)}{f'   # {doc}' if doc else ''}"


def model_lines(name: str) -> str:
    from mft_cli.config.checks_sources import check_model_path
    from mft_cli.config.model_path import model_path

    if preset("model", name):
        return line("model", name)
    check_model_path("model", name)
    return line("model.path", model_path(name, "model"))


def data_lines(options: Options) -> str:
    if preset("data", options.data):
        return line("data", options.data)
    name = "".join(c if c.isalnum() or c in "_-" else "_" for c in Path(options.data).name.split(".")[0]) or "mine"
    fields = {k: v for k in ("question", "response") if (v := getattr(options, k))}
    source = replace(SourceConfig(path=options.data, layout="question_response" if fields else "auto"), **fields)
    settings: Values = {"path": options.data, "layout": source.layout, **fields}
    settings, remarks = looked_at(source, name, settings)
    sources = "\n".join(line(f"    {k}", v) for k, v in settings.items())
    return "\n".join(
        [
            *(f"# {remark}" for remark in remarks[:-1]),
            f"data:\n  name: {name}\n  sources:\n   {name}:\n{sources}",
            remarks[-1],
        ]
    )


def looked_at(source: SourceConfig, name: str, settings: Values) -> tuple[Values, list[str]]:
    """The source's settings with the form that its first rows have; remarks, the last of them the lines on sizes."""
    from mft_cli.data.files import BadRow, local_files, read_files
    from mft_cli.data.layouts import resolve
    from mft_cli.data.sources import make_row

    files = local_files(source)
    if files is None:
        sizes = [line("data.max_length", 1024, "longest example in tokens", active=False)]
        return settings, ["Not in a local file: the form of the rows is detected when they are loaded.", *sizes]
    rows = list(islice(read_files(files, source.format), LOOKED_AT))
    detected, form = resolve(source, name, iter(rows))
    if form:
        defaults = SourceConfig()
        settings = {"path": source.path} | {
            k: getattr(detected, k)
            for k in ("layout", "question", "response", "answer", "messages", "loss_on")
            if k == "layout" or getattr(detected, k) != getattr(defaults, k)
        }
    good = [make_row(detected, values, i, at) for i, at, values in rows if not isinstance(values, BadRow)]
    longest = max((row.characters() for row in good), default=0)
    tokens = -(-int(longest / CHARACTERS_A_TOKEN) // 256) * 256
    count = f"the first {LOOKED_AT:,}" if len(rows) == LOOKED_AT else f"all {len(rows):,}"
    remarks = [f"Looked at {count} rows; the longest has {longest:,} characters.", *([form] if form else [])]
    if bad := len(rows) - len(good):
        remarks.append(f"{bad:,} rows cannot be read: correct them, or data.on_bad_row: drop")
    share = "share of the rows that is not trained on, but validated on"
    sizes = [
        line("data.max_length", max(tokens, 256), "longest example in tokens: an estimate from the characters"),
        line("data.validation.fraction", 0.05, share, active=len(rows) >= 100),
    ]
    return settings, [*remarks, "\n".join(sizes)]


def method_lines(name: str) -> str:
    """The method's preset, and its keys with their values there; without those that need others."""
    from mft_cli.config.compose import run_with_hydra
    from mft_cli.config.schema import method_classes

    preset("method", name)
    composed: list[Values] = []
    run_with_hydra("train", [f"method={name}"], composed.append)
    values = composed[0]["method"]
    cls = next(c for c in method_classes() if c.name == values["name"])
    lines = [line("method", name, (cls.__doc__ or "").splitlines()[0])]
    for full, info in documented(cls, "method."):
        short = full.removeprefix("method.")
        if short == "name" or "." in short or NEEDS in str(info.json_schema_extra):
            continue
        value = values.get(short, info.get_default(call_default_factory=True))
        lines.append(line(full, value, info.description or "", active=False))
    return "\n".join(lines)


def documented(cls: type, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(key, its default and documentation) of every key below a section."""
    from mft_cli.config.validate import walk

    for name, _, f in walk(cls, prefix):
        if isinstance(f.default, FieldInfo):
            yield name, f.default


def eval_lines(names: str) -> str:
    listed = [name.strip() for name in names.strip("[] ").split(",") if name.strip()]
    for name in listed:
        preset("eval", name)
    if not listed:
        return line("eval", ["gsm8k"], active=False)
    return "\n".join(
        [line("eval", listed), line("eval.limit", 100, "problems of each; leave it out for all", active=False)]
    )


def machine_lines() -> str:
    """What `auto` takes here, and the GPUs."""
    import torch

    from mft_cli.models.device import choose_precision, hardware_of

    gpus = torch.cuda.device_count()
    precision = choose_precision("auto", hardware_of(torch.device("cuda" if gpus else "cpu")))
    lines = [line("train.precision", "auto", f"{precision} on this machine (mft doctor)", active=False)]
    lines.append(line("launch.gpus", gpus or None, "one process each", active=gpus > 1))
    lines.append("peft: lora   # adapters alone: a fraction of the memory; their keys are peft.*")
    return "\n".join([*lines[:-1], f"# {lines[-1]}"])


def common_lines() -> str:
    from mft_cli.config.schema.runs import TrainConfig

    known = dict(documented(TrainConfig))
    return "\n".join(
        line(name, known[name].get_default(call_default_factory=True), known[name].description or "", active=False)
        for name in SHOWN
    )


HELP = """mft init: write a commented file of settings for your model, your data and a method

  mft init data=my.jsonl                                        the embedded model, plain fine-tuning -> mft.yaml
  mft init data=my.jsonl model=Qwen/Qwen3-0.6B method=masked_thought eval=gsm8k out=mine.yaml
  mft init data=my.csv question=Frage response=Antwort          fields that are not detected
  mft train --config mine.yaml train.epochs=1                   words win over the file

It looks at the data's first rows (what form they have, how long they are) and at the machine, and writes what it chose with
the reason, and the method's keys with their defaults. data=, model= and method= take presets (mft train --help), paths, hub ids.
"""
