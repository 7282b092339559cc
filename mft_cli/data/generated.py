"""Generated sources: `path: generated:<name>`. One function a source, from (split, options) to plain rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import STRICT, Seed, Values, key
from mft_cli.config.validate import build, names
from mft_cli.data.chains import ChainOptions, chains
from mft_cli.errors import UserError
from mft_cli.rng import digest64

HELD_OUT_SHARE = 0.2


@dataclass(config=STRICT, frozen=True)
class GsmSymbolicOptions:
    """The options of `generated:gsm_symbolic`."""

    seed: Seed = key(0, "Another seed, other problems.")


def gsm_symbolic(split: str, rows: int | None, options: GsmSymbolicOptions) -> Iterator[Values]:
    """GSM8K-like problems with a chain of thought, from reasoning-gym (after GSM-Symbolic, arXiv 2410.05229).

    Splits: `train`; `test`, the same templates with new numbers; `heldout`, templates that `train` never shows.
    train and test are disjoint by a digest of the question's text, whatever the seeds. The templates come from GSM8K
    *test* problems, so scores on GSM8K test after training here are contaminated; configurations say derived_from.
    """
    try:
        from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import (
            GSMSymbolicDataset,
            GSMSymbolicDatasetConfig,
            tasks_ok,
        )
    except ImportError:
        raise UserError("generated:gsm_symbolic needs the package reasoning-gym: pip install reasoning-gym") from None
    if split not in ("train", "test", "heldout"):
        raise UserError(f"generated:gsm_symbolic has the splits train, test and heldout, not {split}")
    templates = sorted(set(tasks_ok), key=lambda t: digest64("gsm_symbolic", t))
    held_out = round(HELD_OUT_SHARE * len(templates))
    chosen = templates[:held_out] if split == "heldout" else templates[held_out:]
    generators = GSMSymbolicDataset(GSMSymbolicDatasetConfig(seed=0, size=1)).generators
    count, seen, attempt = 2000 if rows is None else rows, set[str](), 0
    while len(seen) < count:
        if attempt > 50 * count + 1000:
            raise UserError(f"generated:gsm_symbolic cannot make {count} different {split} problems; set rows lower")
        rng = Random(digest64("gsm_symbolic", options.seed, attempt))
        attempt += 1
        template = chosen[rng.randrange(len(chosen))]
        item = generators[template](rng, 1.0)
        question, solution = item["question"], item["metadata"]["answer_cot"]
        in_test = digest64("split", question) % 5 == 0
        wrong_split = split != "heldout" and in_test != (split == "test")
        ends_right = solution.rsplit("####", 1)[-1].strip() == str(item["answer"]).strip()
        if wrong_split or question in seen or not ends_right:
            continue
        seen.add(question)
        yield {"question": question, "answer": str(item["answer"]), "metadata": item["metadata"], "template": template}


# name -> its options, and what makes rows from (split, rows, options)
GENERATORS: dict[str, tuple[type, Callable[[str, int | None, Any], Iterator[Values]]]] = {
    "gsm_symbolic": (GsmSymbolicOptions, gsm_symbolic),
    "chains": (ChainOptions, chains),
}


def generate(path: str, split: str, rows: int | None, options: Values) -> Iterator[Values]:
    """Rows of `generated:<name>`. Raises UserError for an unknown name or option, or a value that an option cannot have."""
    name = path.removeprefix("generated:")
    if name not in GENERATORS:
        raise UserError(f"path={path}: no such generated source; valid: {', '.join(GENERATORS)}")
    kind, rows_of = GENERATORS[name]
    if unknown := set(options) - set(names(kind)):
        valid = ", ".join(names(kind))
        raise UserError(f"path={path}: unknown options {', '.join(sorted(unknown))}; valid: {valid}")
    return rows_of(split, rows, build(kind, options, "options."))
