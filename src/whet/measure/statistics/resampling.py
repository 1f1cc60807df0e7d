"""Intervals and tests by resampling: BCa and cluster bootstrap, paired sign flips, bootstrap over seeds and items.

Everything is seeded, and the seed is part of the result's ``method`` or ``note``. Items that belong together (documents,
prompts with several samples, subjects) are resampled and flipped as whole groups.

Paper: model-evaluation — Model Evaluation, Model Selection, and Algorithm Selection in Machine Learning
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from whet.errors import DataError
from whet.measure.outcome import Estimate
from whet.measure.statistics.result import Floats, TestResult, group_ids, pair, table, vector

RESAMPLES = 10_000
EXACT_UNITS = 14
"""Up to this many units all 2^n sign flips are enumerated (2^14 is about the number of random flips otherwise drawn)."""
FEW_UNITS = 30
"""Below this many units a mean gets a t interval instead of a bootstrap interval."""
_CHUNK = 2_000_000


def bca_bootstrap(
    values: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    groups: Sequence[object] | None = None,
    statistic: Callable[[Floats], float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """A statistic of per-item values with its bias-corrected and accelerated bootstrap interval.

    Args:
        values: [n], or [n, k] if ``statistic`` reads several numbers per item.
        weights: [n], what the mean is weighted with (tokens, for perplexity); only without ``statistic``.
        groups: [n] labels; whole groups are resampled (cluster bootstrap).
        statistic: function of the resampled values; default: their (weighted) mean, much faster than a function.
        resamples: number of bootstrap replicates (default 10,000).

    Returns:
        ``method`` is ``bca``, or ``percentile`` where acceleration or bias are undefined (all replicates on one side, or
        no variation), with ``-cluster`` appended for groups. ``n`` counts the resampled units.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim == 1:
        vector(data, "bca_bootstrap", least=2)
    unit = group_ids(groups, len(data), "bca_bootstrap")
    units = int(unit.max()) + 1
    if units < 2:
        raise DataError("bca_bootstrap: all items are in one group; an interval needs at least 2 groups")
    rng = np.random.default_rng(seed)
    if statistic is None:
        estimate, replicates, left_out = _mean_replicates(vector(data, "bca_bootstrap"), weights, unit, units, resamples, rng)
    else:
        if weights is not None:
            raise DataError("bca_bootstrap: weights are read only by the default mean; put them into the values for a statistic")
        estimate, replicates, left_out = _statistic_replicates(data, statistic, unit, units, resamples, rng)
    levels, method = bca_levels(estimate, replicates, left_out, confidence)
    low, high = np.quantile(replicates, levels)
    return Estimate(estimate, float(low), float(high), units, method + ("" if groups is None else "-cluster"))


