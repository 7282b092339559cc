"""The table of all methods and baselines on one real model and data set: SmolLM2-135M-Instruct and GSM8K, one seed.

    MFT_DATA_DIR=<folder with gsm8k/> python scripts/all_methods.py          half an hour on two cores
    python scripts/all_methods.py --examples 7409 --problems 1319 --batch 64 --seed 2      a GPU: all of it, another seed

Every row is a `mft` command that is printed. Killed and started again it goes on: what is done is not done again. At the end
`mft report` makes the page, and docs/log/all_methods.md is written (with --page).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

START = time.time()
HELD_OUT = 32  # training rows kept apart for the validation loss


@dataclass
class Row:
    """One line of the table."""

    name: str
    method: list[str]  # settings of `mft train`; none: the model as it is
    start: str = ""  # the row whose export it starts from; none: the pre-trained model
    against: str = ""  # the row that it is compared with
    decode: str = ""
    what: str = ""


MASKED = ["method=mask_finetune", "method.mask_ratio=0.1"]
ROWS = [
    Row("pretrained", [], what="the model as it is"),
    Row("sft", ["method=sft"], against="pretrained", what="all weights, plain fine-tuning"),
    Row("lora", ["method=sft", "peft=lora", "train.learning_rate=5e-4"], against="sft", what="sft by adapters of rank 16"),
    Row("masked_thought", ["method=masked_thought"], against="sft", what="40 % of the reasoning tokens corrupted in the input"),
    Row("masked_critique", ["method=masked_critique", "method.format_term=tag_likelihood"], against="sft",
        what="critiques of the pre-trained model's solutions, 20 % of their labels dropped"),
    Row("continued", ["method=sft"], "sft", "sft", what="sft once more, from its export"),
    Row("random_mask", [*MASKED, "method.scores=random"], "sft", "sft", what="sft, a tenth of four layers' weights removed by chance"),
    Row("magnitude_mask", [*MASKED, "method.scores=magnitude"], "sft", "sft", what="sft, the smallest tenth of these weights removed"),
    Row("mask_finetune", [*MASKED, "train.learning_rate=1e-3"], "sft", "random_mask", what="sft, the tenth learned: scores alone train"),
    Row("chunk_refine", ["method=chunk_refine", "method.partial_fill=0.5", "method.supervise=every_step", "train.learning_rate=3e-4"],
        "sft", "sft", "refine", what="sft frozen, a head refines masked chunks; decode=refine"),
]  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=128, help="GSM8K train rows for every row of the table")
    parser.add_argument("--problems", type=int, default=80, help="GSM8K test problems, the same for all")
    parser.add_argument("--tokens", type=int, default=256, help="most tokens of an answer")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", nargs="+", default=["model=smollm2_135m"], help="settings that name the model")
    parser.add_argument("--layers", default="8-11", help="whose weights the three masks remove")
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--rows", nargs="+", default=[row.name for row in ROWS], choices=[row.name for row in ROWS])
    parser.add_argument("--more", nargs="*", default=[], help="settings of every mft train")
    parser.add_argument("--out", type=Path, default=Path("outputs/all_methods"))
    parser.add_argument("--page", type=Path, help="write the table here, such as docs/log/all_methods.md")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    rows = [row for row in ROWS if row.name in asked.rows]
    if missing := {row.start for row in rows} - {"", *asked.rows}:
        sys.exit(f"--rows: {', '.join(missing)} is missing, from which others start")
    if "masked_critique" in asked.rows and "MFT_DATA_DIR" not in os.environ:
        sys.exit("set MFT_DATA_DIR to a folder with gsm8k/train.jsonl: masked_critique's teacher quotes its solutions")
    asked.out.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        say(f"row {number + 1} of {len(rows)}: {row.name}, {row.what}")
        data = data_for(row, asked)
        mft(asked, *command(row, asked, data))
    folders = [asked.out / row.name for row in rows]
    mft(asked, "report", *map(str, folders), f"out={asked.out / 'report'}")
    text = table(rows, folders)
    print("\n" + text, flush=True)
    if asked.page:
        asked.page.write_text(page(asked, text, folders), encoding="utf-8")
        say(f"wrote {asked.page}")
    say(f"the page: {asked.out / 'report' / 'report.html'}")


def say(line: str) -> None:
    print(f"[{(time.time() - START) / 60:5.1f} min] {line}", flush=True)


def spent(asked: argparse.Namespace) -> float:
    """Seconds of all starts of this script so far."""
    return sum(map(float, (asked.out / "seconds.txt").read_text().split()))


def mft(asked: argparse.Namespace, *words: str) -> None:
    """Run a mft command. Ends the script with its exit code if it fails or is stopped."""
    say("mft " + shlex.join(words))
    start = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "mft_cli", *words], check=False).returncode
    with open(asked.out / "seconds.txt", "a", encoding="utf-8") as file:
        file.write(f"{time.monotonic() - start:.1f}\n")
    if code:
        say(f"exit code {code}: nothing is lost, the same command goes on")
        sys.exit(code)


def command(row: Row, asked: argparse.Namespace, data: list[str]) -> list[str]:
    """The one command of a row: trains, exports, evaluates."""
    benchmarks = ["gsm8k", "gsm8k_critique"] if row.name == "masked_critique" else ["gsm8k"]
    scored = [f"eval=[{','.join(benchmarks)}]", f"eval.limit={asked.problems}"]
    scored += [f"eval.engine={'hf' if row.decode else asked.engine}"]
    scored += [f"eval.benchmarks.{name}.max_new_tokens={asked.tokens}" for name in benchmarks]
    scored += [f"eval.decode={row.decode}"] if row.decode else []
    run = f"run_dir={asked.out / row.name}"
    if not row.method:
        return ["eval", *asked.model, *scored, run]
    model = ["model=local", f"model.path={asked.out / row.start / 'export'}"] if row.start else asked.model
    train = [
        "data.validation.every_steps=100000", "data.max_length=1024", f"train.global_batch_size={asked.batch}", "train.epochs=1",
        "train.learning_rate=1e-4", "train.precision=bf16", f"seed={asked.seed}",
    ]  # fmt: skip
    named = {w.split("=")[0] for w in row.method}
    train = [word for word in train if word.split("=")[0] not in named]
    train += [f"method.layers={asked.layers}"] if "method=mask_finetune" in row.method else []
    return ["train", *model, *row.method, *data, *train, *asked.more, *scored, run]


def rows_of(asked: argparse.Namespace) -> list[str]:
    return ["data=gsm8k", f"data.sources.gsm8k.rows={asked.examples + HELD_OUT}", f"data.validation.rows={HELD_OUT}"]


# ---- the teacher of masked_critique ---------------------------------------------------------------------------------


def data_for(row: Row, asked: argparse.Namespace) -> list[str]:
    """The settings that name the row's training data; for masked_critique its critiques are made first."""
    if row.name != "masked_critique":
        return rows_of(asked)
    folder = asked.out / "critiques"
    state = folder / "state.json"
    if not state.exists() or json.loads(state.read_text())["state"] != "done":  # another port would be another teacher
        make_critiques(folder, asked)
    return [
        "data=critique", f"data.sources.critique.path={folder / 'train.jsonl'}",
        "data.sources.critique.derived_from=[gsm8k_train]", "data.on_long=drop",
    ]  # fmt: skip


