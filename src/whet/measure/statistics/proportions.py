"""Shares of right answers: their intervals, paired tests of two or more arms, and what a run of n items could detect.

A share k/n gets Wilson's interval (or the exact one of Clopper and Pearson), never the normal one. Two arms on the same
items rest on their discordant pairs alone: b items only the first arm gets right, c items only the second.

Paper: model-evaluation — Model Evaluation, Model Selection, and Algorithm Selection in Machine Learning
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from whet.errors import DataError
from whet.measure.outcome import Estimate
from whet.measure.statistics.result import Floats, TestResult, pair, quantile_z, right_or_wrong, table


def wilson(successes: float, n: float, confidence: float = 0.95) -> Estimate:
    """Share of successes with Wilson's score interval. Stays inside [0, 1] and has a width at 0 and at n.

    Raises:
        DataError: ``n`` is not positive or ``successes`` lies outside [0, n].
    """
    _check_share(successes, n)
    z2 = quantile_z(confidence) ** 2
    share = successes / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return Estimate(share, low, high, int(n), "wilson")


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Share of successes with the exact (conservative) binomial interval.

    Raises:
        DataError: ``n`` is not positive or ``successes`` lies outside [0, n].
    """
    _check_share(successes, n)
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(confidence, method="exact")
    return Estimate(successes / n, float(interval.low), float(interval.high), int(n), "clopper-pearson")


def _check_share(successes: float, n: float) -> None:
    if n <= 0:
        raise DataError(f"a share needs items: n is {n}")
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes among {n} items: expected a number between 0 and {n}")


def discordant(first: ArrayLike, second: ArrayLike) -> tuple[int, int, int, int]:
    """Counts over items of two 0/1 vectors: (both right, only the first, only the second, both wrong).

    Raises:
        DataError: different lengths, or values other than 0 and 1.
    """
    a, b = pair(first, second, "comparing right and wrong answers")
    x, y = right_or_wrong(a, "first arm"), right_or_wrong(b, "second arm")
    return int((x & y).sum()), int((x & ~y).sum()), int((~x & y).sum()), int((~x & ~y).sum())


