"""Sentences that name a value and do not give it as the answer: "if the answer is 5", "the answer is 5? No", "between 4 and 5"."""

from __future__ import annotations

import re

BEFORE, AFTER = 100, 160  # characters that are looked at around an announcement
ARTICLE = (
    r"(?:(?:the|an?|my|our|your|this|that|any|la|le|die|der|el|a|o)\s)?"
    r"(?:(?:\w{1,12}e?st|final|correct|right|exact|numerical|bonne)\s)?"
)
CANNOT = (
    r"(?:\b(?:can|could|do|did|does|was|were)(?:n['’]?t|\snot)|\bcan['’]?t|\bcannot|\bunable\sto|\bimpossible\sto|\bnot\s(?:possible|able)\sto"
    r"|\b(?:is|are)(?:n['’]?t|\snot)\senough\s\w{1,20}\sto|\bno\sway\sto|\bnot\senough\s\w{1,20}\sto)\s(?:(?!need)[\w']{1,12}\s){0,2}?"
    r"(?:be\sdetermined|determine|find|give|provide|compute|calculate|know|say|tell|get|reach|state|derive|solve|answer|figure\sout|decide)\b"
)
SUPPOSED = re.compile(
    rf"(?:\b(?:if|suppose|supposing|assume|assuming|whether|unless|imagine|si|wenn|falls|angenommen|если)\s(?:that\s|dass\s)?{ARTICLE}"
    r"|(?:如果|假设|假設|假如|若|もし|만약)\s?(?:最终|正确|最終|正確)?的?|\bno\s|\bnot\s(?:the|an|my)\s"
    r"|\b(?:can(?:no|['’])t|(?:unable|impossible|not\sable|enough\s\w{1,20})\sto)\s)$",
    re.IGNORECASE,
)
REFUSED = re.compile(rf"{CANNOT}\s(?:\w{{1,12}}\s){{0,2}}?{ARTICLE}$", re.IGNORECASE)
ASKED = re.compile(r"(?:[^\n.!?。]|\.(?=\d)){0,150}[?？]")
RETRACTED = re.compile(
    r"[\s*_$]*\w(?:[^\n.!?]|\.(?=\d)){0,60}?[.!…,–—-]{1,3}\s*(?:no(?:\.\.\.|…|,?\s(?:wait|that|it|this)\b)"
    r"|wait,?\sno\b|(?:that|this|which)(?:\sis|['’]s|\swas)\s(?:wrong|incorrect|not\s(?:right|correct)|impossible)\b)",
    re.IGNORECASE,
)
SUPPOSING = (
    "if", "suppos", "assum", "whether", "unless", "imagine", "si ", "wenn", "fall", "angenommen", "если", "果", "设", "設", "若",
    "もし", "만약",
    "no", "n't", "n’t", "cant", "dont", "unable", "impossible",
)  # fmt: skip
WITHDRAWING = ("no", "No", "wrong", "incorrect", "impossible")
DRESS = " *_#"
COMMENT = re.compile(  # what is said about the answer instead of the answer
    r"(?:not|in)?(?:correct|right|wrong|incorrect|clear|obvious|unclear|unknown|unique|reasonable|consistent|verified|checked|found"
    r"|given|shown|below|above|as follows|based|determined|obtained|required|needed|also|still|always|probably|likely|not"
    r"|supposed|expected|asked|in|on|to be|one of|the same|a(?=\s)|an(?=\s)|between|(?:more|less|greater|smaller|fewer|larger)\sthan"
    r"|at (?:most|least)|no (?:more|less) than|bounded|divisible|an? integer)\b",
    re.IGNORECASE,
)
RELATIVE = re.compile(  # "1 more than a multiple of 7", "12 if n is even"
    r"[\s*$]*+-?[\d.,]++[\s*$]*+(?:[a-z]{1,20}\s)?(?:(?:more|less|fewer|greater|larger|smaller|higher|lower)\sthan\s"
    r"(?:an?\s(?:multiple|power|perfect|prime|number|square|cube)|twice|thrice|half|double|triple|the\s(?:sum|product|square|number|original)"
    r"|[$\d\\]|[a-z]\b(?!\s[a-z]))|if\s\$?[a-z]\$?\s?(?:is\b|[=<>\\]))",
    re.IGNORECASE,
)
BOUND = re.compile(
    r"\b(?:between(?:\s[$€£]?[\d.,]+\s(?:and|to))?|at\s(?:most|least)|(?:more|less|greater|fewer|larger|smaller)\sthan|out\sof(?:\s(?:the|all|his|her|their|its))?)\s[$€£]?$",
    re.IGNORECASE,
)
CLAUSE_END = re.compile(r"[.!?;](?=\s)|[\n。！？]|,\s(?:so|but|and|which)\s")
SENTENCE_START = re.compile(r"[.!?](?=\s)|[\n。！？]")
IRRELEVANT = re.compile(
    r"\b(?:irrelevant|(?:not|isn['’]t|aren['’]t)\s(?:relevant|needed|necessary|important)|(?:is|are|can\sbe)\signored|(?:do|does)(?:n['’]t|\snot)\s(?:matter|affect)"
    r"|unrelated)\b",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    rf"{CANNOT}|\b(?:not\senough|insufficient|missing)\s(?:information|data|details?|context)\b"
    r"|\bI(?:\scan(?:no|['’])t|(?:\sa|['’])m\s(?:unable|not\sable)\sto)\s(?:see|view|access|open|help|assist|comply)\b"
    r"|\bI\s(?:do\snot|don['’]t)\shave\saccess\b|\b(?:please|could\syou)\sprovide\b",
    re.IGNORECASE,
)
CONTRAST = re.compile(r"\b(?:but|so|however|although|therefore|thus)\b|=", re.IGNORECASE)
SUPPOSED_ANSWER = re.compile(rf"\b(?:if|suppose|assume|whether)\s(?:that\s)?{ARTICLE}answer\b", re.IGNORECASE)


