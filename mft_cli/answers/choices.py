r"""Letters of multiple-choice answers: "C", "(C)", \boxed{\text{C}}, "The answer is C.", "C) because", an option's text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from mft_cli.answers.extraction import CHOICE, MARKER, Answer, Candidate, Fallback, Reader, first_readable, within
from mft_cli.answers.latex import TEXT, plain
from mft_cli.answers.letters import ALTERNATIVE, DENIED, LETTER, affirmed, is_negated
from mft_cli.answers.mathematics import plain_text, sentence
from mft_cli.answers.reading import LEAD

LETTERS = "ABCDEFGHIJ"
MAX_TAIL = 4000  # characters from the end in which a letter is called right
SMALL = re.compile(  # a small letter counts in brackets, or where nothing but a remark follows
    r"[\s*_\"'`:]{0,6}(?:(?i:option|choice)\s*)?(?:[(\[]([a-j])[)\]]|([a-j])(?=[).:]|[\s*_\"'`]*(?:$|\n)))"
)
LEADING = re.compile(rf"{LETTER}(?P<after>\s*(?:[.,:;)—–-]|$|\n|\s(?!\w)))")
ANNOUNCED = re.compile(LETTER)
BRACKETED = re.compile(r"(?<![A-Za-z\d])[(\[](?P<letter>[A-Z])[)\]]")
SMALL_BRACKETED = re.compile(r"(?<![A-Za-z\d])\((?P<letter>[a-j])\)")
OPTION = re.compile(r"^[ \t]{0,8}(?:\(([A-J])\)|([A-J])[.):])[ \t]{1,4}(\S[^\n]{0,1000})$", re.MULTILINE)
LISTED = re.compile(r"^[ \t*>-]{0,8}(?:(?i:option|choice)\s)?\(?([A-J])[).:]", re.MULTILINE)
NAMED = re.compile(rf"(?i:\b(?:option|choice))\s*{LETTER}")
NOT_BUT = re.compile(
    rf"[\s*_]*(?i:not)\b{LETTER}[\s,;]{{0,3}}(?i:but\s+rather|but|rather|sondern|mais|sino)\b(?=[^\n]{{0,12}}[A-J]\b)"
)


def options(prompt: str) -> dict[str, str]:
    """The options that a prompt lists last: lines "(A) text", "A. text" or "A) text" from A on; {} for fewer than two."""
    listed: dict[str, str] = {}
    for match in OPTION.finditer(prompt[-20_000:]):
        letter = match[1] or match[2]
        if letter == "A":
            listed = {}
        if letter == chr(ord("A") + len(listed)):
            listed[letter] = match[3].strip()
    return listed if len(listed) > 1 else {}


def choice_reader(choices: Mapping[str, str]) -> Reader:
    """A reader of letters; `choices` ({letter: text}) makes an option's text an answer too."""
    return partial(_read, choices)


def unannounced_choice(choices: Mapping[str, str]) -> Fallback:
    """Reads a completion that announces nothing: it begins with its letter, names "option C", ends in "(C)" ..."""
    return partial(_unannounced, choices)


def _allowed(choices: Mapping[str, str]) -> str:
    return "".join(choices) or LETTERS


def _read(choices: Mapping[str, str], text: str, place: Candidate) -> Answer | None:
    """The letter at the beginning of an announced answer, or the option whose text it is."""
    content = place.content(text)
    if place.enclosed and place.source == MARKER:
        inner = first_readable(content, (), partial(_read, choices))
        if inner is not None:
            return within(inner, place)
    lead = LEAD.match(text, place.start, place.end)
    start = lead.end() if lead else place.start
    part = content[start - place.start :]
    first = part.lstrip(" (*_").split("\n", 1)[0][:500]
    whole = part.split("\n", 1)[0][:500]
    undressed = TEXT.sub(r" \1 ", plain(whole)).replace("{", " ").replace("}", " ").strip()
    if (several := ANNOUNCED.match(whole)) and ALTERNATIVE.match(whole, several.end()):
        return None
    negated = NOT_BUT.match(undressed)
    undressed = undressed[negated.end() :] if negated else undressed
    match = ANNOUNCED.match(undressed)
    letter = match["letter"] if match and not _is_article(undressed, match) else _small(undressed)
    if letter is None or letter not in _allowed(choices):
        letter = _by_text(whole, choices) or _by_text(sentence(first), choices)
    return Answer(letter, place.source, (start, start + len(whole.rstrip()))) if letter else None


