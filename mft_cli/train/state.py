"""Where a run stands, and which of its measurements is the best one so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

VALIDATION_LOSS = "validation_loss"


@dataclass
class TrainerState:
    """Where a run stands, saved in every checkpoint."""

    step: int = 0  # finished optimizer steps; skipped ones count
    total_steps: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    label_tokens: int = 0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    seconds: float = 0.0
    best_score: float | None = None  # of the benchmark that checkpoint.best_by names
    without_best: int = 0  # measurements by checkpoint.best_by since the best one
    stopped_early: bool = False

    def take(self, measured: str, value: float, best_by: str) -> bool:
        """Takes a measurement; whether it is the best so far by `best_by`: the lowest validation loss, or the highest score."""
        if measured != best_by:
            return False
        is_loss = measured == VALIDATION_LOSS
        best = self.best_loss if is_loss else self.best_score
        better = math.isfinite(value) and (best is None or (value < best if is_loss else value > best))
        self.without_best = 0 if better else self.without_best + 1
        if better and is_loss:
            self.best_loss, self.best_step = value, self.step
        elif better:
            self.best_score, self.best_step = value, self.step
        return better
