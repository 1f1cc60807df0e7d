"""Estimates for learners that can be retrained: the .632+ bootstrap and nested cross-validation.

Small data sets waste too much on a hold-out split. The bootstrap trains on n items drawn with replacement and tests on
the items left out; .632+ corrects its pessimism by the optimistic training accuracy. Nested cross-validation selects
inside each outer training set, so that the outer score has seen no selection.

Paper: model-evaluation — Model Evaluation, Model Selection, and Algorithm Selection in Machine Learning
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whet.errors import DataError
from whet.measure.outcome import Estimate
from whet.measure.statistics.resampling import mean_interval

Indices = NDArray[np.int64]


def bootstrap_632plus(
    labels: ArrayLike,
    fit_predict: Callable[[Indices, Indices], ArrayLike],
    *,
    plus: bool = True,
    resamples: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Accuracy of a learner by the .632+ bootstrap (Efron and Tibshirani 1997).

    err = (1 - w) err_train + w err_left_out with w = .632 / (1 - .368 R); the relative overfitting
    R = (err_left_out - err_train) / (gamma - err_train), clipped to [0, 1], rests on the no-information error
    gamma = sum_k p_k (1 - q_k), p the shares of the labels and q of the predictions. R = 0 gives plain .632.

    Args:
        labels: [n] the right classes.
        fit_predict: trains on the items of the first indices (with repeats), returns predictions for the second.
        plus: ``False`` keeps w = .632.
        resamples: bootstrap training sets, 200 to 2,000.

    Returns:
        Accuracy with the percentiles of the replicates; ``method`` gives w.
    """
    truth = np.asarray(labels)
    n = len(truth)
    if n < 2:
        raise DataError(f"bootstrap_632plus: needs at least 2 items, got {n}")
    everyone = np.arange(n)
    fitted = np.asarray(fit_predict(everyone, everyone))
    train_error = float(np.mean(fitted != truth))
    left_out_errors = _left_out_errors(truth, fit_predict, resamples, seed)
    weight = _weight_632(truth, fitted, train_error, float(left_out_errors.mean())) if plus else 0.632
    accuracies = 1 - ((1 - weight) * train_error + weight * left_out_errors)
    low, high = np.quantile(accuracies, [0.5 - confidence / 2, 0.5 + confidence / 2])
    method = f"{'.632+' if plus else '.632'} bootstrap, weight {weight:.3f}, {resamples} resamples, seed {seed}"
    return Estimate(float(accuracies.mean()), float(low), float(high), n, method)


def _left_out_errors(
    truth: NDArray[np.generic], fit_predict: Callable[[Indices, Indices], ArrayLike], resamples: int, seed: int
) -> NDArray[np.float64]:
    n, rng = len(truth), np.random.default_rng(seed)
    errors: list[float] = []
    while len(errors) < resamples:
        drawn = rng.integers(n, size=n)
        left_out = np.setdiff1d(np.arange(n), drawn)
        if len(left_out):
            errors.append(float(np.mean(np.asarray(fit_predict(drawn, left_out)) != truth[left_out])))
    return np.array(errors)


def _weight_632(truth: NDArray[np.generic], fitted: NDArray[np.generic], train_error: float, left_out_error: float) -> float:
    gamma = sum(float(np.mean(truth == k)) * (1 - float(np.mean(fitted == k))) for k in np.unique(truth))
    if left_out_error <= train_error or gamma <= train_error:
        return 0.632
    overfitting = min(1.0, (left_out_error - train_error) / (gamma - train_error))
    return 0.632 / (1 - 0.368 * overfitting)


@dataclass(frozen=True)
class Nested:
    """The outer score of a selection procedure, and which candidate each outer fold chose."""

    score: Estimate
    outer_scores: Sequence[float]
    chosen: Sequence[int]


def nested_cv(
    labels: ArrayLike,
    candidates: int,
    fit_score: Callable[[int, Indices, Indices], float],
    *,
    outer: int = 5,
    inner: int = 2,
    one_standard_error: bool = False,
    seed: int = 0,
) -> Nested:
    """Nested cross-validation with stratified folds: select on inner folds, score on the outer fold.

    Args:
        labels: [n] classes, for stratification.
        candidates: their number; ordered from the simplest on if ``one_standard_error``.
        fit_score: (candidate, training items, test items) -> score, higher is better.
        one_standard_error: take the first candidate within one standard error of the best inner mean.

    Returns:
        The mean outer score with a t interval over the outer folds (rough: their training sets overlap).
    """
    truth = np.asarray(labels)
    if candidates < 1:
        raise DataError("nested_cv: no candidates to choose from")
    rng = np.random.default_rng(seed)
    scores, chosen = [], []
    for test in stratified_folds(truth, outer, rng):
        train = np.setdiff1d(np.arange(len(truth)), test)
        folds = [train[f] for f in stratified_folds(truth[train], inner, rng)]
        inner_scores = np.array([[fit_score(c, np.setdiff1d(train, f), f) for f in folds] for c in range(candidates)])
        chosen.append(_choose(inner_scores, one_standard_error))
        scores.append(fit_score(chosen[-1], train, test))
    return Nested(mean_interval(scores), scores, chosen)


def _choose(scores: NDArray[np.float64], one_standard_error: bool) -> int:
    means = scores.mean(1)
    best = int(means.argmax())
    if not one_standard_error or scores.shape[1] < 2:
        return best
    error = float(scores[best].std(ddof=1)) / math.sqrt(scores.shape[1])
    return int(np.flatnonzero(means >= means[best] - error)[0])


def stratified_folds(labels: ArrayLike, folds: int, rng: np.random.Generator) -> list[Indices]:
    """Splits item indices into ``folds`` sorted test sets in which every class has its share, up to one item.

    Raises:
        DataError: fewer items than folds, or fewer than two folds.
    """
    truth = np.asarray(labels)
    if not 2 <= folds <= len(truth):
        raise DataError(f"cannot split {len(truth)} items into {folds} folds; take between 2 and {len(truth)}")
    shuffled = rng.permutation(len(truth))
    by_class = shuffled[np.argsort(truth[shuffled], kind="stable")]
    return [np.sort(by_class[i::folds]) for i in range(folds)]
