"""`mft generate`: its help, its options and what it calls."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from mft_cli.cli.options import number, own_keys
from mft_cli.errors import UserError


def main(arguments: list[str]) -> None:
    import re
    from pathlib import Path

    from mft_cli.config.compose import run_with_hydra
    from mft_cli.config.load import generate_config

    names = ("decode", "question", "file", "out", "max_new_tokens", "temperature", "top_p", "samples")
    own, rest = own_keys(arguments, *names)
    keys = [a for a in rest if a.startswith("-") or re.match(r"^[+~]*[\w.@/\[\]-]+=", a)]
    words = [a for a in rest if a not in keys]  # a question, even one with an equals sign behind a blank

    def task(values: dict) -> None:
        config = generate_config(values, own.get("decode"))
        from mft_cli.eval.generate import Asked, generate  # brings torch

        asked = Asked(
            questions=read_questions(own, words, sys.stdin),
            out=Path(own["out"]) if "out" in own else None,
            max_new_tokens=max(1, int(number(own, "max_new_tokens", int, 256))),
            temperature=number(own, "temperature", float, 0.0),
            top_p=number(own, "top_p", float, 1.0),
            samples=max(1, int(number(own, "samples", int, 1))),
        )
        generate(config, asked)

    run_with_hydra("eval", keys, task)


def read_questions(own: dict[str, str], words: list[str], stdin: TextIO) -> list[str]:
    """The questions of the command line, of file=, or of a pipe. Raises UserError."""
    questions = [*words, *([own["question"]] if "question" in own else [])]
    if "file" in own:
        path = Path(own["file"])
        if not path.is_file():
            raise UserError(f"file={path}: no such file")
        with open(path, encoding="utf-8") as file:
            questions += list(parse_lines(file, str(path)))
    elif not questions and not stdin.isatty():
        questions = list(parse_lines(stdin, "standard input"))
    if not questions:
        raise UserError(
            'mft generate needs a question: mft generate model.path=FOLDER "What is 2 + 3?", or file=questions.jsonl'
        )
    return questions


def parse_lines(lines: TextIO, where: str) -> Iterator[str]:
    """A question a line: plain text, or JSON objects with "question"."""
    for line_number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if not text.startswith("{"):
            yield text
            continue
        try:
            yield str(json.loads(text)["question"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f'{where}:{line_number}: expected a JSON object with "question", or plain text') from None


HELP = """mft generate: completions of your own questions by an exported model

  mft generate model.path=outputs/<run>/export "What is 2 + 3?"
  mft generate model.path=outputs/<run>/export decode=refine "What is 2 + 3?"       with method=chunk_refine's head
  mft generate model.path=<folder> file=questions.jsonl out=answers.jsonl temperature=0.7 samples=4
  cat questions.txt | mft generate model=smollm2_135m prompt=raw eval.engine=hf

decode=plain|refine  plain: token by token; refine: a chunk of mask tokens, refined, the most confident accepted, again
question=TEXT        where the text would be taken for a key; several questions may be given as words of their own
file=FILE            a question a line: plain text, or JSON objects with "question"; also from a pipe
out=FILE             JSON lines instead of text on the screen
max_new_tokens=256 temperature=0 top_p=1 samples=1
Takes model=, prompt= and the keys eval.* and launch.* of mft eval. The prompt is the export's own unless given.
"""
