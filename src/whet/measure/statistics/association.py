"""Calibration of stated confidences, and rank correlation.

Decide on the Brier score (a proper score, per item, so paired tests apply); the expected calibration error only describes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from whet.errors import DataError
from whet.measure.outcome import Estimate
from whet.measure.statistics.resampling import RESAMPLES, bca_bootstrap, mean_interval
from whet.measure.statistics.result import Floats, TestResult, pair, quantile_z, right_or_wrong


def brier(confidences: ArrayLike, correct: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean squared distance between confidence in [0, 1] and 0/1 correctness, with a bootstrap interval over items."""
    c, y = _calibration_pair(confidences, correct)
    return mean_interval((c - y) ** 2, resamples=resamples, seed=seed)


def expected_calibration_error(
    confidences: ArrayLike, correct: ArrayLike, *, bins: int = 15, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Mean |accuracy - confidence| over equal-width bins, weighted by their items; bootstrap interval over items.

    The value is biased upwards on few items, and its interval with it.
    """
    c, y = _calibration_pair(confidences, correct)
    if bins < 1:
        raise DataError(f"expected_calibration_error: bins must be at least 1, got {bins}")
    bin_of = np.minimum((c * bins).astype(np.int64), bins - 1)

    def gap(rows: Floats) -> float:
        return float(np.abs(np.bincount(rows[:, 1].astype(np.int64), weights=rows[:, 0], minlength=bins)).sum()) / len(rows)

    rows = np.stack([y - c, bin_of], 1)
    if len(rows) < 2:
        return Estimate(gap(rows), 0.0, 1.0, len(rows), "none: one item")
    return bca_bootstrap(rows, statistic=gap, resamples=resamples, seed=seed)


def _calibration_pair(confidences: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    c, y = pair(confidences, correct, "calibration")
    right_or_wrong(y, "calibration")
    if ((c < 0) | (c > 1)).any():
        raise DataError(f"calibration: confidences lie in [0, 1], got {float(c[(c < 0) | (c > 1)][0]):g}")
    return c, y


def spearman(x: ArrayLike, y: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0, confidence: float = 0.95) -> TestResult:
    """Spearman's rank correlation: permutation p, and a Fisher z interval.

    p = (1 + #{|rho_perm| >= |rho|}) / (1 + R). The standard error of z is sqrt((1 + rho^2 / 2) / (n - 3)) (Bonett and
    Wright 2000), which holds its level for ranks where 1 / sqrt(n - 3) does not.

    Raises:
        DataError: fewer than 4 pairs, or one side is constant.
    """
    a, b = pair(x, y, "spearman", least=4)
    ranks_a, ranks_b = stats.rankdata(a) - (len(a) + 1) / 2, stats.rankdata(b) - (len(b) + 1) / 2
    norm = math.sqrt(float((ranks_a**2).sum() * (ranks_b**2).sum()))
    if norm == 0:
        raise DataError("spearman: one side is constant, so no rank correlation exists")
    rho = float(ranks_a @ ranks_b) / norm
    rng = np.random.default_rng(seed)
    reached = sum(abs(float(ranks_a @ rng.permutation(ranks_b))) / norm >= abs(rho) - 1e-12 for _ in range(resamples))
    clipped = max(-1 + 1e-12, min(1 - 1e-12, rho))
    half = quantile_z(confidence) * math.sqrt((1 + rho**2 / 2) / (len(a) - 3))
    low, high = math.tanh(math.atanh(clipped) - half), math.tanh(math.atanh(clipped) + half)
    note = f"{resamples} permutations, seed {seed}; Fisher z interval"
    return TestResult("spearman", rho, (1 + reached) / (1 + resamples), rho, low, high, len(a), note)
