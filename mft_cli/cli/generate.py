"""`mft generate`: its help, its options and what it calls."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TextIO

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import composed, read_options
from mft_cli.config.schema.base import STRICT, AtLeastOne, NonNegative, Share, key
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft generate`."""

    decode: Literal["plain", "verify", "refine"] | None = key(None, "Short for eval.decode.")
    question: str | None = key(None, "A question that would be taken for a key.")
    file: Path | None = key(None, "A question a line: plain text, or JSON objects with question.")
    out: Path | None = key(None, "JSON lines instead of text on the screen.")
    max_new_tokens: AtLeastOne = key(256, "Longest completion in tokens.")
    temperature: NonNegative = key(0.0, "Sampling temperature; 0 is greedy.")
    top_p: Share = key(1.0, "Nucleus sampling.")
    samples: AtLeastOne = key(1, "Completions a question.")


def main(arguments: list[str]) -> None:
    from mft_cli.config.load import generate_config

    options, rest = read_options(Options, "generate", arguments, EvalRunConfig)
    keys = [a for a in rest if a.startswith("-") or re.match(r"^[+~]*[\w.@/\[\]-]+=", a)]
    words = [a for a in rest if a not in keys]  # a question, even one with an equals sign after a blank

    def task(config: EvalRunConfig) -> None:
        questions = read_questions(options, words, sys.stdin)
        from mft_cli.eval.generate import Asked, generate  # brings torch

        sampling = (options.max_new_tokens, options.temperature, options.top_p, options.samples)
        generate(config, Asked(questions, options.out, *sampling))

    composed("eval", keys, lambda values: generate_config(values, options.decode), task)


def read_questions(options: Options, words: list[str], stdin: TextIO) -> list[str]:
    """The questions of the command line, of file=, or of a pipe. Raises UserError."""
    questions = [*words, *([options.question] if options.question is not None else [])]
    if options.file is not None:
        if not options.file.is_file():
            raise UserError(f"file={options.file}: no such file")
        with open(options.file, encoding="utf-8") as file:
            questions += list(parse_lines(file, str(options.file)))
    elif not questions and not stdin.isatty():
        questions = list(parse_lines(stdin, "standard input"))
    if not questions:
        raise UserError(
            'mft generate needs a question: mft generate model.path=FOLDER "What is 2 + 3?", or file=questions.jsonl'
        )
    return questions


def parse_lines(lines: TextIO, origin: str) -> Iterator[str]:
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
            raise UserError(f'{origin}:{line_number}: expected a JSON object with "question", or plain text') from None


HELP = """mft generate: completions of your own questions by an exported model

  mft generate model.path=outputs/<run>/export "What is 2 + 3?"
  mft generate model.path=outputs/<run>/export decode=refine "What is 2 + 3?"       with method=chunk_refine's head
  mft generate model.path=<folder> file=questions.jsonl out=answers.jsonl temperature=0.7 samples=4
  cat questions.txt | mft generate model=smollm2_135m prompt=raw eval.engine=hf

decode=plain|verify|refine  plain: token by token; verify: the head drafts a chunk, the backbone accepts, the text is plain's;
                     refine: a chunk of mask tokens, refined, some accepted, again
question=TEXT        where the text would be taken for a key; several questions may be given as words of their own
file=FILE            a question a line: plain text, or JSON objects with "question"; also from a pipe
out=FILE             JSON lines instead of text on the screen
max_new_tokens=256 temperature=0 top_p=1 samples=1
Takes model=, prompt= and the keys eval.* and launch.* of mft eval. The prompt is the export's own unless given.
"""
