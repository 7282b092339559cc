"""Every file that a run writes, damaged in five ways each, and then read by the commands that read it."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.fault_injection.forks import Ended, run_mft
from scripts.fault_injection.scenarios import BY_NAME, Workshop, differences
from scripts.fault_injection.table import Table, traceback_in

SCENARIOS = ("plain", "evaluated", "saves", "lora", "refine", "weight masks", "zero3", "sweep", "critiques", "dependency",
             "landscape", "mask", "claim")  # fmt: skip


def flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data)) if data else 0
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :] if data else b"\x01"


Damage = Callable[[bytes, random.Random], bytes | None]
DAMAGES: dict[str, Damage] = {
    "cut": lambda data, rng: data[: rng.randrange(max(1, len(data)))],
    "emptied": lambda data, rng: b"",
    "a bit flipped": flip,
    "filled with garbage": lambda data, rng: rng.randbytes(max(1, len(data))),
    "deleted": lambda data, rng: None,
}


@dataclass(frozen=True)
class FileKind:
    """Files that a command writes, by their pattern, below the folder that holds `run` and `cache`.

    `stages`: in which state they are damaged. `readers`: the commands that come then. `promise`: what the page says.
    """

    pattern: str
    promise: str
    stages: tuple[str, ...] = ("done",)
    readers: tuple[str, ...] = ("same", "report")
    verb: str = "train"  # of the command


AGAIN = "made again"
TOLD = "refused in a sentence that names the file"
UNREAD = "not read by mft"
EXPORTED = ("same", "eval")
BOTH = ("stopped", "done")
SWEEP = ("same", "status", "sweep report")


def of_verb(verb: str, promises: dict[str, str]) -> list[FileKind]:
    """Pattern -> promise, of a verb whose own command is what reads its files."""
    return [FileKind(pattern, promise, BOTH, ("same",), verb) for pattern, promise in promises.items()]


KINDS = [
    FileKind("cache/tokenized/*/*", AGAIN, ("stopped",), ("same",)),
    FileKind("run/config.yaml", f"{TOLD}, also by other settings", BOTH),
    FileKind("run/run.json", TOLD, BOTH),
    FileKind("run/state.json", "goes on from the newest checkpoint", BOTH),
    FileKind("run/metrics.jsonl", "told; whole lines are kept", BOTH),
    FileKind("run/samples.jsonl", "told; whole lines are kept", BOTH),
    FileKind("run/checkpoints/*/*", "passed over for the one before, said; refused where none is whole", BOTH,
             ("same",)),
    FileKind("run/training_questions.bin", AGAIN, ("done",), ("same",)),
    FileKind("run/export*/masks.mft", TOLD, readers=("same", "eval", "masks")),
    FileKind("run/export*/*.safetensors", f"{TOLD}, by the evaluation", readers=EXPORTED),
    FileKind("run/export*/mft.json", TOLD, readers=EXPORTED),
    FileKind("run/export*/training_questions.bin", TOLD, readers=EXPORTED),
    FileKind("run/export*/README.md", UNREAD, readers=EXPORTED),
    FileKind("run/export*/.mft-digests.json", AGAIN, readers=EXPORTED),
    FileKind("run/export*/SHA256SUMS", TOLD, readers=EXPORTED),
    FileKind("run/export*/*", TOLD, readers=EXPORTED),
    FileKind("run/export/adapter/README.md", UNREAD, readers=("same",)),
    FileKind("run/export*/adapter/*", TOLD, readers=("same", "adapter")),
    FileKind("run/export*/head/*", TOLD, readers=("same", "verify")),
    FileKind("run/eval*/*/generations.jsonl", AGAIN),
    FileKind("run/eval*/*/scores.jsonl", AGAIN),
    FileKind("run/eval*/*/gold.jsonl", AGAIN),
    FileKind("run/eval*/*/metrics.json", AGAIN),
    FileKind("run/eval*.json", AGAIN, readers=("same",)),
    FileKind("run/frozen.json", AGAIN, ("stopped",), ("same",)),
    FileKind("run/train.log", UNREAD, ("stopped",), ("same",)),
    FileKind("run/logs/*", UNREAD, ("stopped",), ("same",)),
    FileKind("run/tensorboard/*", UNREAD, ("stopped",), ("same",)),
    FileKind("run/.lock", UNREAD, ("stopped",), ("same",)),
    FileKind("run/eval*/.lock", UNREAD, readers=("same",)),
    FileKind("run/sweep.json", TOLD, BOTH, SWEEP),
    FileKind("run/jobs/*.json", TOLD, BOTH, SWEEP),
    FileKind("run/multirun.yaml", UNREAD, ("stopped",), ("same",)),
    *of_verb("critique", {
        "run/solutions/*.jsonl": AGAIN, "run/critiques.jsonl": AGAIN, "run/train.jsonl": AGAIN, "run/malformed.jsonl": AGAIN,
        "run/config.yaml": AGAIN, "run/state.json": AGAIN, "run/provenance.json": AGAIN, "run/.lock": UNREAD,
    }),
    *of_verb("analyze", {
        "run/examples.jsonl": AGAIN, "run/points.jsonl": AGAIN, "run/dependency*": AGAIN, "run/landscape*": AGAIN, "run/.lock": UNREAD,
    }),
    *of_verb("claims", {"run/tiny/jobs/*.json": TOLD, "run/tiny/sweep.json": TOLD, "run/tiny/.lock": UNREAD}),
    FileKind("run/*", TOLD, readers=("masked",), verb="mask"),
]  # fmt: skip


def kind_of(path: Path, verb: str = "train") -> FileKind | None:
    """The first kind whose pattern fits, of a path below the folder that holds `run`; the cache is everyone's."""
    verb = "train" if path.parts[0] == "cache" else verb
    fitting = (
        kind
        for kind in KINDS
        if kind.verb == verb and kind.pattern.count("/") + 1 == len(path.parts) and path.match(kind.pattern)
    )
    return next(fitting, None)


