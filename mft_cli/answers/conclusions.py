"""The answer of a word problem that announces none: the value of the sentence that concludes it, else the last number."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mft_cli.answers.extraction import CONCLUSION, LAST_NUMBER, Answer
from mft_cli.answers.hedges import IRRELEVANT, RELATIVE, gives_up, is_bound_or_question, sentence_before
from mft_cli.answers.numbers import number_text, parse_number
from mft_cli.answers.reading import ANY_NUMBER, BOLD, SCALE, number_at

MOST_TRIES = 500  # numbers from the end that are looked at
MAX_TAIL = 3000  # characters from the end in which a conclusion is looked for
DRESS = r"[\s*_#>•(-]{0,8}"
SENTENCE = re.compile(
    r"(?<=[.!?。！？])(?<!\b[MDS][rst]\.)(?<!\bMrs\.)(?<!\bi\.e\.)(?<!\be\.g\.)(?:\*\*)?(?:\s+|(?<=[。！？]))|\n+"
)
CONCLUDES = re.compile(
    rf"{DRESS}(?:(?:and|so|then)\s)?(?:so(?!\sfar)|therefore|thus|hence|consequently|accordingly|in\s(?:total|all|conclusion|the\send|summary)"
    r"|altogether|overall|finally|as\sa\sresult|(?:the\s)?(?:total|result|final\s(?:result|price|cost|amount|number|count|value|balance|bill|score|sum))|donc|ainsi|au\stotal|also|daher|somit|folglich|insgesamt|por\s(?:lo\s)?tanto"
    r"|en\stotal|entonces|portanto|assim|quindi|in\stotale|dus|итак|поэтому|следовательно|итого|всего)\b"
    rf"|{DRESS}(?:因此|所以|故|总共|總共|一共|共|综上|よって|したがって|ゆえに|合計|따라서|그러므로|총)",
    re.IGNORECASE,
)
IN_TOTAL = re.compile(r"(?:\s[^\W\d]{1,20}){0,2}\s(?:in\stotal|altogether|all\stogether|in\sall)\b", re.IGNORECASE)
TOTAL_OF = re.compile(r"(?<!\bof\sa\s)(?<!\bof\sthe\s)\btotal\sof\s$", re.IGNORECASE)
PART_OF = re.compile(r"(?<!\btotal\s)(?<!\bsum\s)\bof\s(?:the\s|all\s)?$", re.IGNORECASE)
GOES_ON = re.compile(
    rf"{DRESS}(?:then|next|now|after|afterwards|later|but|step|second|(?:this|that|which)\s(?:leaves|gives|makes|means|brings|adds))\b",
    re.IGNORECASE,
)
CHECK = re.compile(
    rf"{DRESS}(?:(?:let['’]?s\s|we\scan\s|to\s)?(?:double[- ]?|sanity\s)?(?:check|verif)|i\s(?:have\s)?(?:verif|check)|(?:i\s)?hope\b"
    r"|let\sme\sknow|feel\sfree|note\b|notice\b|remember\b|recall\b)",
    re.IGNORECASE,
)
CHECKING = re.compile(rf"^{DRESS}(?:(?:double|sanity)[- ])?(?:check|verification)[\s*:：]{{0,6}}$", re.I | re.M)
ADJUNCT = re.compile(
    r"\b(?P<word>in|after|for|over|during|per|every|each|within|from(?:\s[$€£]?[\d.,]{1,12}\sto)?|than|at|on|before|until|since|by|among|between(?:\s[$€£]?[\d.,]{1,12}\sand)?|across|out\sof|the|those"
    r"|these|all|both|next|first|last|another|nach|für|pour|sur|après|dans|durante|para|después\sde|en)\s"
    r"(?:(?:the|all|these|those|every|each|next|first|last|about|only|only|los|las|les|den|die)\s){0,2}$",
    re.IGNORECASE,
)
BECAUSE = re.compile(  # where a sentence has said its value, and goes on with a reason or a remark
    r"\s\([a-zA-Z]|,?\s(?:since|because|i\.e\.|given\sthat|as\s(?:each|every|there|he|she|it|they))(?<=[\w.])|;\s(?=[^=]*\Z)",
    re.IGNORECASE,
)
COMPARED = re.compile(r"\s(?:fewer|less|more|older|younger)\s(?:\w{1,20}\s)?than\b", re.IGNORECASE)
MONEY = re.compile(r"\s?(?:dollars?|cents?|euros?|pounds?|usd|eur|rupees)\b|\s?[€$£]", re.IGNORECASE)
SUBJECT = re.compile(rf"(?:{CONCLUDES.pattern})[\s,:：，]*(?:there\s(?:are|were)\s)?$", re.IGNORECASE)
TORN = re.compile(r"\s*(?:\\(?:pi|sqrt|frac|times|cdot|theta|alpha)|[π√²³^]|\}\s*(?:\{|\\|\^|[a-z])|,\s?-?\d+\s*[)\]])")
INSIDE = re.compile(r"(?:\\[dt]?frac\s*\{[^{}]*\}\s*\{|\\[dt]?frac\s*\{|\\sqrt\s*\{|[\^_]\{?|[(\[]\s*-?\d+,\s?-?)\s*$")


def concluded_number(text: str) -> Answer | None:
    """The number that the last conclusion ("So she has **18** eggs for 3 days.") gives, else the last number; or None."""
    last = last_number(text)
    return None if last is None else _conclusion(text) or last


def last_number(text: str) -> Answer | None:
    """The last number of a text that is asked or bounded nowhere, with its place; None where it is a part of a formula."""
    for match in reversed(list(ANY_NUMBER.finditer(text))[-MOST_TRIES:]):
        before = sentence_before(text, match.start())
        hedged = is_bound_or_question(text, *match.span())
        announced = "answer" in before.lower()
        if gives_up(before) or (announced and (hedged or RELATIVE.search(before))):
            return None
        if not hedged:
            return _number(text, match, LAST_NUMBER)
    return None


def _number(text: str, match: re.Match[str], source: str) -> Answer | None:
    """The number of a match, with "million" after it; None where it is torn out of a formula."""
    start, end = match.span()
    if TORN.match(text, end) or INSIDE.search(text, max(0, start - 60), start):
        return None
    scale = SCALE.match(text, end)
    end = scale.end() if scale else end
    number = parse_number(text[start:end])
    return Answer(number_text(number), source, (start, end)) if number else None


def _conclusion(text: str) -> Answer | None:
    """The value of the last sentence that concludes. What goes on calculating after a sentence shows that it does not.

    A remark after it ("This uses 9 eggs.") is passed over only where the conclusion's value is bold.
    """
    remarked = False
    for start, end in _sentences(text):
        sentence = text[start:end]
        if _is_aside(sentence):
            continue
        concludes = CONCLUDES.match(sentence) is not None or _total(text, start, end) is not None
        bold = _bold(text, start, end, concludes) if concludes or not remarked else None
        if bold is not None or (concludes and not remarked):
            return bold or _plain(text, start, end)
        if ANY_NUMBER.search(sentence):
            if "=" in sentence or GOES_ON.match(sentence):
                return None if remarked else _after_equals(text, start, end)
            remarked = True
    return None


def _is_aside(sentence: str) -> bool:
    """Whether a sentence checks, asks, stands in brackets, or says what does not matter."""
    ending = sentence.rstrip(" *")
    bracketed = sentence.lstrip().startswith("(") and ending.endswith(")")
    irrelevant = IRRELEVANT.search(sentence)
    dropped = irrelevant is not None and ANY_NUMBER.search(sentence, irrelevant.end()) is None
    return bracketed or dropped or ending.endswith(("?", "？")) or CHECK.match(sentence) is not None


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the last sentences, the last first; a check at the end is left out."""
    first = max(0, len(text) - MAX_TAIL)
    number = ANY_NUMBER.search(text)
    checks = (m.start() for m in CHECKING.finditer(text, first) if number and number.end() <= m.start())
    end = check = next(checks, len(text))
    for gap in reversed(list(SENTENCE.finditer(text, first, check))):
        if text[gap.end() : end].strip():
            yield gap.end(), end
        end = gap.start()
    if not first:
        yield 0, end


