"""Time to target: the budget at which each variant first reaches a quality, seed by seed.

The quality is watched while training (a train step's ``validate`` task) and counts from the first measurement that reaches it.
A seed that never does is censored: it lies above all it spent, stays in the median as infinite, and is marked. Two variants are
compared by the exact sign test over paired seeds, or by the log-rank test (by permutations, so that few seeds keep the level) where
one is censored.

The cost at that moment is all that the variant had spent, in the comparison's unit: its data steps (selection, scoring, synthesis) and
earlier training steps in full, and of the watched step what it took up to there. In seconds this is the time to accuracy with the
time of selecting in it.

Paper: algoperf — Benchmarking Neural Network Training Algorithms
Paper: rs2 — Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from whet.errors import RecipeError
from whet.measure.statistics import holm, log_rank
from whet.run.compare.jobs import Done, before
from whet.run.compare.spending import Spending


@dataclass(frozen=True)
class Reached:
    """One seed: the ``cost`` at which the target was reached (infinite: never), and the whole budget that it had."""

    seed: int
    cost: float
    budget: float


@dataclass(frozen=True)
class TargetVerdict:
    """Two variants' budgets to the target. ``ratio``: of the medians, second over first (``nan`` if neither reaches it)."""

    metric: str
    target: float
    unit: str
    first: str
    second: str
    first_reached: Sequence[Reached]
    second_reached: Sequence[Reached]
    ratio: float
    p: float
    test: str

    @property
    def censored(self) -> int:
        """Seeds of both that never reached it."""
        return sum(math.isinf(r.cost) for r in (*self.first_reached, *self.second_reached))


def time_to_target(
    target: tuple[str, float], arms: Mapping[str, tuple[Mapping[int, Done], Mapping[int, Spending]]], unit: str
) -> list[TargetVerdict]:
    """Judges every pair of variants.

    Args:
        target: the metric's name and its value.
        arms: variant -> its finished jobs and its spending, by seed.
        unit: what the budget is counted in.

    Raises:
        RecipeError: a variant was not watched while it trained, or for another metric.
    """
    reached = {
        name: [_reached(name, done[seed], spent[seed], seed, target, unit) for seed in done]
        for name, (done, spent) in arms.items()
    }
    return [_verdict(target, unit, a, b, reached[a], reached[b]) for a, b in itertools.combinations(reached, 2)]


def corrected(targets: Sequence[TargetVerdict], others: Sequence[float]) -> list[TargetVerdict]:
    """The verdicts with their p values Holm-corrected, the other tests of the report counted in."""
    adjusted = holm([*(t.p for t in targets), *others])
    return [replace(target, p=p) for target, p in zip(targets, adjusted)]


def first_reaching(points: Sequence[Mapping[str, Any]], target: tuple[str, float], unit: str) -> float:
    """What a run had spent when it was first seen to reach the target; infinite if it never was.

    Args:
        points: the measurements of a train step's ``validate`` task, see :func:`whet.train.watching.watcher`.
        target: the metric's name and its value.
        unit: of a budget, or ``step``.

    Raises:
        RecipeError: something else than the metric was measured.
    """
    from whet.measure.estimates import is_better_high

    metric, wanted = target
    sign = 1.0 if is_better_high(metric) else -1.0
    reached = (float(p[unit]) for p, value in zip(points, values_of(points, metric)) if sign * value >= sign * wanted)
    return next(reached, math.inf)


def values_of(points: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """The values of one metric.

    Raises:
        RecipeError: something else was measured.
    """
    if points and metric not in points[0]["estimates"]:
        watched = ", ".join(points[0]["estimates"])
        raise RecipeError(f"target: {metric!r} is none of what is watched while training: {watched}")
    return [float(point["estimates"][metric][0]) for point in points]


def _reached(name: str, done: Done, spent: Spending, seed: int, target: tuple[str, float], unit: str) -> Reached:
    watched = [(step, curves["validation"]) for step, curves in done.curves.items() if curves["validation"]]
    if not watched:
        raise RecipeError(
            f"compare.target: variant {name!r} is not watched while it trains; give its train step 'validate', a task on a "
            "validation split"
        )
    step, points = watched[-1]
    whole = next(s for s in done.steps if s.name == step)
    earlier = spent.of(unit) - whole.spent.of(unit) - _afterwards(done, step, unit)
    return Reached(seed, max(0.0, earlier) + first_reaching(points, target, unit), spent.of(unit))


def _afterwards(done: Done, step: str, unit: str) -> float:
    """What the judged model took after a step that it is made from, such as its calibration."""
    names = [s.name for s in done.steps]
    rest = [s for s in done.steps[names.index(step) + 1 :] if s.section not in ("measure", "export")]
    if not rest:
        return 0.0
    document = done.job.document
    judged = document["measure"][0]["models"][0]
    counted = before(document, judged) | {judged}
    return sum(s.spent.of(unit) for s in rest if s.name in counted and step in before(document, s.name))


def _verdict(
    target: tuple[str, float], unit: str, a: str, b: str, first: Sequence[Reached], second: Sequence[Reached]
) -> TargetVerdict:
    p, test = _test(first, second)
    medians = [median(r.cost for r in arm) for arm in (first, second)]
    ratio = medians[1] / medians[0] if math.isfinite(medians[0]) else (0.0 if math.isfinite(medians[1]) else math.nan)
    return TargetVerdict(target[0], target[1], unit, a, b, first, second, ratio, p, test)


def _test(first: Sequence[Reached], second: Sequence[Reached]) -> tuple[float, str]:
    from scipy import stats

    if any(math.isinf(r.cost) for r in (*first, *second)):
        if all(math.isinf(r.cost) for r in (*first, *second)):
            return 1.0, "log-rank, no seed reached it"
        times = [r.budget if math.isinf(r.cost) else r.cost for r in (*first, *second)]
        test = log_rank(times, [math.isfinite(r.cost) for r in (*first, *second)], len(first))
        return test.p, f"log-rank, {test.note}"
    by_seed = {r.seed: r.cost for r in first}
    signs = [math.copysign(1, r.cost - by_seed[r.seed]) for r in second if r.seed in by_seed and r.cost != by_seed[r.seed]]
    if not signs:
        return 1.0, "sign test, no difference"
    return float(stats.binomtest(sum(s > 0 for s in signs), len(signs)).pvalue), f"sign test over {len(signs)} seeds"
