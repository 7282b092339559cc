"""A choice task by log-likelihood: nothing is generated, the options are ranked by how likely the model finds them."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import STRICT, key


@dataclass(config=STRICT)
class LikelihoodConfig:
    """How a row becomes options with their contexts (answer_type=likelihood). Jinja over the row's fields; filter without('regex')."""

    context: str = key("{{ question }}", "The text before an option, a template; `option` is the option's text.")
    continuation: str = key(" {{ option }}", "The text whose log-likelihood counts, a template.")
    options: str = key("choices", "The options: an expression that gives a list of texts.")
    right: str = key("answer", "The right ones: an expression that gives a place from 0, or a list of 0 and 1.")
    normalise: Literal["none", "length"] = key(
        "none",
        "What accuracy is of: the log-likelihood, or that divided by the option's characters (acc and acc_norm of "
        "lm-evaluation-harness); both are kept.",
    )
