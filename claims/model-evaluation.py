"""How often does each test see a difference between two learners that are equally good, and how far off is a hold-out score?

Two nearest-centroid learners on disjoint features of the same strength: whatever difference a test reports is false. The tests
are whet's; the plain t tests, the 5x2 t and the z test are the wrong or older choices that they are to be compared with.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from _report import gap, row, show
from numpy.typing import NDArray
from scipy import stats

from whet.measure.statistics import (
    bootstrap_632plus,
    corrected_resampled_t,
    five_by_two_cv_f,
    mcnemar,
    paired_t,
    stratified_folds,
    wilson,
)

SEEDS, SIMULATIONS, ITEMS, LEVEL = range(5), 1000, 200, 0.05
FEATURES, SHIFT, SPLITS = 5, 0.3, 30
SMALL, SMALL_SIMULATIONS, REPLICATES, UNSEEN = 40, 200, 100, 4000
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def sample(rng: np.random.Generator, items: int) -> tuple[Floats, Indices]:
    """Two balanced classes; every feature is normal with mean +-SHIFT. Learner 0 sees the first half of them, learner 1 the rest."""
    labels = rng.permutation(np.arange(items) % 2)
    return rng.standard_normal((items, 2 * FEATURES)) + SHIFT * (2 * labels[:, None] - 1), labels


def predict(features: Floats, labels: Indices, train: Indices, test: Indices) -> Indices:
    """Nearest centroid."""
    inner, classes = features[train], labels[train]
    zero, one = inner[classes == 0].mean(0), inner[classes == 1].mean(0)
    return (features[test] @ (one - zero) > (one @ one - zero @ zero) / 2).astype(np.int64)


def right(x: Floats, y: Indices, train: Indices, test: Indices) -> Floats:
    """Whether each learner is right on each test item: 0/1 [2, test]."""
    both = [predict(half, y, train, test) == y[test] for half in (x[:, :FEATURES], x[:, FEATURES:])]
    return np.array(both, dtype=np.float64)


def folds(x: Floats, y: Indices, count: int, rng: np.random.Generator) -> Floats:
    """Accuracies of the two learners on each fold: [2, folds]."""
    everyone = np.arange(len(y))
    return np.array([right(x, y, np.setdiff1d(everyone, f), f).mean(1) for f in stratified_folds(y, count, rng)]).T


def p_values(rng: np.random.Generator) -> dict[str, float]:
    """The p of every test on one data set."""
    x, y = sample(rng, ITEMS)
    cut = ITEMS // 3
    orders = [rng.permutation(ITEMS) for _ in range(SPLITS)]
    splits = np.array([right(x, y, o[cut:], o[:cut]).mean(1) for o in orders]).T
    ten = folds(x, y, 10, rng)
    halves = np.array([np.subtract(*folds(x, y, 2, rng)) for _ in range(5)])
    t = halves[0, 0] / max(np.sqrt(halves.var(1, ddof=1).mean()), 1e-12)
    held = right(x, y, orders[0][cut:], orders[0][:cut])
    share = held.mean()
    z = np.subtract(*held.mean(1)) / max(np.sqrt(2 * share * (1 - share) / cut), 1e-12)
    return {
        "resampled paired t": paired_t(*splits).p,
        "corrected resampled t": corrected_resampled_t(splits[0] - splits[1], ITEMS - cut, cut).p,
        "10-fold t": paired_t(*ten).p,
        "5x2 t": float(2 * stats.t.sf(abs(t), 5)),
        "5x2 F": five_by_two_cv_f(halves).p,
        "McNemar on a hold-out": mcnemar(*held).p,
        "two-proportion z on a hold-out": float(2 * stats.norm.sf(abs(z))),
    }


def errors(rng: np.random.Generator) -> dict[str, float]:
    """How far two estimates from ``SMALL`` items are from the accuracy of the learner that is trained on all of them."""
    x, y = sample(rng, SMALL + UNSEEN)
    own, unseen = np.arange(SMALL), np.arange(SMALL, SMALL + UNSEEN)
    true = float(np.mean(predict(x, y, own, unseen) == y[unseen]))
    cut = SMALL // 3
    hold_out = float(np.mean(predict(x, y, own[cut:], own[:cut]) == y[:cut]))
    bootstrap = bootstrap_632plus(y[:SMALL], partial(predict, x, y), resamples=REPLICATES)
    return {"hold-out": abs(hold_out - true), ".632+": abs(bootstrap.value - true)}


def main() -> None:
    simulated = [[p_values(np.random.default_rng([seed, i])) for i in range(SIMULATIONS)] for seed in SEEDS]
    rows = []
    for name in simulated[0][0]:
        rates = [sum(p[name] < LEVEL for p in one) / SIMULATIONS for one in simulated]
        pooled = wilson(sum(rates) * SIMULATIONS, SIMULATIONS * len(rates))
        rows.append({**row(f"false positives: {name}", rates), "interval": [round(pooled.low, 4), round(pooled.high, 4)]})
    off = [[errors(np.random.default_rng([seed, i, 1])) for i in range(SMALL_SIMULATIONS)] for seed in SEEDS]
    means = {name: [sum(e[name] for e in one) / SMALL_SIMULATIONS for one in off] for name in ("hold-out", ".632+")}
    arms = [row(f"absolute error of the estimate, 40 items: {name}", values) for name, values in means.items()]
    show([*rows, *arms, gap("absolute error: hold-out minus .632+", means["hold-out"], means[".632+"])])


if __name__ == "__main__":
    main()
