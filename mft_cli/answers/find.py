"""The final answer of a completion by its answer type: number, math, choice or text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mft_cli.answers import extraction
from mft_cli.answers.choices import choice_reader, unannounced_choice
from mft_cli.answers.conclusions import concluded_number
from mft_cli.answers.extraction import Answer, Fallback, Reader
from mft_cli.answers.mathematics import lone_line, read_math
from mft_cli.answers.reading import number_reader

GSM8K = ("####", "<answer>", "<ans>")
LAST_WORD = re.compile(r"\S{1,200}\Z")
CLOSED = re.compile(r"(?:\\boxed\s?\{[^\n]*\}|</\w{1,20}>)[$.*)]{0,3}\Z")  # whole, even where the token limit came


def find_answer(
    text: str,
    answer_type: str,
    *,
    markers: Sequence[str] = (),
    word_problem: bool = False,
    choices: Mapping[str, str] | None = None,
    complete: bool = True,
    prompt: str | None = None,
) -> Answer | None:
    """The final answer in a completion, how it was announced and where it stands; None where there is none.

    `word_problem`: the last number counts where nothing is announced. `choices`: {letter: text of the option}.
    `complete`: the completion came to its end; of one that the token limit cut only an announced answer counts, and its
    last word may be half a number. `prompt`: what was asked, if it is known. Linear in the text's length; never raises.
    """
    return extraction.find(
        text if complete else without_cut_word(text),
        reader_of(answer_type, word_problem=word_problem, choices=choices or {}),
        markers=markers,
        fallback=_fallback(answer_type, word_problem=word_problem, choices=choices or {}, complete=complete),
        prompt=prompt,
    )


def reader_of(answer_type: str, *, word_problem: bool, choices: Mapping[str, str]) -> Reader:
    """What reads a candidate of an answer type."""
    if answer_type == "number":
        return number_reader(loose=word_problem)
    return choice_reader(choices) if answer_type == "choice" else read_math


def _fallback(answer_type: str, *, word_problem: bool, choices: Mapping[str, str], complete: bool) -> Fallback | None:
    """What reads a completion that announces nothing."""
    if answer_type == "choice":
        return unannounced_choice(choices)
    if not complete:
        return None
    return lone_line if answer_type == "text" else concluded_number if word_problem else None


def without_cut_word(text: str) -> str:
    """The text without its last word, which the token limit may have cut; a closed box or tag is whole."""
    return text if CLOSED.search(text[-200:]) else LAST_WORD.sub("", text)


def extract(text: str, *, markers: Sequence[str] = GSM8K, last_number: bool = True) -> str | None:
    """The final answer of a word problem, a number without its unit where it is one; or None."""
    return _text(find_answer(text, "number", markers=markers, word_problem=last_number))


def extract_math(text: str, *, markers: Sequence[str] = GSM8K, last_number: bool = True) -> str | None:
    """The final answer as LaTeX or words, or None."""
    return _text(find_answer(text, "math", markers=markers, word_problem=last_number))


def extract_text(text: str, *, markers: Sequence[str] = GSM8K, one_line: bool = True) -> str | None:
    """The final answer in words: after a marker, in a box, after "the answer is", or (`one_line`) all of one line."""
    return _text(find_answer(text, "text", markers=markers, complete=one_line))


def extract_choice(text: str, *, markers: Sequence[str] = (), choices: Mapping[str, str] | None = None) -> str | None:
    """The letter of the chosen option, or None. `choices`: {letter: text}, so that an option's text is an answer too."""
    return _text(find_answer(text, "choice", markers=markers, choices=choices))


def _text(answer: Answer | None) -> str | None:
    return None if answer is None else answer.text
