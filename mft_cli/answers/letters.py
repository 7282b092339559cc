"""Letters that a sentence of a multiple-choice answer affirms, denies or leaves open: "B is correct", "A: no", "选 B"."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mft_cli.answers.hedges import ASKED

DRESS = r"[\s(\[{*_\"'“”‘’`:：$]{0,8}"
NOUN = (
    r"(?:the\s|la\s|le\s|l['’]|die\s|der\s|el\s|o\s|a\s(?=letra|opç)|options?|choice|answer|letter|lettre|réponse|antwort|buchstabe|opci[óo]n"
    r"|opção|letra|opzione|lettera|risposta|respuesta|alternativa|вариант|ответ|选项|選項|選択肢)"
)
LETTER = rf"{DRESS}(?:(?i:{NOUN})\s*{DRESS}){{0,3}}(?P<letter>[A-Z])(?![A-Za-z'’])[)\]}}*_\"'”’`]{{0,4}}"
ANOTHER = r"[\s(*_\"]{0,4}(?:(?i:option|choice)\s)?\(?[A-J](?![A-Za-z'’])"
ALTERNATIVE = re.compile(  # "A or B", "A, B and C"
    rf"[\s)*_]{{0,4}}(?:(?:,{ANOTHER}[\s)*_]{{0,4}}){{0,8}},?\s?(?:\b(?:or|and|und|oder|ou|et|y|o|e)\b|或|和|与|/)(?:\s(?:maybe|possibly|perhaps|both))?{ANOTHER}(?!\s+(?:is|are|was|were)\b))"
)
WHICH = (
    r"(?:correct|right|best|true|valid|appropriate|accurate|viable|suitable|plausible|fitting|remaining|chosen|better|sensible|logical|reasonable|answer|only\s\w{1,20}"
    r"|most\s\w{1,20}|yes)"
)
GOOD = (
    rf"(?:(?:the|our|my|an?)\s)?(?:{WHICH}\b|richtige?r?|korrekt|die\s(?:richtige|korrekte|beste)|(?:la\s|le\s)?(?:bonne|correcte?|juste|meilleure)\b"
    r"|(?:la\s|lo\s)?(?:correct[ao]|corrett[ao]|giust[ao]|cert[ao])\b|верн|правильн)"
)
SURELY = r"(?:(?:clearly|definitely|indeed|therefore|thus|then|obviously|certainly|most\slikely|likely|probably|hence|for\ssure|also)\s)?"
BE = r"(?:is|are|was|be|must\sbe|would\sbe|should\sbe|has\sto\sbe|seems(?:\sto\sbe)?|appears\sto\sbe|looks|remains|ist|wäre|est|es|é|è|är)"
AFFIRMED = re.compile(  # the letter, then that it is right
    rf"(?<![A-Za-z\d'’]){LETTER}\s?(?:(?i:,?\s{BE}\s{SURELY}{GOOD})|(?i:\s?[:：|–—-]\s*{GOOD})|(?i:\s(?:alone\s)?(?:remains|is\sleft|fits|makes\s(?:the\smost\s)?sense|describes\sit\sbest)\b)|\s?(?:\|\s?)?[✓✔✅]|(?:选项)?(?:是|为)?(?:正确|對|对))"
)
CHOSEN = re.compile(  # that something is right, then the letter
    rf"(?:(?i:\b{GOOD}\s(?:\w{{1,20}}\s)?(?:answer|option|choice|one|candidate|statement|antwort|buchstabe|réponse|respuesta|opción|opção|risposta)?\s*(?::|{BE})?\s*{SURELY})"
    rf"|(?i:\b(?:is\sfor\ssure|must\sbe|go(?:ing)?\s(?:with|for)|choose|chose|pick|select|(?:my|final)\s(?:choice|pick|selection)\s?(?:is|:)|opt\sfor|settle\son|conclude|(?:it|this|that|which)(?:['’]s|\s{BE})\s{SURELY}"
    rf"|(?:so|therefore|thus|hence|leaving|leaves|then|but)(?:\sonly|\sus\swith)?[,:]?\s(?:it['’]?s\s|it\sis\s)?|ich\swähle|je\schois(?:is)?|elijo|escolho|scelgo|выбираю)\s?)"
    rf"|(?:正确(?:选项|答案)?(?:为|是)|故选|应选|應選|选择|選擇|选|選|答え?は)\s*[:：]?){LETTER}"
)
ENDS = re.compile(
    r"(?<=[)\]])|\s*(?:[.,;:!。，；)—–-]|$|\n|\s(?:because|since|as|for|which|due|weil|da|car|porque|perché)\b)"
)
DENIED = re.compile(
    r"\s*(?:(?i:is|are|was|would\sbe|can\sbe|cannot\sbe|[:：–—-])?\s*(?:(?:is|also|clearly|both|therefore|definitely)\s)*"
    r"(?i:not|no|wrong|incorrect|false|ruled|eliminated|excluded|too|cannot|can['’]t|isn['’]t|doesn['’]t|falsch|fausse?|faux|falsa|incorrecta)\b)|\s*[✗✘❌×]|\s*(?:错|不对|不正确)"
)
NEGATED = re.compile(
    r"(?:\bnot|n['’]t|\bneither|\bnor|\bexclude|\beliminate|\brule\sout|\bthan|\bif|\bwhether|\bunless|\bnicht|\bpas|\bno|[不非])\s*(?:that\s|option\s|choice\s)?$",
    re.IGNORECASE,
)
SECOND = re.compile(
    r"(?<![A-Za-z])[A-J][)\]*]{0,3}\s?(?:,|/|,?\s(?:and|or|und|oder|et|ou|y|e|o)\b)\s*(?:option\s|choice\s)?$",
    re.IGNORECASE,
)
CONDITION = re.compile(r"[^.\n,;]{0,20}\b(?:if|only\sif|unless|when)\b", re.IGNORECASE)
CONCLUDING = re.compile(
    r"\b(?:so|therefore|thus|hence|but|instead|final|finally|conclu\w*|go(?:ing)?\swith|choose|pick)\b|因此|所以|故",
    re.IGNORECASE,
)
SENTENCE_START = re.compile(r"[.!?](?=\s)|[\n。！？]")


def affirmed(text: str, allowed: str) -> tuple[str, tuple[int, int]] | None:
    """(letter, span) of the only letter that a text calls right, or of the last that it concludes with; None if neither.

    `allowed`: the letters of the options.
    """
    matches = sorted(_affirmations(text, allowed), key=lambda m: m.start("letter"))
    if len({m["letter"] for m in matches}) > 1:
        several = any("also" in m.group() for m in matches)
        matches = [] if several else [m for m in matches if CONCLUDING.search(_sentence_to(text, m))][-1:]
    return (matches[-1]["letter"], matches[-1].span()) if matches else None


def _affirmations(text: str, allowed: str) -> Iterator[re.Match[str]]:
    for pattern, fails in ((AFFIRMED, _is_conditional), (CHOSEN, is_open)):
        for match in pattern.finditer(text):
            asked = ASKED.match(text, match.end(), match.end() + 160)
            if match["letter"] in allowed and not (asked or is_negated(text, match) or fails(text, match)):
                yield match


def _is_conditional(text: str, match: re.Match[str]) -> bool:
    """Whether "if ..." follows what is called right, or another letter stands before it ("both A and B are correct")."""
    before = text[max(0, match.start() - 30) : match.start("letter")]
    return SECOND.search(before) is not None or CONDITION.match(text, match.end()) is not None


def is_open(text: str, match: re.Match[str]) -> bool:
    """Whether the letter of a match is denied, one of several, or no letter at all ("a bank")."""
    return (
        DENIED.match(text, match.end()) is not None
        or ALTERNATIVE.match(text, match.end()) is not None
        or ENDS.match(text, match.end()) is None
    )


def is_negated(text: str, match: re.Match[str]) -> bool:
    """Whether "not", "rule out" or "if" stands before a letter, or before the words that announce it."""
    return any(
        NEGATED.search(text[max(0, start - 60) : start].rstrip(" (*\"'"))
        for start in (match.start(), match.start("letter"))
    )


def _sentence_to(text: str, match: re.Match[str]) -> str:
    return SENTENCE_START.split(text[max(0, match.start() - 200) : match.end()])[-1]