def is_asserted(text: str, start: int, place: int) -> bool:
    """Whether an announcement, the characters [start, place) of a text, gives its value: neither supposed, asked nor withdrawn."""
    begins = text[max(0, start - 24) : start].rstrip(DRESS)
    for word in ("final", "the"):
        begins = begins.removesuffix(word).rstrip(DRESS)
    if begins and begins[-1] not in ".\n":  # most begin a sentence, so that nothing stands before them
        before = text[max(0, start - BEFORE) : start]
        if _has(before, SUPPOSING) and (SUPPOSED.search(before) or REFUSED.search(before)):
            return False
    after = text[place : place + AFTER]
    if ("?" in after or "？" in after) and ASKED.match(after):
        return False
    return not _has(after, WITHDRAWING) or RETRACTED.match(after) is None


def _has(text: str, words: tuple[str, ...]) -> bool:
    """A quick look before the slow patterns."""
    return any(word in text for word in words)


def is_remark(line: str) -> bool:
    """Whether an announced line says something about the answer ("unique", "between 4 and 5") instead of giving it."""
    return COMMENT.match(line) is not None or (
        (" than " in line or " if " in line) and RELATIVE.match(line) is not None
    )


def is_bound_or_question(text: str, start: int, end: int) -> bool:
    """Whether the number [start, end) of a text only bounds a value, does not matter, or stands in a question."""
    return (
        ASKED.match(text, end, end + AFTER) is not None
        or BOUND.search(text, max(0, start - 60), start) is not None
        or IRRELEVANT.search(CLAUSE_END.split(text[end : end + AFTER], maxsplit=1)[0]) is not None
    )


def sentence_before(text: str, start: int) -> str:
    """What stands before a place in its sentence, as far as it is looked at."""
    return SENTENCE_START.split(text[max(0, start - 2 * BEFORE) : start])[-1]


DENIED_ANSWER = re.compile(r"\banswer\s(?:is|was)(?:n['’]t|\snot)\s", re.IGNORECASE)


def gives_up(sentence: str) -> bool:
    """Whether a sentence says that there is no answer, or supposes one."""
    refusal = REFUSAL.search(sentence)
    refused = refusal is not None and CONTRAST.search(sentence, refusal.end()) is None
    return refused or any(p.search(sentence) for p in (SUPPOSED_ANSWER, DENIED_ANSWER))
