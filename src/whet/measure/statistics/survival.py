"""The log-rank test of two arms' times, some of them censored: which arm gets there sooner.

At every time with an event, the events that the first arm had are set against those that it would have had by its share of what is
still under way; their sum over its root variance is the statistic. Its normal approximation calls three equal seeds in each arm
different twice as often as it should, so p comes from the permutations of the arms: all of them up to 10,000, else as many at random.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whet.errors import DataError
from whet.measure.statistics.result import Floats, TestResult, vector

PERMUTATIONS = 10_000


def log_rank(times: ArrayLike, reached: Sequence[bool], first: int, *, seed: int = 0) -> TestResult:
    """Two-sided p of the log-rank statistic over permutations of the arms.

    Args:
        times: [n] when each unit got there, or until when it was watched, those of the first arm in front.
        reached: [n] whether it got there.
        first: how many units are of the first arm.
        seed: of random permutations.

    Returns:
        ``statistic`` is the first arm's events beyond those expected, over their standard deviation: above 0 it is the sooner.

    Raises:
        DataError: an arm without units, a time that is not finite, or lists of different lengths.
    """
    at = vector(times, "log_rank", least=2)
    if len(reached) != len(at) or not 0 < first < len(at):
        raise DataError(f"log_rank: {len(at)} times, {len(reached)} marks, {first} of the first arm; each arm needs units")
    scores, spread = _scores(at, np.asarray(reached, dtype=bool), first)
    observed = float(scores[:first].sum())
    if spread == 0 or not scores.any():
        return TestResult("log-rank", 0.0, 1.0, None, None, None, len(at), "nothing tells the arms apart")
    draws, exact = _arms(len(at), first, seed)
    as_far = np.abs(scores[draws].sum(1)) >= abs(observed) - 1e-9
    p = float(as_far.mean()) if exact else (1 + int(as_far.sum())) / (1 + len(draws))
    note = f"exact over {len(draws)} permutations" if exact else f"{len(draws)} random permutations, seed {seed}"
    return TestResult("log-rank", observed / spread, p, None, None, None, len(at), note)


def _scores(times: Floats, reached: NDArray[np.bool_], first: int) -> tuple[Floats, float]:
    """What each unit adds to its arm's events beyond those expected, and the standard deviation of the first arm's sum."""
    scores, variance = reached.astype(np.float64), 0.0
    for time in np.unique(times[reached]):
        under_way = times >= time
        n, events, of_first = int(under_way.sum()), int((reached & (times == time)).sum()), int(under_way[:first].sum())
        scores[under_way] -= events / n
        variance += events * of_first / n * (1 - of_first / n) * (n - events) / max(1, n - 1)
    return scores, math.sqrt(variance)


def _arms(units: int, first: int, seed: int) -> tuple[NDArray[np.int64], bool]:
    """Which units the first arm has, [permutations, first], and whether these are all."""
    if math.comb(units, first) <= PERMUTATIONS:
        return np.array(list(itertools.combinations(range(units), first))), True
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(units), (PERMUTATIONS, 1)), axis=1)[:, :first], False