def make_critiques(folder: Path, asked: argparse.Namespace) -> None:
    from tests.support.endpoint import serving

    os.environ["NO_PROXY"] = "127.0.0.1"
    with serving(teacher()) as (_, url):
        mft(
            asked, "critique", *asked.model, "data=gsm8k", f"solutions.questions={asked.examples}", "solutions.samples=1",
            f"solutions.max_new_tokens={asked.tokens}", f"eval.engine={asked.engine}", "teacher.eval.engine=api",
            f"teacher.eval.api.base_url={url}", "teacher.eval.api.model=reference", f"eval.seed={asked.seed}", f"run_dir={folder}",
        )  # fmt: skip


def teacher() -> Any:
    """A scripted endpoint of known quality: its reasoning is GSM8K's own solution, its critique compares the two answers."""
    from tests.support.endpoint import chat

    source = Path(os.environ["MFT_DATA_DIR"]) / "gsm8k/train.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").split("\n") if line]
    solutions = {r["question"].strip(): re.sub(r"<<[^>]*>>", "", r["answer"]).rpartition("####")[::2] for r in rows}

    def answer(_: int, body: dict[str, Any]) -> dict[str, Any]:
        text = body["messages"][-1]["content"]
        question = max((q for q in solutions if q in text), key=len)
        steps, gold = (part.strip() for part in solutions[question])
        numbers = re.findall(r"\d[\d,]*\.?\d*", text[text.index(question) + len(question) :])
        right = bool(numbers) and numbers[-1].replace(",", "").rstrip(".") == gold.replace(",", "")
        verdict = (
            f"The solution ends in {numbers[-1] if numbers else 'no number'}, " + ("which follows from the question."
            if right else "which does not follow from the question: its steps leave out or misread a part of it.")
        )  # fmt: skip
        return chat(
            f"<think><critique>{verdict}</critique><reasoning>{steps}</reasoning></think><ans>\\boxed{{{gold}}}</ans>",
            tokens=100,
        )

    return answer


