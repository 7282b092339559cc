"""How the verdict on one completion came about, step by step: `mft score --explain ID`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mft_cli.answers.announcements import announced
from mft_cli.answers.extraction import candidates, cut_new_turn, plain_blanks, thoughts_end
from mft_cli.answers.find import find_answer, reader_of, without_cut_word
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.errors import UserError
from mft_cli.eval.completions import arrange
from mft_cli.eval.grading.answers import reading
from mft_cli.eval.grading.graders import grade
from mft_cli.eval.journal import Record, read_lines

ID_FIELDS = ("id", "task_id", "key", "unique_id", "problem_id", "ID")
SHOWN = 120  # characters of a candidate
READ_TYPES = ("number", "math", "choice", "text")


def explain_file(path: Path, name: str, benchmark: BenchmarkConfig, config: EvalConfig, id: str) -> str:
    """The steps for one problem of a file of completions, by its id in the file or in scores.jsonl. Raises UserError."""
    lines, _ = read_lines(path)
    lines_of_id = [line for line in lines if id in {str(line.get(field)) for field in ID_FIELDS}]
    ordered, _ = arrange(path, name, benchmark, lines_of_id or lines, None, config, partial=True)
    chosen = ordered if lines_of_id else [record for record in ordered if record["id"] == id]
    if not chosen:
        raise UserError(f"--explain {id}: {path} has no such problem; ids stand in the file and in scores.jsonl")
    return "\n\n".join("\n".join(steps(record, benchmark, config)) for record in chosen)


def steps(record: Record, benchmark: BenchmarkConfig, config: EvalConfig) -> Iterator[str]:
    """What was done with one completion, a line each; `record` carries its gold."""
    text = record["completion"]
    yield f"problem {record['id']}, sample {record.get('sample', 0)}: {len(text)} characters, answer type {benchmark.answer_type}"
    if record.get("finish_reason") == "length":
        yield "the token limit cut it: the last word is left out, and only an announced answer counts"
    if benchmark.answer_type in READ_TYPES:
        yield from _reading_steps(record, benchmark)
    [score] = grade([record], benchmark, config)
    yield f"gold: {_shown(str(score['gold']))}"
    verdict = "right" if score["correct"] else "wrong"
    yield f"verdict: {verdict}, status {score['status']}" + (
        f", {score['verdict']}: {score['detail']}" if score.get("detail") else ""
    )


def _reading_steps(record: Record, benchmark: BenchmarkConfig) -> Iterator[str]:
    keywords = reading(record, benchmark)
    text = record["completion"] if keywords["complete"] else without_cut_word(record["completion"])
    thoughts = thoughts_end(text, keywords["prompt"])
    if thoughts is None:
        yield "answer: none; the thought is still open"
        return
    if thoughts[1]:
        yield f"thoughts end at character {thoughts[1]}; what follows is searched"
    read = reader_of(benchmark.answer_type, word_problem=benchmark.last_number, choices=keywords.get("choices") or {})
    searched = plain_blanks(text[thoughts[1] :])
    visible = cut_new_turn(searched, keywords["markers"], read, keywords["prompt"])
    if len(visible) < len(searched):
        yield f"cut where a new question begins: {_shown(searched[len(visible) :])}"
    for start, end in announced(visible, 0, len(visible), asserted=False):
        yield f"announcement: {_shown(visible[start:end])}: states nothing (supposed, asked, refused or withdrawn)"
    for place in candidates(visible, keywords["markers"]):
        answer = read(visible, place)
        said = f"read as {answer.text!r}" if answer else "not readable"
        yield f"{place.source}: {_shown(visible[place.start : place.end])}: {said}"
        if answer:
            break
    answer = find_answer(record["completion"], benchmark.answer_type, **keywords)
    if answer is None:
        yield "answer: none"
    else:
        start, end = answer.span
        yield f"answer: {answer.text!r} from {answer.source}, characters {start} to {end}: {_shown(text[start:end])}"


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else line[: SHOWN - 3] + "...")
