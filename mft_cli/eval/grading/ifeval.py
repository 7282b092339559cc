"""The 25 verifiable instructions of IFEval (Zhou et al. 2023, arXiv 2311.07911, table 1): does a text follow one?

A check is a function of the text and the instruction's arguments as the data names them. Where the paper leaves a choice
(is "mom" in "moment" a keyword?), the authors' published code decides, so that numbers can be compared; docs/ifeval.md
lists where this is not their code's behaviour.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from mft_cli.errors import UserError
from mft_cli.eval.grading.language import is_language

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
ABBREVIATIONS = frozenset(
    [
        "mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "vs", "etc", "e.g", "i.e", "a.m", "p.m", "u.s", "u.k",
        "u.n", "vol", "inc", "ltd", "co", "corp", "dept", "gen", "col", "sgt", "capt", "rev", "hon", "approx",
    ]
)  # fmt: skip
# A mark that ends a sentence, with what closes after it, before white space or at the end.
SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]*_]*(?=\s|\Z)|[。！？]+[”’」』]*|[।॥؟۔]+")
WORD = re.compile(r"\w+")
# For words in capitals: what a hyphen or an apostrophe holds together is one word.
WHOLE_WORD = re.compile(r"[^\W_]+(?:[-'’.&][^\W_]+)*")
Check = Callable[..., bool]


def follows(instruction: str, arguments: dict[str, Any], text: str) -> bool:
    """Whether a text follows an instruction. Raises UserError for an instruction or arguments that are not known."""
    check = CHECKS.get(instruction)
    given = {name: value for name, value in arguments.items() if value is not None}  # the hub's rows carry all names
    if check is None:
        raise UserError(f"instruction {instruction!r} is not known; known are: {', '.join(sorted(CHECKS))}")
    try:
        return bool(text.strip()) and check(text, **given)
    except TypeError as error:
        raise UserError(f"instruction {instruction}: its arguments {given} do not fit ({error})") from None


# ---- counting -------------------------------------------------------------------------------------------------------


def compared(count: int, relation: str, bound: int) -> bool:
    """The two relations that the data has. Raises UserError for another."""
    if relation not in ("at least", "less than"):
        raise UserError(f"relation {relation!r} is not known; expected 'at least' or 'less than'")
    return count >= bound if relation == "at least" else count < bound


def sentences(text: str) -> int:
    """Sentences by their end marks; not after an abbreviation, an initial, or the number of a list's item."""
    ends = [m for m in SENTENCE_END.finditer(text) if not _goes_on(text, m)]
    last = ends[-1].end() if ends else 0
    return len(ends) + bool(WORD.search(text[last:]))


def _goes_on(text: str, end: re.Match[str]) -> bool:
    # a sentence may begin so, but not in the midst of one:
    small = re.match(r"\s+[a-z]", text[end.end() :]) is not None
    if small and (end.group().startswith(("..", "…")) or end.group()[-1] in "\"'”’)"):  # "Go!" she said
        return True
    if not end.group().startswith(".") or end.group().startswith(".."):
        return False
    before = re.search(r"\S*\Z", text[: end.start()])
    word = before.group().strip("\"'“‘([*_").lower() if before else ""
    line = text[text.rfind("\n", 0, end.start()) + 1 : end.start()]
    initial = re.fullmatch(r"[^\W\d_]", word) is not None and word != "i"
    listed = re.fullmatch(r"\s*(?:\d{1,3}|[a-z])", line) is not None
    more = end.end() < len(text)
    return more and (word in ABBREVIATIONS or initial or listed)


def _paragraph_count(parts: Sequence[str]) -> int | None:
    """Parts with content; None if one in the middle is empty."""
    if any(not part.strip() for part in parts[1:-1]):
        return None
    return sum(bool(part.strip()) for part in parts)


# ---- keywords, language, length -------------------------------------------------------------------------------------


def has_keywords(text: str, keywords: Sequence[str]) -> bool:
    return all(word.lower() in text.lower() for word in keywords)


def keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return compared(text.lower().count(keyword.strip().lower()), relation, frequency)


def lacks_words(text: str, forbidden_words: Sequence[str]) -> bool:
    occurrences = (re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in forbidden_words)
    return not any(occurrences)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compared(text.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(text: str, language: str) -> bool:
    return is_language(text, language)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    return _paragraph_count(re.split(r"\*\*\*", text)) == num_paragraphs


def number_words(text: str, num_words: int, relation: str) -> bool:
    return compared(len(WORD.findall(text)), relation, num_words)


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return compared(sentences(text), relation, num_sentences)


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    if len(paragraphs) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'\"").lower()
    return re.split(r"[.,?!'\"]", word)[0] == first_word.lower()


# ---- content and format ---------------------------------------------------------------------------------------------


def has_postscript(text: str, postscript_marker: str) -> bool:
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return (
        re.search(patterns.get(postscript_marker.strip(), re.escape(postscript_marker.strip())), text, re.I) is not None
    )


def number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def number_bullets(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*\n]|-)", text, re.MULTILINE)) == num_bullets


def has_title(text: str) -> bool:
    return any(title.strip("<> \t") for title in re.findall(r"<<[^\n]+>>", text))


def constrained_response(text: str) -> bool:
    return any(answer in text for answer in ANSWERS)


def number_highlights(text: str, num_highlights: int) -> bool:
    single = [h for h in re.findall(r"\*[^\n*]*\*", text) if h.strip("*").strip()]
    double = [h for h in re.findall(r"\*\*[^\n*]*\*\*", text) if h.strip("*").strip()]
    return len(single) + len(double) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def is_json(text: str) -> bool:
    inner = re.sub(r"\A```(?:json|Json|JSON)?|```\Z", "", text.strip())
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


# ---- case, start and end, combinations, punctuation -----------------------------------------------------------------


def english_capital(text: str) -> bool:
    return text.isupper() and is_language(text, "en")


def english_lowercase(text: str) -> bool:
    return text.islower() and is_language(text, "en")


def capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return compared(sum(word.isupper() for word in WHOLE_WORD.findall(text)), capital_relation, capital_frequency)


def repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def two_responses(text: str) -> bool:
    parts = text.split("******")
    answers = [part.strip() for part in parts if part.strip()]
    return _paragraph_count(parts) == 2 and answers[0] != answers[1]


def ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quoted(text: str) -> bool:
    inner = text.strip()
    return len(inner) > 1 and inner[0] == inner[-1] == '"'


def no_comma(text: str) -> bool:
    return "," not in text


CHECKS: dict[str, Check] = {
    "keywords:existence": has_keywords,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": lacks_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:postscript": has_postscript,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_format:number_bullet_lists": number_bullets,
    "detectable_format:title": has_title,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlights,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": is_json,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "change_case:capital_word_frequency": capital_words,
    "combination:repeat_prompt": repeats_prompt,
    "combination:two_responses": two_responses,
    "startend:end_checker": ends_with,
    "startend:quotation": quoted,
    "punctuation:no_comma": no_comma,
}
