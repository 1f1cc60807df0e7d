"""How well a score ranks positives above negatives: AUROC, one score's interval and two scores' difference on the same items.

    AUROC = P(s+ > s-) + P(s+ = s-) / 2

over all pairs of a positive and a negative item. From 200 items on intervals and tests are DeLong's (1988): the variance of the
mean placements. Below that, positives and negatives are resampled separately, the same items for both scores (BCa bootstrap).
A score that separates perfectly shows no variation; then the bound is Clopper and Pearson's for as many disjoint pairs as there are.
Items are taken as independent.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from whet.errors import DataError
from whet.measure.outcome import Estimate
from whet.measure.statistics.proportions import clopper_pearson
from whet.measure.statistics.resampling import RESAMPLES, bca_levels
from whet.measure.statistics.result import Floats, TestResult, pair, quantile_z, right_or_wrong, vector

MANY_ITEMS = 200
"""From this many items on DeLong's variance is used instead of a bootstrap."""


def auroc(
    scores: ArrayLike, positive: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> Estimate:
    """The area under the ROC curve with its interval.

    Args:
        scores: [n].
        positive: [n], 0 or 1.
        resamples, seed: of the bootstrap below 200 items.
        confidence: of the interval.

    Raises:
        DataError: no positive or no negative item.
    """
    high, low = _split(*pair(scores, positive, "auroc"))
    places = _placements(high, low)
    value, items = float(places[0].mean()), len(high) + len(low)
    if min(len(high), len(low)) < 2:
        return Estimate(value, 0.0, 1.0, items, "none: one item of a kind")
    if value in (0.0, 1.0):
        pairs = min(len(high), len(low))
        bound = clopper_pearson(int(value) * pairs, pairs, confidence=confidence)
        return Estimate(value, bound.low, bound.high, items, "clopper-pearson over disjoint pairs")
    if items >= MANY_ITEMS:
        half = quantile_z(confidence) * math.sqrt(_variance(*places))
        return Estimate(value, max(0.0, value - half), min(1.0, value + half), items, "delong")
    replicates = _resampled(high[None], low[None], resamples, seed)[0]
    levels, method = bca_levels(value, replicates, _left_out(*places), confidence)
    bounds = np.quantile(replicates, levels)
    return Estimate(value, float(bounds[0]), float(bounds[1]), items, method)


def auroc_difference(
    first: ArrayLike,
    second: ArrayLike,
    positive: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> TestResult:
    """AUROC of the first score minus that of the second, on the same items: DeLong's test, below 200 items a paired bootstrap.

    Raises:
        DataError: no positive or no negative item, or fewer than two of a kind.
    """
    a, b = pair(first, second, "auroc_difference")
    truth = vector(positive, "auroc_difference")
    (high_a, low_a), (high_b, low_b) = _split(a, truth), _split(b, truth)
    if min(len(high_a), len(low_a)) < 2:
        raise DataError("auroc_difference: needs at least two positive and two negative items")
    gaps = [x - y for x, y in zip(_placements(high_a, low_a), _placements(high_b, low_b))]
    effect, items = float(gaps[0].mean()), len(a)
    spread = math.sqrt(_variance(*gaps))
    if spread <= 1e-15:
        return TestResult("delong", 0.0, 1.0, effect, effect, effect, items, "both scores rank alike: p = 1 by definition")
    if items >= MANY_ITEMS:
        z, half = effect / spread, quantile_z(confidence) * spread
        p = 2 * float(special.ndtr(-abs(z)))
        return TestResult("delong", z, p, effect, effect - half, effect + half, items, f"{len(high_a)} positive items")
    found = _resampled(np.stack([high_a, high_b]), np.stack([low_a, low_b]), resamples, seed)
    replicates = found[0] - found[1]
    levels, method = bca_levels(effect, replicates, _left_out(*gaps), confidence)
    low, high = np.quantile(replicates, levels)
    tail = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    p = min(1.0, 2 * (1 + tail) / (1 + resamples))
    note = f"{resamples} resamples of positives and negatives, seed {seed}; interval {method}"
    return TestResult("auroc-bootstrap", effect, p, effect, float(low), float(high), items, note)


def _split(scores: Floats, positive: Floats) -> tuple[Floats, Floats]:
    if len(scores) != len(positive):
        raise DataError(f"auroc: {len(scores)} scores but {len(positive)} labels")
    chosen = right_or_wrong(positive, "auroc")
    if chosen.all() or not chosen.any():
        raise DataError(
            f"auroc: all {len(scores)} items are {'positive' if chosen.all() else 'negative'}, so nothing can be ranked"
        )
    return scores[chosen], scores[~chosen]


def _placements(high: Floats, low: Floats) -> tuple[Floats, Floats]:
    """Share of negatives below each positive, and share of positives above each negative; ties count half. By midranks."""
    m, n = len(high), len(low)
    ranks = stats.rankdata(np.concatenate([high, low]))
    above = (ranks[:m] - stats.rankdata(high)) / n
    return above, 1 - (ranks[m:] - stats.rankdata(low)) / m


def _variance(above: Floats, below: Floats) -> float:
    """DeLong's variance of the mean placement."""
    return float(above.var(ddof=1)) / len(above) + float(below.var(ddof=1)) / len(below)


def _left_out(above: Floats, below: Floats) -> Floats:
    """The value without each item in turn."""
    return np.concatenate([(values.sum() - values) / (len(values) - 1) for values in (above, below)])


def _resampled(high: Floats, low: Floats, resamples: int, seed: int) -> Floats:
    """AUROC [k, resamples] of k scores whose positives [k, m] and negatives [k, n] are drawn anew, together for all k."""
    rng = np.random.default_rng(seed)
    m, n = high.shape[1], low.shape[1]
    up, down = rng.integers(m, size=(resamples, m)), rng.integers(n, size=(resamples, n))
    found = []
    for positives, negatives in zip(high, low):
        ranks = stats.rankdata(np.concatenate([positives[up], negatives[down]], axis=1), axis=1)
        found.append((ranks[:, :m].sum(1) - m * (m + 1) / 2) / (m * n))
    return np.stack(found)
