"""`mft plan` from configuration to what is printed."""

from __future__ import annotations

import json

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.plan.estimate import make_plan
from mft_cli.plan.settings import PlanOptions, settings_of


def plan(config: TrainConfig, options: PlanOptions) -> None:
    """Print the plan. Raises UserError."""
    from mft_cli.plan.show import as_json, as_text

    settings = settings_of(options, config)
    made = make_plan(config, settings)
    print(json.dumps(as_json(made), indent=2) if settings.json else as_text(made))
