"""Means of few numbers: seeds, folds, data sets; equivalence; and corrections for many comparisons.

Training seeds are a random factor of their own: these tests take one number per seed (or fold), not per item.

Paper: model-evaluation — Model Evaluation, Model Selection, and Algorithm Selection in Machine Learning
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from whet.errors import DataError
from whet.measure.statistics.proportions import equality_floor, sparse
from whet.measure.statistics.result import Floats, TestResult, pair, probability, table, vector


def paired_t(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> TestResult:
    """Paired t test over seeds that share data order and split; at least 3. Give ``paired_permutation``'s p beside it."""
    a, b = pair(first, second, "paired_t", least=3)
    return _t_of("paired-t", a - b, 1 / len(a), len(a) - 1, confidence, f"{len(a)} pairs")


def corrected_resampled_t(differences: ArrayLike, n_train: int, n_test: int, confidence: float = 0.95) -> TestResult:
    """t test over J repeated splits or folds whose training sets overlap (Nadeau and Bengio 2003).

    t = mean d / sqrt(s^2 (1/J + n_test/n_train)), J - 1 degrees of freedom. The plain t over folds is far too optimistic.

    Args:
        differences: [J] scores of the first minus the second learner, one per split.
        n_train: training items of one split.
        n_test: test items of one split.
    """
    d = vector(differences, "corrected_resampled_t", least=2)
    if n_train <= 0 or n_test <= 0:
        raise DataError(f"corrected_resampled_t: needs positive sizes, got n_train {n_train} and n_test {n_test}")
    return _t_of("corrected-resampled-t", d, 1 / len(d) + n_test / n_train, len(d) - 1, confidence, f"{len(d)} splits")


def _t_of(name: str, d: Floats, factor: float, freedom: int, confidence: float, note: str) -> TestResult:
    mean, error = float(d.mean()), math.sqrt(float(d.var(ddof=1)) * factor)
    if error <= 1e-15 * max(1.0, abs(mean)):
        p, statistic = (1.0, 0.0) if mean == 0 else (0.0, math.copysign(math.inf, mean))
        return TestResult(name, statistic, p, mean, mean, mean, len(d), f"{note}; no variation between them")
    statistic = mean / error
    half = float(special.stdtrit(freedom, 0.5 + confidence / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(statistic)))
    return TestResult(name, statistic, p, mean, mean - half, mean + half, len(d), f"{note}, {freedom} degrees of freedom")


def welch(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> TestResult:
    """Welch's t test of two unpaired sets of seeds; unequal variances and sizes allowed."""
    a, b = vector(first, "welch, first arm", 2), vector(second, "welch, second arm", 2)
    difference = float(a.mean() - b.mean())
    if a.var() + b.var() == 0:
        p, statistic = (1.0, 0.0) if difference == 0 else (0.0, math.copysign(math.inf, difference))
        return TestResult(
            "welch", statistic, p, difference, difference, difference, len(a) + len(b), "no variation in either arm"
        )
    result = stats.ttest_ind(a, b, equal_var=False)
    interval = result.confidence_interval(confidence)
    note = f"{len(a)} against {len(b)}, {result.df:.3g} degrees of freedom"
    return TestResult(
        "welch",
        float(result.statistic),
        float(result.pvalue),
        difference,
        float(interval.low),
        float(interval.high),
        len(a) + len(b),
        note,
    )


def five_by_two_cv_f(differences: ArrayLike) -> TestResult:
    """Combined F test of two learners over 5 repetitions of 2-fold cross-validation (Alpaydin 1999).

    F = sum_ij p_ij^2 / (2 sum_i s_i^2), F(10, 5); p_ij [5, 2] are score differences, s_i^2 their variance in repetition i.
    """
    d = table(differences, "five_by_two_cv_f")
    if d.shape != (5, 2):
        raise DataError(f"five_by_two_cv_f: expected differences of shape (5, 2), got {d.shape}")
    effect, spread = float(d.mean()), float(((d - d.mean(1, keepdims=True)) ** 2).sum())
    if spread == 0:
        p, statistic = (1.0, 0.0) if not d.any() else (0.0, math.inf)
        return TestResult("5x2cv-f", statistic, p, effect, None, None, 10, "no variation inside the repetitions")
    statistic = float((d**2).sum()) / (2 * spread)
    return TestResult("5x2cv-f", statistic, float(special.fdtrc(10, 5, statistic)), effect, None, None, 10, "F(10, 5)")


def tost(first: ArrayLike, second: ArrayLike, delta: float, alpha: float = 0.05) -> TestResult:
    """Two one-sided paired t tests: is the mean difference inside (-delta, delta)?

    Small p means equivalence; it is the larger of the two one-sided p. The interval has level 1 - 2 alpha (90%) and lies
    inside +-delta exactly when p < alpha; of scores that differ on hardly any item p may be larger, see :func:`equality_floor`.
    ``delta`` 0 is never shown.
    """
    if not delta >= 0:
        raise DataError(f"tost: delta is the largest difference that does not matter and must not be negative, got {delta}")
    a, b = pair(first, second, "tost", least=2)
    d, freedom = a - b, len(a) - 1
    mean, error = float(d.mean()), float(d.std(ddof=1)) / math.sqrt(len(d))
    note = f"equivalence within ±{delta:g}; interval at {1 - 2 * alpha:.0%}"
    floor = equality_floor(abs(mean), delta, len(d)) if sparse(a, b) else 0.0
    if error == 0:
        p = floor if abs(mean) < delta else 1.0
        return TestResult("tost", math.inf, p, mean, mean, mean, len(d), f"{note}; no variation")
    statistic = (delta - abs(mean)) / error
    half = float(special.stdtrit(freedom, 1 - alpha)) * error
    p = max(floor, float(special.stdtr(freedom, -statistic)))
    return TestResult("tost", statistic, p, mean, mean - half, mean + half, len(d), note)


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """p values times their number, at most 1; in the order given."""
    return [min(1.0, p * len(p_values)) for p in _p_values(p_values)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given: never larger than Bonferroni's."""
    p = _p_values(p_values)
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, float(p[i]) * (len(p) - rank)))
        adjusted[int(i)] = largest
    return adjusted


