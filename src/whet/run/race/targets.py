"""The target of a workload, set before the race by reference optimizers that do not take part for it.

Each of four optimizers is tried at the same points of a search space, the race's if it has one; the one run that comes nearest to
perfect on validation is repeated with new seeds, and the target is the median of the best values of these repetitions: a lucky run
does not set it. Trials, repetitions and the race's own studies all have seeds of their own.

Paper: algoperf — Benchmarking Neural Network Training Algorithms
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from whet.errors import WhetError
from whet.recipe_order import LONGEST_NAME
from whet.recipe_text import set_field
from whet.run.compare.jobs import Done, Job, document_for
from whet.run.compare.studies import best_value
from whet.run.compare.tuning import Range, points
from whet.run.race.plan import Plan, Workload

OPTIMIZERS = ("adamw", "nadamw", "nesterov", "heavy-ball")
TARGET_SEED = 200_000
"""Added to the race's seed for the trials; the repetitions have the next ones."""


@dataclass(frozen=True)
class Target:
    """A target and where it is from. ``best``: the best validation value of each reference optimizer; ``optimizer`` and
    ``values``: the run that was repeated; ``repeated``: the best value of each repetition. All empty where it was given.
    """

    metric: str
    value: float
    best: Mapping[str, float]
    optimizer: str = ""
    values: Mapping[str, Any] | None = None
    repeated: Sequence[float] = ()

    def __str__(self) -> str:
        return f"{self.metric}={self.value:.6g}"


def set_target(plan: Plan, workload: Workload, run: Callable[[Sequence[Job]], Sequence[Done]]) -> Target:
    """The target of a workload that has none: what the best of the reference optimizers reaches, run after run.

    Args:
        run: carries jobs out.

    Raises:
        WhetError: no run came to an end, or most of the repetitions did not.
    """
    from whet.measure.estimates import is_better_high

    seed, metric = plan.asked.seed + TARGET_SEED, workload.metric
    ranges = [Range.parse(f"train.{workload.step}.{path}", span) for path, span in plan.references.tune.items()]
    trials = [
        _job(plan, workload, name, seed, values)
        for name in OPTIMIZERS
        for values in points(ranges, plan.references.trials, seed=TARGET_SEED)
    ]
    done = run(trials)
    finished = [d for d in done if not d.error]
    if not finished:
        raise WhetError(f"workload {workload.name!r}: no run of a reference optimizer came to an end; the first: {done[0].error}")
    best_of = max if is_better_high(metric) else min
    winner = best_of(finished, key=lambda d: best_value(d, metric))
    again = [_job(plan, workload, winner.job.variant, seed + 1 + n, winner.job.values) for n in range(plan.references.reruns)]
    repeated = [best_value(d, metric) for d in run(again)]
    value = float(f"{median(repeated):.6g}")
    if not math.isfinite(value):
        raise WhetError(f"workload {workload.name!r}: {winner.job} was the best reference run, but most repetitions of it failed")
    best = {name: best_of(best_value(d, metric) for d in done if d.job.variant == name) for name in OPTIMIZERS}
    return Target(metric, value, best, winner.job.variant, winner.job.values, repeated)


def _job(plan: Plan, workload: Workload, optimizer: str, seed: int, values: Mapping[str, Any]) -> Job:
    document = set_field(workload.document, f"train.{workload.step}.optimizer", optimizer)
    for path, value in values.items():
        document = set_field(document, path, value)
    label = recipe_name(plan, workload, "target")
    return Job(optimizer, seed, document_for(document, workload.step, seed, label, validation=True), values)


def recipe_name(plan: Plan, workload: Workload, *more: str) -> str:
    """What the runs of a workload are called."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join([plan.name, workload.name, *more])).strip("-")[:LONGEST_NAME]