def is_of_a_run_inside(path: Path) -> bool:
    """Of a sweep's or a claim's run, whose files are those of any run."""
    return path.parts[1] == "runs" or path.parts[1].startswith("seed-")


def files_of(folder: Path) -> list[Path]:
    """What a scenario wrote, below its folder."""
    return sorted(
        path.relative_to(folder) for top in ("run", "cache") for path in (folder / top).rglob("*") if path.is_file()
    )


def lasting_name(path: Path) -> str:
    """Without what differs from run to run: the cache's key, and the time in the name of TensorBoard's file."""
    return re.sub(r"(?<=tokenized/)\w+|(?<=tfevents\.).*", "*", path.as_posix())


@dataclass(frozen=True)
class Case:
    """A file of a scenario's run, in the state `stage`, damaged in one way."""

    scenario: str
    stage: str
    path: Path
    kind: FileKind
    way: str

    def __str__(self) -> str:
        return f"{self.scenario}, {self.stage}, {lasting_name(self.path)}, {self.way}"


def cases(shop: Workshop, names: Sequence[str]) -> Iterator[Case]:
    """Each file in the first of the scenarios that writes it, damaged in each way.

    Raises RuntimeError for a file of no kind, and for a kind that no scenario writes.
    """
    seen: set[str] = set()
    written: set[FileKind] = set()
    for name in names:
        folder = shop.reference(BY_NAME[name])
        for path in files_of(folder):
            if is_of_a_run_inside(path):
                continue
            kind = kind_of(path, BY_NAME[name].verb)
            if kind is None:
                raise RuntimeError(f"{name} writes {path}, which is of no kind in KINDS")
            written.add(kind)
            if (lasting := f"{kind.verb} {lasting_name(path)}") in seen:
                continue
            seen.add(lasting)
            for stage in kind.stages:
                last_save = stage == "stopped" and "step-00000006" in path.parts
                if (source(shop, name, stage) / path).exists() and not last_save:
                    yield from (Case(name, stage, path, kind, way) for way in DAMAGES)
    if missing := [kind.pattern for kind in KINDS if kind not in written and tuple(names) == SCENARIOS]:
        raise RuntimeError(f"no scenario writes {', '.join(missing)}")


def damage(shop: Workshop, table: Table, n: int, seed: str, names: list[str]) -> None:
    """At most about `n` damages, each file's five ways; all of them where `n` is 400 or more."""
    todo = list(cases(shop, [s for s in SCENARIOS if s in names] or SCENARIOS))
    if n < 400:
        todo = random.Random(seed).sample(todo, min(n, len(todo)))
    for case in table.untried(todo, seed):
        damage_once(shop, table, case, random.Random(f"{seed} {case}"))


def damage_once(shop: Workshop, table: Table, case: Case, rng: random.Random) -> None:
    scenario, stage, path = case.scenario, case.stage, case.path
    group = f"file {case.way}"
    reference = shop.reference(BY_NAME[scenario])
    for reader in case.kind.readers:
        if stage == "stopped" and reader != "same":
            continue
        folder = begin(shop, scenario, stage)
        whole = (folder / path).read_bytes()
        torn = DAMAGES[case.way](whole, rng)
        if torn is None:
            (folder / path).unlink()
        else:
            (folder / path).write_bytes(torn)
        table.count(group)
        what = f"{scenario}, {stage}, {path}, then {reader}"
        ended = read(shop, scenario, folder, reader)
        judge_reading(table, group, what, path, ended)
        if ended.code == 0 and torn != whole:
            changed = result_of(reader, folder, reference, shop)
            if stage == "done":  # nothing reads the checkpoints of a finished run
                changed = [name for name in changed if not name.startswith("checkpoints/")]
            if changed and not tells(ended.output, path):
                table.blame(group, "silent", f"{what}: {', '.join(changed[:4])}")