def _p_values(values: Sequence[float]) -> Floats:
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"p values must be a list of numbers in [0, 1], got {list(values)}")
    return p


@dataclass(frozen=True)
class Ranking:
    """Friedman's test, the arms' mean ranks (1 is best) and how far two must lie apart (Nemenyi, 5%)."""

    test: TestResult
    mean_ranks: Sequence[float]
    critical_difference: float


def friedman(scores: ArrayLike, alpha: float = 0.05) -> Ranking:
    """Do k >= 3 arms differ over N data sets? ``scores`` [N, k], higher is better; ties share their rank.

    Nemenyi's critical difference is q sqrt(k (k+1) / (6 N)), q the studentized range over sqrt(2).
    """
    data = table(scores, "friedman")
    sets, arms = data.shape
    if arms < 3 or sets < 2:
        raise DataError(f"friedman needs at least 3 arms and 2 data sets, got {arms} and {sets}; compare two arms by wilcoxon")
    ranks = stats.rankdata(-data, axis=1)
    q = float(stats.studentized_range.ppf(1 - alpha, arms, np.inf)) / math.sqrt(2)
    if (ranks == ranks[0, 0]).all():
        test = TestResult("friedman", 0.0, 1.0, None, None, None, sets, "all arms tie on every data set: p = 1 by definition")
    else:
        result = stats.friedmanchisquare(*data.T)
        test = TestResult("friedman", float(result.statistic), float(result.pvalue), None, None, None, sets, f"{arms} arms")
    return Ranking(test, [float(r) for r in ranks.mean(0)], q * math.sqrt(arms * (arms + 1) / (6 * sets)))


def wilcoxon(first: ArrayLike, second: ArrayLike) -> TestResult:
    """Wilcoxon signed-rank test over at least 6 data sets; the effect is the median paired difference."""
    a, b = pair(first, second, "wilcoxon", least=6)
    d = a - b
    if not d.any():
        return TestResult("wilcoxon", 0.0, 1.0, 0.0, None, None, len(d), "every difference is zero: p = 1 by definition")
    result = stats.wilcoxon(d)
    note = f"{int((d == 0).sum())} zero differences left out"
    return TestResult(
        "wilcoxon", float(result.statistic), probability(result.pvalue), float(np.median(d)), None, None, len(d), note
    )


def pairwise_wilcoxon(scores: ArrayLike) -> dict[tuple[int, int], TestResult]:
    """Wilcoxon tests of all pairs of arms of ``scores`` [N, k], with Holm-adjusted p; keys are (first, second) arm."""
    data = table(scores, "pairwise_wilcoxon")
    pairs = [(i, j) for i in range(data.shape[1]) for j in range(i + 1, data.shape[1])]
    results = [wilcoxon(data[:, i], data[:, j]) for i, j in pairs]
    return {
        key: TestResult(r.name, r.statistic, p, r.effect, r.low, r.high, r.n, f"{r.note}; Holm over {len(pairs)} pairs")
        for key, r, p in zip(pairs, results, holm([r.p for r in results]), strict=True)
    }
