"""Which language a text is in, by the langdetect library, always with the same answer."""

from __future__ import annotations

from functools import cache
from typing import Any

from mft_cli.errors import UserError


@cache
def detector() -> Any:
    """The library, seeded: without a seed its answer for a short text changes from call to call.

    Raises UserError where it is not installed.
    """
    try:
        import langdetect
    except ImportError:
        raise UserError(
            "IFEval's language instructions need the package langdetect; install it with: pip install langdetect==1.0.9"
        ) from None
    langdetect.DetectorFactory.seed = 0
    return langdetect


def is_language(text: str, code: str) -> bool:
    """Whether a text is in the language of this code (ISO 639-1; zh-cn and zh-tw). A text without letters counts as yes.

    Raises UserError where langdetect is not installed.
    """
    library = detector()
    try:
        return bool(library.detect(text) == code)
    except library.LangDetectException:
        return True
