"""Final answers: finding one in a completion, and deciding whether it equals the gold answer.

Nothing here is heavy: only `equal_slowly` needs computer algebra, and imports it inside the function.
"""

from mft_cli.answers.equality import canonical, equal, equal_fast, equal_slowly
from mft_cli.answers.extraction import Answer, without_thoughts
from mft_cli.answers.find import extract, extract_choice, extract_math, extract_text, find_answer
from mft_cli.answers.mathematics import equal_text, plain_text

__all__ = [
    "Answer",
    "canonical",
    "equal",
    "equal_fast",
    "equal_slowly",
    "equal_text",
    "extract",
    "extract_choice",
    "extract_math",
    "extract_text",
    "find_answer",
    "plain_text",
    "without_thoughts",
]