# ---- the table ------------------------------------------------------------------------------------------------------


def table(rows: list[Row], folders: list[Path]) -> str:
    """Scores with intervals, and the planned comparisons, Holm's correction over these alone."""
    from mft_cli.report.read.runs import read_runs
    from mft_cli.report.render.tables import pair_row, score_row
    from mft_cli.report.summary import summarise
    from mft_cli.stats.significance import holm

    summary = summarise(read_runs(folders))
    runs = {run.label: run for run in summary.runs}
    scores = {(one.benchmark, one.label): score_row(one, runs[one.run]) for one in summary.evaluations}
    lines = [
        "| row | accuracy [95 %] | unparsed, truncated | gold log-prob a token [95 %] | steps, time in them |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for benchmark in summary.benchmarks:
            if (benchmark, row.name) in scores:
                one, run = scores[benchmark, row.name], runs[row.name]
                name = row.name if benchmark == "gsm8k" else f"{row.name}, {benchmark}"
                took = f"{run.step}, {(run.seconds_in_steps or 0) / 60:.1f} min" if run.step else ""
                gold = f"that of {row.start}: plain" if row.decode else f"{one.gold} {one.gold_interval}"
                answers = f"{one.accuracy} {one.interval} | {one.unparsed}, {one.truncated} of {one.n}"
                lines.append(f"| {name} | {answers} | {gold} | {took} |")
    wanted = {(row.against, row.name) for row in rows if row.against}
    pairs = [p for p in summary.pairs if p.benchmark == "gsm8k" and (p.first, p.second) in wanted and not p.refused]
    for pair, p in zip(pairs, holm([1.0 if pair.p is None else pair.p for pair in pairs]), strict=True):
        pair.p_holm = p
    lines += [
        "",
        f"Planned comparisons on gsm8k, paired by problem; Holm's correction over these {len(pairs)}:",
        "",
        "| second − first | points [95 %] | gained / lost | p | Holm p | gold log-prob difference [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for cells in map(pair_row, pairs):
        decoded = any(row.decode and row.name == cells.second for row in rows)
        gold = "" if decoded else f"{cells.gold_difference} {cells.gold_interval}"
        lines.append(
            f"| {cells.second} − {cells.first} | {cells.difference} {cells.interval} | +{cells.gained} / −{cells.lost} | {cells.p} "
            f"| {cells.p_holm} | {gold} |"
        )
    return "\n".join(lines) + "\n"


def page(asked: argparse.Namespace, text: str, folders: list[Path]) -> str:
    machine = json.loads((folders[-1] / "run.json").read_text())["hardware"]
    where = ", ".join([f"{machine['cpu']}, {machine['cores']} cores", *machine["gpus"]])
    what = "\n".join(f"- **{row.name}**: {row.what}" for row in ROWS if row.name in asked.rows)
    trained = (
        f"{' '.join(asked.model)}, {asked.examples} rows of GSM8K train, one epoch, global batch {asked.batch}, bf16"
    )
    return f"""# All methods and baselines on one model and one data set

> A diary of one run, not a result: nothing between the methods is decided here. What was decided is in [results.md](../results.md).

Made by `python scripts/all_methods.py {" ".join(sys.argv[1:])}`; rerun it to make this page again.

- Machine: {where}. All commands together took {spent(asked) / 60:.0f} minutes.
- Training: {trained}.
- Scores: {asked.problems} problems of GSM8K test, the same for all rows, greedy, at most {asked.tokens} tokens.
- **One seed ({asked.seed}): intervals and tests cover the draw of problems, not of seeds.**

The rows:

{what}

{text}"""


if __name__ == "__main__":
    main()