def _small(text: str) -> str | None:
    match = SMALL.match(text)
    return (match[1] or match[2]).upper() if match else None


def _is_article(text: str, match: re.Match[str]) -> bool:
    """Whether the A (or I) is a word: "The answer is A dog"."""
    bare = text[: match.end()].strip() in ("A", "I")
    return bare and re.match(r"\s+[a-z]", text[match.end() :]) is not None


def _is_chosen(text: str, match: re.Match[str]) -> bool:
    """Whether the letter that begins a text is neither a word nor denied nor one of several."""
    letter_end = match.end("letter")
    return not (_is_article(text, match) or DENIED.match(text, letter_end) or ALTERNATIVE.match(text, letter_end))


def _by_text(text: str, choices: Mapping[str, str]) -> str | None:
    """The one option whose text this is."""
    text = plain_text(text)
    letters = [letter for letter, option in choices.items() if text and plain_text(option) == text]
    return letters[0] if len(letters) == 1 else None


def _unannounced(choices: Mapping[str, str], text: str) -> Answer | None:
    """A completion that begins with its letter, names "option C", ends in "(C)", or is an option's text.

    Where the letters are a list of options, or the last paragraph names several, none of them is the answer.
    """
    stripped, allowed = text.strip(), _allowed(choices)
    offset = text.find(stripped)
    match = LEADING.match(stripped)
    listing = len({m[1] for m in LISTED.finditer(stripped)}) > 1
    if match and match["letter"] in allowed and not listing and _is_chosen(stripped, match):
        return Answer(match["letter"], CHOICE, (offset, offset + match.end("letter")))
    if (letter := _small(stripped)) and len(stripped) < 8 and letter in allowed:
        return Answer(letter, CHOICE, (offset, offset + len(stripped)))
    if (letter := _by_text(stripped[:1000], choices)) is not None:
        return Answer(letter, CHOICE, (offset, offset + len(stripped)))
    start = stripped.rfind("\n\n") + 2 if "\n\n" in stripped else 0
    return _in_last_paragraph(choices, text, offset + start)


def _in_last_paragraph(choices: Mapping[str, str], text: str, start: int) -> Answer | None:
    part, allowed = text[start:].rstrip(), _allowed(choices)
    for offset in (max(start, len(text) - MAX_TAIL), max(0, len(text) - MAX_TAIL)):
        if (right := affirmed(text[offset:], allowed)) is not None:
            return Answer(right[0], CHOICE, (offset + right[1][0], offset + right[1][1]))
    for pattern in (NAMED, BRACKETED, SMALL_BRACKETED):
        matches = [m for m in pattern.finditer(part) if m["letter"].upper() in allowed and not is_negated(part, m)]
        matches = [m for m in matches if not DENIED.match(part, m.end())]
        if matches and len({m["letter"] for m in matches}) == 1:
            last_match = matches[-1]
            return Answer(last_match["letter"].upper(), CHOICE, (start + last_match.start(), start + last_match.end()))
    last = part.rsplit("\n", 1)[-1]
    span = (start + len(part) - len(last), start + len(part))
    if (match := re.fullmatch(LETTER + r"[\s.]*", last)) and match["letter"] in allowed:
        return Answer(match["letter"], CHOICE, span)
    return Answer(letter, CHOICE, span) if (letter := _by_text(last[:1000], choices)) else None
