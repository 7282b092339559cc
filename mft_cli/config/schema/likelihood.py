"""A choice task by log-likelihood: nothing is generated, the options are ranked by how likely the model finds them."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import STRICT, Count, key


@dataclass(config=STRICT)
class LikelihoodConfig:
    """How a row becomes options with their contexts (answer_type=likelihood). Jinja over the row's fields; filter without('regex')."""

    preamble: str = key("", "The text before all else, a template over the problem's row.")
    context: str = key("{{ question }}", "The text before an option, a template; `option` is the option's text.")
    continuation: str = key(" {{ option }}", "The text whose log-likelihood counts, a template.")
    options: str = key("choices", "The options: an expression that gives a list of texts.")
    right: str = key("answer", "The right ones: an expression that gives a place from 0, or a list of 0 and 1.")
    normalise: Literal["none", "length"] = key(
        "none",
        "What accuracy is of: the log-likelihood, or that divided by the option's characters (acc and acc_norm of "
        "lm-evaluation-harness); both are kept.",
    )
    shots: Count = key(0, "Worked examples between preamble and context: rows with their right option (few-shot).")
    shots_path: str | None = key(None, "Where examples come from, as source.path; null: the benchmark's own source.")
    shots_split: str | None = key(
        None, "Its split; null: the benchmark's own. A problem is never an example of itself."
    )
    shots_local: list[str] = key([], "Its files under MFT_DATA_DIR, as source.local.")
    shots_same: str | None = key(None, "Field in which example and problem are the same, such as MMLU's subject.")
    shots_order: Literal["drawn", "first"] = key(
        "drawn", "drawn: other examples for every problem, by eval.seed; first: the first rows for all."
    )
