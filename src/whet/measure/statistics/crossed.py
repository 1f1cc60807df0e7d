"""Two arms trained at several seeds and scored on the same items: seeds and items are both random.

A plain t test over seed means forgets that all seeds share the items: where the arms differ on some items by nature, it calls
equal arms different up to three times too often. Here the variance of the mean difference has both parts. With differences
``d[s, i]`` of S seeds on I items, mean squares of seeds, items and remainder (two-way analysis of variance),

    variance of the mean = max(A + B - E, A, B) / (S I),   A = max(MS_seeds, MS_rest), B = MS_items, E = MS_rest

and the mean over its root is referred to a t distribution whose degrees of freedom follow Satterthwaite. In simulations with two
identical learners, seeds varying or not, it stayed at or below its level (tests/measure/test_crossed.py repeats that).

Where right-or-wrong scores differ on hardly any item, the spread that is seen says little of the spread that there is: that nothing
differed on 8 items does not show that nothing differs. What is said of equality then rests on counts too
(:func:`whet.measure.statistics.equality_floor`), and what is said of power on the spread that a difference brings with it,

    d = c sqrt(V + max(0, d - s) / I),   c standard errors to be found, V the variance of the mean, s the share of items that differ.

Paper: model-evaluation — Model Evaluation, Model Selection, and Algorithm Selection in Machine Learning
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from whet.errors import DataError
from whet.measure.statistics.proportions import equality_floor, sparse, unseen_share
from whet.measure.statistics.result import Floats, TestResult, group_ids, probability, table


@dataclass(frozen=True)
class Crossed:
    """The test, and what its power follows from: the ``standard_error`` of the mean and its degrees of ``freedom``.

    ``counted``: of ``sparse`` scores (see :func:`whet.measure.statistics.sparse`) how many items there are and how many differ at any
    seed, else ``None``.
    """

    test: TestResult
    standard_error: float
    freedom: float
    counted: tuple[int, int] | None = None

    def detectable(self, power: float = 0.8, alpha: float = 0.05) -> float:
        """The smallest true difference that such seeds and items show with this power at this level; ``inf``: none."""
        by_spread = self.standard_error * detectable_shift(self.freedom, power, alpha) if self.standard_error else 0.0
        if self.counted is None:
            return by_spread
        return max(by_spread, self._with_own_spread(*self.counted, power, alpha))

    def _with_own_spread(self, items: int, differing: int, power: float, alpha: float) -> float:
        """The difference that is found although it makes further items differ; 0 if none need to, ``inf`` if it is over 1."""
        shift, share = detectable_shift(items - 1, power, alpha) ** 2, differing / items
        inside = shift**2 - 4 * items * shift * (share - items * self.standard_error**2)
        found = (shift + math.sqrt(inside)) / (2 * items) if inside >= 0 else 0.0
        return 0.0 if found <= share else found if found <= 1 else math.inf

    def half_width(self, confidence: float = 0.95) -> float:
        """Half the interval of the mean at this confidence."""
        return float(special.stdtrit(self.freedom, 0.5 + confidence / 2)) * self.standard_error

    def lies_within(self, margin: float) -> float:
        """p of two one-sided tests: small if the difference surely lies inside plus or minus ``margin``."""
        size = abs(self.test.effect or 0.0)
        floor = equality_floor(size, margin, self.counted[0]) if self.counted else 0.0
        if self.standard_error == 0:
            return floor if size < margin else 1.0
        return max(floor, probability(float(special.stdtr(self.freedom, -(margin - size) / self.standard_error))))


def crossed_t(first: ArrayLike, second: ArrayLike, groups: Sequence[object] | None = None, confidence: float = 0.95) -> Crossed:
    """Tests whether two arms differ over seeds and items.

    Args:
        first, second: [S, I] score of each arm at seed s on item i; S and I at least 2; the same items in the same order.
        groups: the document of each item, where items belong together; documents then take the place of items.
        confidence: of the interval.

    Raises:
        DataError: shapes differ, too few seeds or items, or a value that is not finite.
    """
    a, b = table(first, "crossed_t, first arm"), table(second, "crossed_t, second arm")
    if a.shape != b.shape or min(a.shape) < 2:
        raise DataError(
            f"crossed_t: needs two tables of the same shape, at least 2 seeds by 2 items, got {a.shape} and {b.shape}"
        )
    d = by_document(a - b, groups)
    seeds, items = d.shape
    counted = (items, int((d != 0).any(0).sum())) if sparse(a, b) else None
    variance, freedom = _variance(d)
    mean, error = float(d.mean()), math.sqrt(variance)
    note = f"{seeds} seeds by {items} items, {freedom:.1f} degrees of freedom"
    if error <= 1e-15 * max(1.0, abs(mean)):
        # As by flips of the items' signs: equal differences on few items can come about by chance.
        p, statistic = (1.0, 0.0) if mean == 0 else (2.0 ** (1 - items), math.copysign(math.inf, mean))
        off = unseen_share(items, confidence) if counted else 0.0
        test = TestResult("crossed-t", statistic, p, mean, mean - off, mean + off, seeds, f"{note}; no variation")
        return Crossed(test, 0.0, freedom, counted)
    half = float(special.stdtrit(freedom, 0.5 + confidence / 2)) * error
    p = probability(2 * float(special.stdtr(freedom, -abs(mean / error))))
    return Crossed(TestResult("crossed-t", mean / error, p, mean, mean - half, mean + half, seeds, note), error, freedom, counted)


def detectable_shift(freedom: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """How many standard errors a true difference must be to be found with this power by a two-sided t test."""
    critical = float(special.stdtrit(freedom, 1 - alpha / 2))

    def missing(shift: float) -> float:
        return 1.0 - float(np.nan_to_num(special.nctdtr(freedom, shift, critical))) - power

    return float(optimize.brentq(missing, 0.0, 4 * critical + 20))


def by_document(d: Floats, groups: Sequence[object] | None) -> Floats:
    """Scores [S, I] summed over each document, scaled so that the mean over documents is the mean over items; ``None``: as they are."""
    if groups is None:
        return d
    ids = group_ids(groups, d.shape[1], "crossed_t")
    count = int(ids.max()) + 1
    if count < 2:
        raise DataError("crossed_t: all items are of one document; at least two are needed")
    sums = np.stack([np.bincount(ids, weights=row, minlength=count) for row in d])
    return sums * (count / d.shape[1])


def _variance(d: Floats) -> tuple[float, float]:
    """Of the grand mean, and Satterthwaite's degrees of freedom."""
    seeds, items = d.shape
    by_seed, by_item, mean = d.mean(1), d.mean(0), d.mean()
    rest = float(((d - by_seed[:, None] - by_item + mean) ** 2).sum()) / ((seeds - 1) * (items - 1))
    of_items = seeds * float(by_item.var(ddof=1))
    of_seeds = max(items * float(by_seed.var(ddof=1)), rest)
    total = max(of_seeds + of_items - rest, of_seeds, of_items)
    if total == 0:
        return 0.0, float(seeds - 1)
    uncertainty = of_seeds**2 / (seeds - 1) + of_items**2 / (items - 1) + rest**2 / ((seeds - 1) * (items - 1))
    return total / (seeds * items), total**2 / uncertainty
