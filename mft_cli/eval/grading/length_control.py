"""Win rates, plain and length-controlled (Dubois et al. 2024, arXiv 2404.04475, section 3).

The paper models the judge's preference for the model m over the baseline b on instruction x as

    logistic( theta + phi * tanh(d / std(d)) + psi * gamma_x )      d = characters of m's answer - b's

and reports the mean preference with d set to 0. gamma_x, the difficulty of an instruction, is fitted over all models of
their leaderboard; it is left out here, which leaves 100 * logistic(theta). The two numbers differ a little: say which
one is meant when they are compared with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RIDGE = 0.01  # keeps theta finite where one side wins everything


def win_rate(preferences: Sequence[float]) -> tuple[float, float]:
    """(mean preference, its standard error), both in percent."""
    values = 100 * np.asarray(preferences, dtype=float)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(values.mean()), error


def length_controlled_win_rate(preferences: Sequence[float], length_differences: Sequence[float]) -> float:
    """The win rate at equal lengths in percent; preferences from 0 (baseline) to 1 (model)."""
    y = np.asarray(preferences, dtype=float)
    d = np.asarray(length_differences, dtype=float)
    spread = d.std()
    x = np.stack([np.ones_like(d), np.tanh(d / spread) if spread > 0 else np.zeros_like(d)], axis=1)
    weights = np.zeros(2)
    for _ in range(100):  # Newton's steps on a convex function
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - y) + RIDGE * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-10:
            break
    return float(100 / (1 + np.exp(-weights[0])))
