r"""Letters of multiple-choice answers: "C", "(C)", \boxed{\text{C}}, "The answer is C.", "C) because", an option's text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mft_cli.answers import extraction
from mft_cli.answers.latex import TEXT, plain
from mft_cli.answers.mathematics import plain_text, sentence

DRESS = r"[\s(\[{*_\"'`:]{0,6}"
LETTER = rf"{DRESS}(?:(?i:option|choice|answer)\s*{DRESS})?(?P<letter>[A-Z])(?![A-Za-z'’])[)\]}}*_\"'`]{{0,4}}"
LEADING = re.compile(rf"{LETTER}(?P<after>\s*(?:[.,:;)—–-]|$|\n|\s(?!\w)))")
BEHIND_PHRASE = re.compile(rf"(?:(?i:that|clearly|therefore|thus)\s+)?{LETTER}")
BRACKETED = re.compile(r"(?<![A-Za-z\d])\(([A-Z])\)")
OPTION = re.compile(r"^[ \t]{0,8}(?:\(([A-J])\)|([A-J])[.):])[ \t]{1,4}(\S[^\n]{0,1000})$", re.MULTILINE)
CORRECT = re.compile(
    rf"(?i:\b(?:correct|right|best|final)\s+(?:answer|option|choice)\s*(?:is|:)?|\b(?:option|choice))\s*{LETTER}"
)


def options(prompt: str) -> dict[str, str]:
    """The options that a prompt lists last: lines "(A) text", "A. text" or "A) text" from A on; {} for fewer than two."""
    found: dict[str, str] = {}
    for match in OPTION.finditer(prompt[-20_000:]):
        letter = match[1] or match[2]
        if letter == "A":
            found = {}
        if letter == chr(ord("A") + len(found)):
            found[letter] = match[3].strip()
    return found if len(found) > 1 else {}


def extract_choice(
    text: str, *, markers: Sequence[str] = (), choices: Mapping[str, str] | None = None, letters: str = "ABCDEFGHIJ"
) -> str | None:
    """The letter of the chosen option, or None. `choices`: {letter: text}, so that an option's text is an answer too."""
    allowed = "".join(choices) if choices else letters
    return extraction.behind_thoughts(text, lambda part: _extract(part, markers, choices or {}, allowed))


def _extract(text: str, markers: Sequence[str], choices: Mapping[str, str], allowed: str) -> str | None:
    text = extraction.cut_new_turn(text, markers, numbers=False)
    phrases = [text[m.end() : m.end() + 500] for m in list(extraction.PHRASE.finditer(text))[-3:]][::-1]
    for candidate in (*extraction.marked(text, markers), *extraction.boxed(text), *phrases):
        if (found := _letter(candidate, choices, allowed)) is not None:
            return found
    return _unannounced(text, choices, allowed)


def _letter(candidate: str, choices: Mapping[str, str], allowed: str) -> str | None:
    r"""The letter at the beginning of an announced answer, or the option whose text it is."""
    first = candidate.strip().split("\n", 1)[0]
    undressed = TEXT.sub(r" \1 ", plain(first[:500])).replace("{", " ").replace("}", " ").strip()
    match = BEHIND_PHRASE.match(undressed)
    if match and match["letter"] in allowed and not _is_article(undressed, match):
        return match["letter"]
    return _by_text(first, choices) or _by_text(sentence(first), choices)


def _is_article(text: str, match: re.Match[str]) -> bool:
    """Whether the A (or I) is a word: "The answer is A dog"."""
    bare = text[: match.end()].strip() in ("A", "I")
    return bare and re.match(r"\s+[a-z]", text[match.end() :]) is not None


def _by_text(text: str, choices: Mapping[str, str]) -> str | None:
    """The one option whose text this is."""
    wanted = plain_text(text)
    found = [letter for letter, option in choices.items() if wanted and plain_text(option) == wanted]
    return found[0] if len(found) == 1 else None


def _unannounced(text: str, choices: Mapping[str, str], allowed: str) -> str | None:
    """A completion that begins with its letter, names "option C", ends in "(C)", or is an option's text."""
    stripped = text.strip()
    match = LEADING.match(stripped)
    if match and match["letter"] in allowed and not _is_article(stripped, match):
        return match["letter"]
    if (whole := _by_text(stripped[:1000], choices)) is not None:
        return whole
    for pattern, group in ((CORRECT, "letter"), (BRACKETED, 1)):
        found = [m[group] for m in pattern.finditer(stripped) if m[group] in allowed]
        if found:
            return str(found[-1])
    last = stripped.rsplit("\n", 1)[-1]
    if (match := re.fullmatch(LETTER + r"[\s.]*", last)) and match["letter"] in allowed:
        return match["letter"]
    return _by_text(last[:1000], choices)
