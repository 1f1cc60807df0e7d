"""The judge of a race: time to target by workload, and from it scores, speed-ups and who is faster than whom.

The time of an algorithm on a workload is the median over studies of the shortest over the trials of a study; a trial that never
reaches the target, or fails, is infinite and takes part. With ``strict_variants`` an algorithm that misses the target of a
variant has lost the workload that it is a variant of. Only workloads count for the scores, their variants do not.

Paper: algoperf — Benchmarking Neural Network Training Algorithms
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from whet.measure.statistics import SpeedUp, TestResult, holm, performance_profile, sign_test, speed_up
from whet.run.compare.arms import Arm
from whet.run.compare.studies import watched
from whet.run.compare.target import first_reaching
from whet.run.race.plan import Plan, Workload
from whet.run.race.targets import Target


@dataclass(frozen=True)
class Course:
    """One workload or variant as it was run. ``studies``: algorithm -> the time of each study; ``seconds``: the same in seconds
    of training, of whichever machine it was. ``comparison``: the id of what the ledger keeps of it.
    """

    workload: Workload
    target: Target
    comparison: str
    studies: Mapping[str, Sequence[float]]
    seconds: Mapping[str, Sequence[float]]

    @property
    def times(self) -> dict[str, float]:
        """Algorithm -> its time."""
        return {name: median(studies) for name, studies in self.studies.items()}

    @property
    def order(self) -> dict[str, int]:
        """Algorithm -> its rank, 1 for the fastest; equal times share one."""
        return {name: 1 + sum(other < time for other in self.times.values()) for name, time in self.times.items()}


@dataclass(frozen=True)
class Standing:
    """The outcome. ``counted``: algorithm -> its times on ``workloads`` after the rule of variants; ``lost``: which it lost by
    that rule. ``tests``: pairs of algorithms, their p Holm-corrected.
    """

    workloads: Sequence[str]
    counted: Mapping[str, Sequence[float]]
    lost: Mapping[str, Sequence[str]]
    scores: Mapping[str, float]
    speed_ups: Mapping[str, SpeedUp]
    tests: Mapping[tuple[str, str], TestResult]

    @property
    def winners(self) -> dict[str, list[str]]:
        """Workload -> the fastest algorithms there; none if all missed."""
        found = {}
        for name, column in zip(self.workloads, zip(*self.counted.values())):
            best = min(column)
            found[name] = [a for a, time in zip(self.counted, column) if time == best and math.isfinite(best)]
        return found


def study_times(arm: Arm, target: Target, seeds: Sequence[int], clock: str) -> list[float]:
    """The time of each study of an algorithm: that of its trial which reaches the target first."""
    goal, unit = (target.metric, target.value), "step" if clock == "steps" else clock
    return [
        min((first_reaching(watched(done), goal, unit) for done in arm.studies.get(seed, ())), default=math.inf) for seed in seeds
    ]


def judge(plan: Plan, courses: Sequence[Course]) -> Standing:
    """The outcome of a race that was run."""
    bases = [course for course in courses if not course.workload.variant_of]
    names = list(plan.asked.algorithms)
    lost = {name: [b.workload.name for b in bases if _loses(name, b, courses, plan.asked.strict_variants)] for name in names}
    counted = {name: [math.inf if b.workload.name in lost[name] else b.times[name] for b in bases] for name in names}
    pairs = list(itertools.combinations(names, 2))
    tests = [sign_test(counted, *pair) for pair in pairs]
    return Standing(
        workloads=[b.workload.name for b in bases],
        counted=counted,
        lost=lost,
        scores=performance_profile(counted),
        speed_ups={name: speed_up(counted, name, plan.reference) for name in names if name != plan.reference},
        tests={pair: replace(test, p=p) for pair, test, p in zip(pairs, tests, holm([test.p for test in tests]))},
    )


def _loses(name: str, base: Course, courses: Sequence[Course], strict: bool) -> bool:
    """Whether the rule of variants takes a workload that the algorithm would have from it."""
    variants = [course for course in courses if course.workload.variant_of == base.workload.name]
    missed = any(math.isinf(variant.times[name]) for variant in variants)
    return strict and missed and math.isfinite(base.times[name])
