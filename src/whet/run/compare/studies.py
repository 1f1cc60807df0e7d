"""Tuning as a part of what is timed: every seed is a study with trials of its own.

A quasi-random sequence of points is dealt out: the first ``trials`` points belong to the first seed, the next to the second. The
result of a study is its trial that reaches the target first, so a variant's time to the target is the median over studies of
the shortest over trials. If no trial reaches it, the study counts as never having done so, and its best trial stands for it.

Paper: algoperf — Benchmarking Neural Network Training Algorithms
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from whet.run.compare.jobs import Done
from whet.run.compare.target import first_reaching, values_of
from whet.run.compare.tuning import Range, points


def dealt(ranges: Sequence[Range], trials: int, seeds: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Seed -> the points of its trials; together they are the first points of one sequence."""
    every = points(ranges, trials * len(seeds))
    return {seed: every[number * trials : (number + 1) * trials] for number, seed in enumerate(seeds)}


def watched(done: Done) -> Sequence[Any]:
    """What the last train step that was watched has measured; empty for a run that failed."""
    return next((c["validation"] for c in reversed(list(done.curves.values())) if c["validation"]), ())


def best_value(done: Done, metric: str) -> float:
    """The best that a run was seen to reach at any time; the worst there is for one that failed."""
    from whet.measure.estimates import is_better_high

    high = is_better_high(metric)
    return (max if high else min)(values_of(watched(done), metric), default=-math.inf if high else math.inf)


def as_trial(done: Done, target: tuple[str, float], unit: str) -> dict[str, Any]:
    """A trial as the page lists it; its score is what it had spent when it reached the target."""
    score = None if done.error else first_reaching(watched(done), target, unit)
    return {"values": {**done.job.values, "seed": done.job.seed}, "score": score, "error": done.error}


def winner(trials: Sequence[Done], target: tuple[str, float], unit: str) -> Done:
    """The trial that reaches the target first, or else comes nearest to it."""
    from whet.measure.estimates import is_better_high

    sign = 1.0 if is_better_high(target[0]) else -1.0
    return min(trials, key=lambda done: (first_reaching(watched(done), target, unit), -sign * best_value(done, target[0])))