def source(shop: Workshop, scenario: str, stage: str) -> Path:
    """What a case copies: the finished command's folder, or, where it is no single training, that of a killed one."""
    finished = shop.reference(BY_NAME[scenario])
    trained = (finished / "run" / "checkpoints").is_dir()
    return finished if stage == "done" or trained else shop.killed(BY_NAME[scenario])


def begin(shop: Workshop, scenario: str, stage: str) -> Path:
    """A copy of the finished command's folder, or of one that was killed: of a training after step 4 of 6."""
    folder = shop.folder / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source(shop, scenario, stage), folder)
    run = folder / "run"
    if stage == "stopped" and (run / "checkpoints").is_dir():
        for gone in (
            *run.glob("export*"),
            *run.glob("eval*"),
            run / "training_questions.bin",
            run / "checkpoints/step-00000006",
        ):
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
        (run / "state.json").write_text(json.dumps({"state": "running", "step": 4, "total_steps": 6}))
    return folder


WORDS = {
    "masks": ["mask", "inspect", "run/export/masks.mft"],
    "status": ["sweep", "status", "run"],
    "sweep report": ["sweep", "report", "run", "out=report"],
}


def read(shop: Workshop, scenario: str, folder: Path, reader: str) -> Ended:
    """The command that reads the folder."""
    if reader == "same":
        return run_mft(shop.words(BY_NAME[scenario]), folder)
    if reader == "report":
        ended = run_mft(["report", "run", "out=report"], folder)
        page = folder / "report" / "report.md"  # which tells what the terminal has no place for
        return replace(ended, output=ended.output + (page.read_text() if page.exists() else ""))
    if reader in WORDS:
        return run_mft(WORDS[reader], folder)
    model = {"adapter": "run/export/adapter", "masked": "run"}.get(reader, "run/export")
    more = ["eval.decode=verify"] if reader == "verify" else []
    return run_mft(
        ["eval", "--config-dir", str(shop.folder / "mine"), f"model.path={model}", "eval=sums", "eval.engine=hf",
         "eval.dtype=float32", "launch.threads=1", "run_dir=scored", *more], folder,
    )  # fmt: skip


def judge_reading(table: Table, group: str, what: str, path: Path, ended: Ended) -> None:
    last = (ended.output.strip().splitlines() or [""])[-1]
    if (line := traceback_in(ended.output)) or ended.hung or ended.code not in (0, 2):
        table.blame(group, "traceback", f"{what}: exit code {ended.code}: {line or ended.hung or last}")
    elif ended.code == 2 and not tells(ended.output, path):
        table.blame(group, "lost", f"{what}: refused, and the file is not named: {last}")


def tells(output: str, path: Path) -> bool:
    """Whether a command names the file, or the folder that it lies in."""
    return path.name in output or (len(path.parts) > 2 and f"{path.parent.name}" in output and "damaged" in output)


def result_of(reader: str, folder: Path, reference: Path, shop: Workshop) -> list[str]:
    """What differs from what the same reader makes of a whole run."""
    if reader == "same":
        return differences(folder / "run", reference / "run")
    key = (reader, reference)
    if key not in UNDISTURBED:
        damaged = folder.rename(folder.with_name("damaged"))
        whole = begin(shop, next(s for s in SCENARIOS if shop.references.get(s) == reference), "done")
        read(shop, next(s for s in SCENARIOS if shop.references.get(s) == reference), whole, reader)
        UNDISTURBED[key] = summary_of(reader, whole)
        shutil.rmtree(whole)
        damaged.rename(folder)
    return [] if summary_of(reader, folder) == UNDISTURBED[key] else [f"what {reader} shows"]


UNDISTURBED: dict[tuple[str, Path], str] = {}  # what a reader makes of a whole run


def summary_of(reader: str, folder: Path) -> str:
    if reader == "report":
        return (folder / "report" / "report.json").read_text()
    if reader == "sweep report":
        return (folder / "report" / "sweep.json").read_text()
    if reader in WORDS:
        return re.sub(r"\d+\.\d+ s\b", "", (folder / "output.txt").read_text())
    scored = folder / "scored" / "eval" / "sums"
    return (scored / "generations.jsonl").read_text() + str(json.loads((scored / "metrics.json").read_text())["digest"])
