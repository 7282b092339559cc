"""Verdicts of IFEval's instructions against the authors' code, as lm_eval carries it, on made-up responses.

    pip install --target official nltk immutabledict langdetect; pip install --target official --no-deps lm_eval
    MFT_DATA_DIR=... PYTHONPATH=.:official python scripts/bench/ifeval_official.py

Each instruction of the benchmark's 541 prompts is asked of each response. The two instructions whose official code needs
nltk's data (sentences, words in capitals) are left out where that data is not here, and said to be.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from mft_cli.eval.grading.ifeval import follows

ENGLISH = "The quick brown fox jumps over the lazy dog. Then it sleeps in the warm sun for an hour, and nobody minds."
SPLITTERS = ("Section", "SECTION", "Paragraph", "Day", "PART")
TEXTS = [
    "Yes.", "My answer is yes.", "So: My answer is maybe.", ENGLISH, ENGLISH.upper(), ENGLISH.lower(), ENGLISH.replace(",", ""),
    f'"{ENGLISH}"', f'"{ENGLISH}', f"<<A title>>\n\n{ENGLISH}", f"<< >>\n{ENGLISH}", '{"a": [1, 2]}', '```json\n{"a": 1}\n```', "{'a': 1}",
    *("\n".join([ENGLISH, *(f"{mark} point {i}" for i in range(n))]) for mark in "*-" for n in (1, 2, 3, 4, 5)),
    *("\n***\n".join([ENGLISH] * n) for n in (1, 2, 3, 4, 5, 6)), *("\n\n".join([ENGLISH] * n) for n in (2, 3, 4, 5, 6)),
    "***\n" + ENGLISH + "\n***", f"{ENGLISH}\n******\nSomething else.", f"{ENGLISH}\n******\n{ENGLISH}", f"{ENGLISH}******",
    *(" ".join(f"*part {i}*" for i in range(n)) + ENGLISH for n in (1, 2, 3, 5, 15)), "**bold** and *thin* and ** ** and * *",
    *("\n".join(f"{word} {i}\n{ENGLISH}" for i in range(1, n + 1)) for word in SPLITTERS for n in (1, 2, 3, 5)),
    *(" ".join(f"[place {i}]" for i in range(n)) for n in (1, 2, 3, 6, 12)),
    f"{ENGLISH}\n\nP.S. More.", f"{ENGLISH}\n\nP.P.S More", f"{ENGLISH} p. s. x",
    "Der Hund und die Katze sind im Haus geblieben, weil es draußen geregnet hat.", "नमस्ते, यह एक छोटा उत्तर है जो हिन्दी में लिखा गया है।",
    *(" ".join(["word"] * n) for n in (10, 40, 99, 100, 101, 299, 300, 400, 600, 1200)),
]  # fmt: skip
NEED_DATA = ("length_constraints:number_sentences", "change_case:capital_word_frequency")


def responses(prompt: str, arguments: dict[str, Any]) -> list[str]:
    """The fixed texts, and some that use what the instruction asks for."""
    words = [str(word) for value in arguments.values() for word in (value if isinstance(value, list) else [value])]
    made = [" ".join([ENGLISH, *words]), " ".join(words * 3).lower(), f"{prompt}\n\n{ENGLISH}", f"{ENGLISH}\n{prompt}"]
    made += [f"{ENGLISH} {word}" for word in words] + [f"x{word}y {ENGLISH}\n\n{word} {ENGLISH}" for word in words]
    return TEXTS + made


def main() -> None:
    from lm_eval.tasks.ifeval import instructions_registry  # type: ignore[import-not-found]

    skipped = () if _has_sentences() else NEED_DATA
    asked, unlike = Counter[str](), Counter[str]()
    for line in (Path(os.environ["MFT_DATA_DIR"]) / "ifeval" / "input_data.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        for name, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if name in skipped:
                continue
            given = {key: value for key, value in kwargs.items() if value is not None}
            official = instructions_registry.INSTRUCTION_DICT[name](name)
            official.build_description(**given)
            for text in responses(row["prompt"], given):
                verdict = bool(text.strip()) and bool(official.check_following(text))
                asked[name] += 1
                if verdict != follows(name, given, text):
                    unlike[name] += 1
                    print(f"{name} {given}: official {verdict}: {text[:100]!r}") if unlike[name] <= 3 else None
    print(f"{sum(asked.values())} verdicts, {sum(unlike.values())} differ: {dict(unlike)}; left out: {list(skipped)}")


def _has_sentences() -> bool:
    import nltk  # type: ignore[import-not-found]

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


if __name__ == "__main__":
    main()
