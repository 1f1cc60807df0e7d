"""The judge of a race: time to target by workload, and from it scores, speed-ups and who is faster than whom.

The time of an algorithm on a workload is the median over studies. A study's time is the shortest over its trials, or by the
self-tuning ruleset that of its attempts in turn: of the first that reaches the target, with all that those before it took. A study
that never reaches the target, or fails, is infinite and takes part. With ``strict_variants`` an algorithm that misses the target of a
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
from whet.run.compare.jobs import Done
from whet.run.compare.studies import watched
from whet.run.compare.target import first_reaching
from whet.run.race.plan import Plan, Workload
from whet.run.race.targets import Target


@dataclass(frozen=True)
class Course:
    """One workload or variant as it was run. ``studies``: algorithm -> the time of each study; ``others``: the same by the
    race's other clocks. ``comparison``: the id of what the ledger keeps of it.
    """

    workload: Workload
    target: Target
    comparison: str
    studies: Mapping[str, Sequence[float]]
    others: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def times(self) -> dict[str, float]:
        """Algorithm -> its time."""
        return {name: median(studies) for name, studies in self.studies.items()}

    def by(self, clock: str) -> Course:
        """The same with another of its clocks deciding."""
        return replace(self, studies=self.others[clock])

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


def times_by(clock: str, plan: Plan, arms: Mapping[str, Arm], target: Target) -> dict[str, list[float]]:
    """Algorithm -> the time of each study of it on a workload.

    Args:
        arms: the variants of the workload's comparison, as they were run.
    """
    take = run_times if plan.asked.self_tuning else study_times
    return {name: take([arms[entry] for entry in entries], target, plan.seeds, clock) for name, entries in plan.entries.items()}


def study_times(arms: Sequence[Arm], target: Target, seeds: Sequence[int], clock: str) -> list[float]:
    """External tuning: the time of each study, that of its trial which reaches the target first."""
    return [
        min((reached(done, target, clock)[0] for arm in arms for done in arm.studies.get(seed, ())), default=math.inf)
        for seed in seeds
    ]


def run_times(arms: Sequence[Arm], target: Target, seeds: Sequence[int], clock: str) -> list[float]:
    """Self-tuning: the time of each run, whose attempts, one for each arm, are made in turn."""
    return [in_turn([reached(arm.done.get(seed), target, clock) for arm in arms]) for seed in seeds]


def in_turn(attempts: Sequence[tuple[float, float]]) -> float:
    """When a run of several attempts reaches the target: what those before the first that does took, and it up to there.

    Args:
        attempts: when each reaches the target, infinite for never, and all that it took (infinite for one that failed).

    >>> in_turn([(math.inf, 20.0), (5.0, 20.0), (1.0, 20.0)])
    25.0
    """
    before = 0.0
    for time, whole in attempts:
        if math.isfinite(time):
            return before + time
        before += whole
    return math.inf


def reached(done: Done | None, target: Target, clock: str) -> tuple[float, float]:
    """When a run reaches the target and how long it was, by a clock; both infinite if it failed."""
    unit, points = "step" if clock == "steps" else clock, watched(done) if done else ()
    return first_reaching(points, (target.metric, target.value), unit), float(points[-1][unit]) if points else math.inf


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
