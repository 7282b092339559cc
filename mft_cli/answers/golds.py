"""Whether a gold answer is one that its answer type can read. What is not is wrong for every model, so it is reported at load."""

from __future__ import annotations

import re
from collections.abc import Collection

from mft_cli.answers.numbers import parse_number

NO_ANSWER = {"none", "null", "nan", "true", "false", "n/a"}  # what a missing or boolean field of a file becomes
MOST_CHARS, MOST_WORDS = 300, 15  # of a mathematical answer; the longest of MATH has 81, of OlympiadBench 204
NAME = re.compile(r"[$\s]*\\?[A-Za-z]\w*\s*")  # of "x = 5"; a calculation on the left side is a solution
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def is_readable(gold: str, answer_type: str, choices: Collection[str] = ()) -> bool:
    """Whether `gold`, the plain answer, is a number, a mathematical answer or a letter, as `answer_type` says.

    choice: a letter of `choices`, any capital letter where there are none. Texts and what programs judge: always true.
    """
    if answer_type == "number":
        name, equals, _ = gold.rpartition("=")
        return parse_number(gold) is not None and (not equals or NAME.fullmatch(name) is not None)
    if answer_type == "choice":
        letter = gold.strip(" ().")
        return letter in choices if choices else re.fullmatch("[A-Z]", letter) is not None
    if answer_type != "math":
        return True
    if gold.strip().lower() in NO_ANSWER or "####" in gold or len(gold) > MOST_CHARS:
        return False
    return len(WORD.findall(gold)) <= MOST_WORDS
