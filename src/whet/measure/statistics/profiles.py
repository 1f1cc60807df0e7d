"""Which of several contenders is fastest over several workloads: performance profiles of the time that each needs to a target.

``times``: contender -> its time on each workload, in the same order for all; infinite where the target was not reached. With the
ratio to the best on workload w, ``r(s, w) = t(s, w) / min_s t(s, w)``, a contender's profile is the share of workloads on which
it is no slower than ``x`` times the best, and its score the mean height of that curve between 1 and ``limit``:

    profile_s(x) = share of w with r(s, w) <= x,      score_s = 1/(limit - 1) * integral from 1 to limit of profile_s(x) dx

which is exactly the mean over workloads of ``max(0, (limit - r) / (limit - 1))``. 1: always the fastest; 0: never within ``limit``
times the best. The unit of time of a workload cancels. Scores depend on who else takes part; few workloads give coarse profiles.

Default: ``limit`` 4, AlgoPerf's ``r_max``.

Paper: algoperf — Benchmarking Neural Network Training Algorithms
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whet.errors import DataError, unknown
from whet.measure.statistics.resampling import bca_bootstrap
from whet.measure.statistics.result import TestResult

RATIO_LIMIT = 4.0
"""``r_max``: a contender that needs this many times the best one's time scores 0 on that workload."""

Times = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class SpeedUp:
    """How many times faster a contender is than another: the geometric mean over the ``n`` workloads that both reach, with its
    95% interval over workloads (``nan`` for fewer than 2; with no workload all are). ``missed``, ``other_missed``: workloads
    that only this one, or only the other, does not reach; they are not part of the mean.
    """

    value: float
    low: float
    high: float
    n: int
    missed: int
    other_missed: int


def ratios(times: Times) -> dict[str, list[float]]:
    """Each contender's time over the best one's, by workload; infinite where it missed.

    Raises:
        DataError: no contender, different numbers of workloads, or a time that is not above 0.
    """
    _refuse_odd(times)
    best = [min(column) for column in zip(*times.values())]
    return {name: [t / b if math.isfinite(t) else math.inf for t, b in zip(mine, best)] for name, mine in times.items()}


def profile(of: Sequence[float], at: Sequence[float]) -> list[float]:
    """The height of one contender's profile at each ``x`` of ``at``, from its :func:`ratios`."""
    return [sum(r <= x for r in of) / len(of) for x in at]


def performance_profile(times: Times, limit: float = RATIO_LIMIT) -> dict[str, float]:
    """The score of each contender, between 0 and 1.

    >>> performance_profile({"a": [1.0, 2.0], "b": [2.0, math.inf]})
    {'a': 1.0, 'b': 0.3333333333333333}
    """
    if not limit > 1:
        raise DataError(f"limit {limit}: a ratio to the best is 1 or more, so the limit must be above 1, such as 4")
    found = ratios(times)
    return {name: sum(max(0.0, (limit - r) / (limit - 1)) for r in mine) / len(mine) for name, mine in found.items()}


def speed_up(times: Times, contender: str, reference: str, seed: int = 0) -> SpeedUp:
    """How many times faster a contender is than the reference; the interval is a bootstrap over workloads (BCa, see
    :func:`whet.measure.statistics.bca_bootstrap`), which for few workloads is too narrow.
    """
    mine, other = _two(times, contender, reference)
    logs = [math.log(b / a) for a, b in zip(mine, other) if math.isfinite(a) and math.isfinite(b)]
    low = high = math.nan
    if len(logs) > 1:
        interval = bca_bootstrap(logs, seed=seed)
        low, high = math.exp(interval.low), math.exp(interval.high)
    return SpeedUp(
        value=math.exp(float(np.mean(logs))) if logs else math.nan,
        low=low,
        high=high,
        n=len(logs),
        missed=sum(math.isinf(a) and math.isfinite(b) for a, b in zip(mine, other)),
        other_missed=sum(math.isfinite(a) and math.isinf(b) for a, b in zip(mine, other)),
    )


def sign_test(times: Times, first: str, second: str) -> TestResult:
    """Exact two-sided sign test on the log ratios of two contenders' times over workloads: which is faster more often.

    A workload that one of them misses counts for the other; ties, and workloads that both miss, count for none. ``statistic`` is
    the number of workloads that ``first`` wins, of ``n``. The smallest p that n workloads can give is ``2^(1 - n)``.
    """
    from scipy import stats

    mine, other = _two(times, first, second)
    wins = sum(a < b for a, b in zip(mine, other))
    n = wins + sum(a > b for a, b in zip(mine, other))
    p = float(stats.binomtest(wins, n).pvalue) if n else 1.0
    note = f"over {n} workloads" + (f", {len(mine) - n} without a difference left out" if n < len(mine) else "")
    return TestResult("sign test", float(wins), p, None, None, None, n, note)


def _two(times: Times, first: str, second: str) -> tuple[Sequence[float], Sequence[float]]:
    _refuse_odd(times)
    for name in (first, second):
        if name not in times:
            raise DataError(unknown("contender", name, times))
    return times[first], times[second]


def _refuse_odd(times: Times) -> None:
    lengths = {len(mine) for mine in times.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(f"times: every contender needs one time for each workload; got {sorted(lengths) or 'no contenders'}")
    for name, mine in times.items():
        for number, time in enumerate(mine):
            if not time > 0:
                raise DataError(f"times: {name!r} has {time} on workload {number}; expected a time above 0, infinite for a miss")