def _mean_replicates(
    values: Floats, weights: ArrayLike | None, unit: np.ndarray, units: int, resamples: int, rng: np.random.Generator
) -> tuple[float, Floats, Floats]:
    above, below = _unit_sums(values, weights, unit)
    replicates = np.empty(resamples)
    step = max(1, _CHUNK // units)
    for start in range(0, resamples, step):
        drawn = rng.integers(units, size=(min(step, resamples - start), units))
        replicates[start : start + len(drawn)] = above[drawn].sum(1) / below[drawn].sum(1)
    return float(above.sum() / below.sum()), replicates, (above.sum() - above) / (below.sum() - below)


def _unit_sums(values: Floats, weights: ArrayLike | None, unit: np.ndarray) -> tuple[Floats, Floats]:
    """Per unit: the weighted sum of its values and the sum of its weights."""
    w = np.ones(len(values)) if weights is None else pair(values, weights, "values and weights")[1]
    below: Floats = np.bincount(unit, weights=w).astype(np.float64)
    if (w < 0).any() or (below <= 0).any():
        raise DataError("weights must not be negative, and every unit needs a positive one")
    return np.bincount(unit, weights=w * values).astype(np.float64), below


def _statistic_replicates(
    data: Floats, statistic: Callable[[Floats], float], unit: np.ndarray, units: int, resamples: int, rng: np.random.Generator
) -> tuple[float, Floats, Floats]:
    members = [np.flatnonzero(unit == u) for u in range(units)] if units < len(data) else None

    def of(drawn: np.ndarray) -> float:
        return float(statistic(data[drawn if members is None else np.concatenate([members[u] for u in drawn])]))

    everyone = np.arange(units)
    replicates = np.array([of(rng.integers(units, size=units)) for _ in range(resamples)])
    return of(everyone), replicates, np.array([of(np.delete(everyone, u)) for u in range(units)])


def bca_levels(estimate: float, replicates: Floats, left_out: Floats, confidence: float) -> tuple[list[float], str]:
    """The two quantile levels of the replicates (Efron 1987), plain percentiles where the correction is undefined."""
    plain = [0.5 - confidence / 2, 0.5 + confidence / 2]
    share = (np.mean(replicates < estimate) + np.mean(replicates <= estimate)) / 2
    deviations = left_out.mean() - left_out
    spread = float((deviations**2).sum())
    if not 0 < share < 1 or spread <= 1e-24 * max(1.0, estimate**2):
        return plain, "percentile"
    acceleration = float((deviations**3).sum()) / (6 * spread**1.5)
    bias = float(special.ndtri(share))
    levels = []
    for level in plain:
        z = bias + float(special.ndtri(level))
        if 1 - acceleration * z <= 0:
            return plain, "percentile"
        levels.append(float(special.ndtr(bias + z / (1 - acceleration * z))))
    return levels, "bca"


def mean_interval(
    values: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    groups: Sequence[object] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """A (weighted) mean with its interval: t below 30 units (items or groups), BCa bootstrap from there on."""
    data = vector(values, "mean_interval")
    unit = group_ids(groups, len(data), "mean_interval")
    units = int(unit.max()) + 1
    if units >= FEW_UNITS:
        return bca_bootstrap(data, weights=weights, groups=groups, resamples=resamples, seed=seed, confidence=confidence)
    above, below = _unit_sums(data, weights, unit)
    mean = float(above.sum() / below.sum())
    if units == 1:
        return Estimate(mean, -math.inf, math.inf, 1, "none: one unit")
    error = math.sqrt(units / (units - 1) * float(((above - mean * below) ** 2).sum())) / float(below.sum())
    half = float(special.stdtrit(units - 1, 0.5 + confidence / 2)) * error
    return Estimate(mean, mean - half, mean + half, units, "t" if groups is None else "t-cluster")


def paired_permutation(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: Sequence[object] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> TestResult:
    """Sign-flip permutation test of the mean paired difference, first minus second; exact up to 14 units.

    Under the null each unit's difference (a group's, as a whole) is as likely to have either sign. Two-sided; random flips
    count the observed one: p = (1 + #{|T_perm| >= |T|}) / (1 + R). The interval is ``mean_interval``'s.
    """
    a, b = pair(first, second, "paired_permutation")
    differences = a - b
    unit = group_ids(groups, len(a), "paired_permutation")
    sums = np.bincount(unit, weights=differences).astype(np.float64)
    p, note = _sign_flip_p(sums, resamples, seed)
    interval = mean_interval(differences, groups=groups, resamples=resamples, seed=seed, confidence=confidence)
    note += f"; interval {interval.method}"
    return TestResult("paired-permutation", interval.value, p, interval.value, interval.low, interval.high, len(sums), note)


def _sign_flip_p(sums: Floats, resamples: int, seed: int) -> tuple[float, str]:
    units = len(sums)
    observed = abs(float(sums.sum()))
    if not sums.any():
        return 1.0, "every difference is zero: p = 1 by definition"
    limit = observed - 1e-12 * float(np.abs(sums).sum())
    if units <= EXACT_UNITS:
        signs = 1 - 2 * ((np.arange(2**units)[:, None] >> np.arange(units)) & 1)
        p = float(np.mean(np.abs(signs @ sums) >= limit))
        return p, f"exact over 2^{units} flips, smallest possible p {2.0 ** (1 - units):.3g}"
    rng = np.random.default_rng(seed)
    reached, step = 0, max(1, _CHUNK // units)
    for start in range(0, resamples, step):
        signs = rng.integers(0, 2, size=(min(step, resamples - start), units), dtype=np.int8) * 2 - 1
        reached += int((np.abs(signs @ sums) >= limit).sum())
    return (1 + reached) / (1 + resamples), f"{resamples} random flips, seed {seed}"


def hierarchical_bootstrap(
    differences: ArrayLike,
    *,
    shared_items: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> TestResult:
    """Mean paired difference over seeds and items: seeds are drawn first, then items; percentile interval.

    Args:
        differences: [S seeds, n items], first minus second arm.
        shared_items: the columns are the same held-out items for every seed, so one draw of items serves all drawn seeds
            (items' luck does not average out over seeds). ``False`` draws items afresh inside each seed.

    Raises:
        DataError: fewer than two seeds or items.
    """
    data = table(differences, "hierarchical_bootstrap")
    seeds, items = data.shape
    if seeds < 2 or items < 2:
        raise DataError(f"hierarchical_bootstrap needs at least 2 seeds and 2 items, got {seeds} and {items}")
    rng = np.random.default_rng(seed)
    replicates = np.empty(resamples)
    for i in range(resamples):
        rows = rng.integers(seeds, size=seeds)
        columns = rng.integers(items, size=items if shared_items else (seeds, items))
        replicates[i] = data[rows][:, columns].mean() if shared_items else np.take_along_axis(data[rows], columns, 1).mean()
    tail = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    low, high = np.quantile(replicates, [0.5 - confidence / 2, 0.5 + confidence / 2])
    p = min(1.0, 2 * (1 + tail) / (1 + resamples))
    note = f"{seeds} seeds, then {items} {'shared ' if shared_items else ''}items; {resamples} resamples, seed {seed}"
    return TestResult("hierarchical-bootstrap", float(data.mean()), p, float(data.mean()), float(low), float(high), seeds, note)