def newcombe(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Difference of two shares on the same items, first minus second, with Newcombe's paired hybrid-score interval.

    Wilson's two intervals are combined with the correlation phi of the pairs, which is continuity-corrected when positive
    (method 10 of Newcombe 1998).
    """
    both, b, c, neither = discordant(first, second)
    n = both + b + c + neither
    one, two = wilson(both + b, n, confidence), wilson(both + c, n, confidence)
    phi = _phi(both, b, c, neither)
    difference = (b - c) / n
    down1, up1, down2, up2 = one.value - one.low, one.high - one.value, two.value - two.low, two.high - two.value
    low = difference - math.sqrt(max(0.0, down1**2 - 2 * phi * down1 * up2 + up2**2))
    high = difference + math.sqrt(max(0.0, down2**2 - 2 * phi * down2 * up1 + up1**2))
    return Estimate(difference, max(-1.0, low), min(1.0, high), n, "newcombe")


def _phi(both: int, b: int, c: int, neither: int) -> float:
    spread = math.sqrt((both + b) * (c + neither) * (both + c) * (b + neither))
    if spread == 0:
        return 0.0
    product = both * neither - b * c
    if product > 0:
        return max(product - (both + b + c + neither) / 2, 0.0) / spread
    return product / spread


def mcnemar(first: ArrayLike, second: ArrayLike, exact: bool | None = None, confidence: float = 0.95) -> TestResult:
    """McNemar's test of two 0/1 vectors over the same items.

    The exact binomial test on the discordant pairs when there are fewer than 25, else chi-square with continuity
    correction (|b - c| - 1)^2 / (b + c); ``exact`` overrides. No discordant pair gives p = 1, and the note says so.
    The effect is the difference of accuracies, first minus second, with Newcombe's interval.
    """
    _, b, c, _ = discordant(first, second)
    interval = newcombe(first, second, confidence)
    use_exact = b + c < 25 if exact is None else exact
    odds = (
        f"only the first right {b}, only the second {c}, odds ratio {b / c:.3g}"
        if c
        else f"only the first right {b}, only the second 0"
    )
    if b + c == 0:
        statistic, p, how = 0.0, 1.0, "no discordant pair: the arms agree on every item, p = 1 by definition"
    elif use_exact:
        statistic, p, how = float(min(b, c)), float(stats.binomtest(b, b + c).pvalue), "exact binomial on the discordant pairs"
    else:
        statistic = max(abs(b - c) - 1.0, 0.0) ** 2 / (b + c)
        p, how = float(special.chdtrc(1, statistic)), "chi-square with continuity correction"
    return TestResult("mcnemar", statistic, p, interval.value, interval.low, interval.high, interval.n, f"{how}; {odds}")


def cochran_q(correct: ArrayLike) -> TestResult:
    """Cochran's Q: do M models [M, items] of 0/1 have the same accuracy on the same items? Follow it by pairs with ``holm``.

    Q = (M-1) (M sum_j G_j^2 - T^2) / (M T - sum_i M_i^2), chi-square with M-1 degrees of freedom; G_j are the models'
    totals, M_i the items'. With two models it is McNemar's chi-square without correction.

    Raises:
        DataError: fewer than two models, rows of different lengths, values other than 0 and 1.
    """
    rows = table(correct, "cochran_q")
    right_or_wrong(rows.ravel(), "cochran_q")
    models, items = rows.shape
    if models < 2:
        raise DataError(f"cochran_q compares models: got {models}, needs at least 2")
    of_model, of_item, total = rows.sum(1), rows.sum(0), rows.sum()
    below = models * total - (of_item**2).sum()
    if below == 0:
        return TestResult("cochran-q", 0.0, 1.0, None, None, None, items, "all models agree on every item: p = 1 by definition")
    statistic = (models - 1) * (models * (of_model**2).sum() - total**2) / below
    return TestResult(
        "cochran-q", float(statistic), float(special.chdtrc(models - 1, statistic)), None, None, None, items, f"{models} models"
    )


def paired_sample_size(effect: float, discordant_share: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Items needed for McNemar's test to find a difference ``effect`` of two accuracies with the given power.

    n = (z_a sqrt(s) + z_p sqrt(s - d^2))^2 / d^2 with s the share of discordant items (Connor 1987).

    Raises:
        DataError: effect 0, or larger than the discordant share allows.
    """
    size = abs(effect)
    if not 0 < size <= discordant_share <= 1:
        raise DataError(f"effect {effect} with discordant share {discordant_share}: needs 0 < |effect| <= share <= 1")
    z_alpha, z_power = quantile_z(1 - alpha), float(special.ndtri(power))
    return math.ceil(((z_alpha * math.sqrt(discordant_share) + z_power * math.sqrt(discordant_share - size**2)) / size) ** 2)


def paired_power(effect: float, discordant_share: float, n: int, alpha: float = 0.05) -> float:
    """Chance that McNemar's test over ``n`` items finds a true difference ``effect`` (normal approximation)."""
    size = abs(effect)
    if not 0 < size <= discordant_share <= 1:
        raise DataError(f"effect {effect} with discordant share {discordant_share}: needs 0 < |effect| <= share <= 1")
    spread = math.sqrt(max(discordant_share - size**2, 1e-12))
    return float(special.ndtr((size * math.sqrt(n) - quantile_z(1 - alpha) * math.sqrt(discordant_share)) / spread))


def detectable_difference(n: int, discordant_share: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest difference of two accuracies on the same ``n`` items that McNemar's test finds with the given power.

    ``discordant_share`` in (0, 1] is the expected share of items on which the arms differ. Returns ``inf`` if not even all
    discordant items falling one way would suffice.
    """
    if n <= 0 or not 0 < discordant_share <= 1:
        raise DataError(f"detectable_difference: needs n > 0 and a discordant share in (0, 1], got {n} and {discordant_share}")
    if paired_power(discordant_share, discordant_share, n, alpha) < power:
        return math.inf
    return float(optimize.brentq(lambda d: paired_power(d, discordant_share, n, alpha) - power, 1e-9, discordant_share))


def sparse(first: Floats, second: Floats) -> bool:
    """Whether two arms' scores lie in [0, 1] and are the same more often than not. Then one more item on which they differ can
    change the mean by much more than the spread of the differences that were seen lets expect.
    """
    scores = np.stack([first, second])
    return bool(scores.min() >= 0 and scores.max() <= 1 and np.mean(first == second) > 0.5)


def equality_floor(size: float, margin: float, items: int) -> float:
    """The least p that equality within ``margin`` may have over items with :func:`sparse` scores.

    It is that of the exact binomial test for the case in which the variance sees least, all differences of one sign: the chance
    of at most ``size * items`` of them if their share were ``margin``, so ``(1 - margin)^items`` where none was seen.
    """
    seen = size * items
    if seen >= items or margin <= 0:
        return 1.0
    return float(special.betainc(items - seen, seen + 1, 1 - margin)) if margin < 1 else 0.0


def unseen_share(items: int, confidence: float = 0.95) -> float:
    """The largest share of items that differ otherwise, if none of ``items`` did (exact, ``(1 - confidence) / 2`` at each side)."""
    return 1.0 - float(((1 - confidence) / 2) ** (1 / items))


def detectable_mean_difference(deviation: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest mean difference that a paired t test over ``n`` units (items or seeds) finds with the given power.

    ``deviation`` is the standard deviation of the paired differences. Uses the noncentral t distribution.

    Raises:
        DataError: fewer than two units.
    """
    if n < 2:
        raise DataError(f"detectable_mean_difference: needs at least 2 units, got {n}")
    critical = float(special.stdtrit(n - 1, 1 - alpha / 2))

    def missing(shift: float) -> float:
        return 1.0 - float(np.nan_to_num(special.nctdtr(n - 1, shift, critical))) - power

    return float(optimize.brentq(missing, 0.0, 4 * critical + 20)) * deviation / math.sqrt(n)