def _bold(text: str, start: int, end: int, concludes: bool) -> Answer | None:
    """The number of a sentence's only bold number; a sentence that does not conclude must not begin with it (**3.** ...)."""
    parts = [m for m in BOLD.finditer(text, start, end) if parse_number(m[1].rstrip(":")) or number_at(m[1])]
    if len(parts) != 1 or not (concludes or text[start : parts[0].start()].strip(" -*>")):
        return None
    reading = number_at(parts[0][1])
    readable = reading is not None and parse_number(reading[0]) is not None
    return Answer(reading[0], CONCLUSION, parts[0].span(1)) if reading and readable else None


def _plain(text: str, start: int, end: int) -> Answer | None:
    """The number after the last "=" of a concluding sentence, else its only number that is no adjunct and no subject."""
    reason = BECAUSE.search(text, start, end)
    end = reason.start() if reason else end
    if "=" in text[start:end]:
        return _after_equals(text, start, end)
    if (total := _total(text, start, end)) is not None:
        return _number(text, total, CONCLUSION)
    numbers = [m for m in ANY_NUMBER.finditer(text, start, end) if not _is_adjunct(text, start, m)]
    if len({m.group() for m in numbers}) > 1:
        numbers = [m for m in numbers if not SUBJECT.fullmatch(text, start, m.start())]
    return _number(text, numbers[0], CONCLUSION) if len({m.group() for m in numbers}) == 1 else None


def _total(text: str, start: int, end: int) -> re.Match[str] | None:
    """The number of "$25 in total" and "a total of 8 apples", but not of "of 20 in total"."""
    for number in ANY_NUMBER.finditer(text, start, end):
        if IN_TOTAL.match(text, number.end(), end) and not _is_adjunct(text, start, number):
            return number
        if TOTAL_OF.search(text, max(start, number.start() - 20), number.start()):
            return number
    return None


def _after_equals(text: str, start: int, end: int) -> Answer | None:
    """The number directly after the last "=" of a sentence, if no other follows but in adjuncts ("= 24 for 4 kids")."""
    equals = text.rfind("=", start, end)
    numbers = list(ANY_NUMBER.finditer(text, equals, end)) if equals >= 0 else []
    if not numbers or text[equals + 1 : numbers[0].start()].strip(" $*_\\(<"):
        return None
    reading = number_at(text[numbers[0].start() : end])
    readable = reading is not None and parse_number(reading[0]) is not None
    alone = all(
        m.group() == numbers[0].group() or _is_adjunct(text, start, m) or PART_OF.search(text, start, m.start())
        for m in numbers[1:]
    )
    return _number(text, numbers[0], CONCLUSION) if readable and alone else None


def _is_adjunct(text: str, start: int, number: re.Match[str]) -> bool:
    """Whether a number belongs to "in 3 days", "for the 4 cakes", "2 fewer than"; a price after "for" and "at" does not."""
    match = ADJUNCT.search(text, start, number.start())
    if match is None:
        return COMPARED.match(text, number.end()) is not None
    price = "$" in number.group() or MONEY.match(text, number.end()) is not None
    return not (price and match["word"].lower() in ("for", "at"))
