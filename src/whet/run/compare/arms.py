"""What the variants of a comparison gave, which of it can be judged, and between whom a winner may be named."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from whet.budget import Budget
from whet.errors import RecipeError, WhetError, unknown
from whet.run.compare import jobs
from whet.run.compare.jobs import Done
from whet.run.compare.plan import Plan
from whet.run.compare.spending import Spending, matched, over
from whet.run.compare.target import TargetVerdict
from whet.run.compare.variants import Variant
from whet.run.compare.verdicts import Verdict
from whet.run.store import Store

if TYPE_CHECKING:
    from whet.measure.outcome import TaskResult

Results = Mapping[str, Mapping[str, Mapping[int, "TaskResult"]]]
"""Task -> variant -> seed -> result."""


@dataclass(frozen=True)
class Arm:
    """A variant and what it gave: a finished job and its spending per seed, the trials that chose its values (in ``studies``
    those of each seed as they ran), and why it has no result (``failed``) or fewer seeds (``stopped``).
    """

    variant: Variant
    done: Mapping[int, Done] = field(default_factory=dict)
    spent: Mapping[int, Spending] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Mapping[str, Any]] = ()
    tuning: Spending = field(default_factory=Spending)
    studies: Mapping[int, Sequence[Done]] = field(default_factory=dict)
    failed: str = ""
    stopped: str = ""


@dataclass(frozen=True)
class Comparison:
    """A finished comparison."""

    id: str
    plan: Plan
    arms: Mapping[str, Arm]
    results: Results
    verdicts: Sequence[Verdict]
    targets: Sequence[TargetVerdict]
    notes: Sequence[str]
    seconds: float = 0.0


def gather(arms: Mapping[str, Arm], tasks: Collection[str], store: Store, needed: bool = True) -> Results:
    """What was measured of the variants; ``tasks``: only these. Not ``needed``: nothing is as good as an error.

    Raises:
        RecipeError: a task that no variant was measured on.
        WhetError: no task has results of two variants.
    """
    found: dict[str, dict[str, dict[int, TaskResult]]] = {}
    for name, arm in arms.items():
        for seed, done in arm.done.items():
            for task, result in jobs.read_results(done, store).items():
                found.setdefault(task, {}).setdefault(name, {})[seed] = replace(result, model=name)
    for task in tasks:
        if found and task not in found:
            raise RecipeError(f"compare.tasks: {unknown('task', task, found)}")
    wanted = {task: _pairable(by_variant, arms) for task, by_variant in found.items() if not tasks or task in tasks}
    usable = {task: by_variant for task, by_variant in wanted.items() if len(by_variant) > 1}
    if not usable and needed:
        why = "; ".join(f"{name}: {arm.failed}" for name, arm in arms.items() if arm.failed)
        raise WhetError(
            f"fewer than two variants gave a result, nothing to compare. {why or 'No task is shared by two variants.'}"
        )
    return usable


def _pairable(by_variant: dict[str, dict[int, TaskResult]], arms: Mapping[str, Arm]) -> dict[str, dict[int, TaskResult]]:
    """Without the variants that failed at a seed, where the others would have no seed in common with them."""
    if set.intersection(*map(set, by_variant.values())):
        return by_variant
    return {name: by_seed for name, by_seed in by_variant.items() if not arms[name].failed}


def unmatched(arms: Mapping[str, Arm], budget: Budget | None) -> dict[tuple[str, str], str]:
    """Pairs of which no winner is named, and why: one failed at a seed, or the declared budget was not kept."""
    failed = {name: f"{name} failed ({arm.failed.partition(':')[0]})" for name, arm in arms.items() if arm.failed}
    means = _means(arms, budget) if budget else {}
    found = {}
    for a in arms:
        for b in arms:
            if a in failed or b in failed:
                found[a, b] = failed.get(a) or failed[b]
            elif budget and a in means and b in means and not matched(means[a], means[b]):
                spent = " and ".join(str(Budget(means[name], budget.unit)) for name in (a, b))
                found[a, b] = f"the budget is not matched: {a} and {b} spent {spent}"
    return found


def alike(arms: Mapping[str, Arm], stages: Mapping[str, str]) -> list[str]:
    """A note on each pair whose models are one and the same, although the variants are written differently."""
    made = {name: _made(arm, stages[name]) for name, arm in arms.items() if arm.done}
    return [
        f"{a} and {b} made the same model at every seed: what is written differently in them changed nothing."
        for a, b in itertools.combinations(made, 2)
        if made[a] and made[a] == made[b]
    ]


def _made(arm: Arm, stage: str) -> dict[int, str]:
    """Seed -> the identity of the judged model."""
    return {seed: s.identity for seed, done in arm.done.items() for s in done.steps if s.name == stage}


def excess(arms: Mapping[str, Arm], budget: Budget | None) -> str:
    """A note on the variants that spent more than the budget; empty without any."""
    names = [name for name, amount in _means(arms, budget).items() if over(amount, budget)] if budget else []
    if not names:
        return ""
    return (
        f"{', '.join(names)} spent more than {budget}: training takes whole steps, and what comes after the train step that the "
        "budget ends is not known before, so no room is left for it. Winners are named only between variants that spent the same."
    )


def _means(arms: Mapping[str, Arm], budget: Budget) -> dict[str, float]:
    """What each variant spent per seed, in the budget's unit."""
    return {name: sum(s.of(budget.unit) for s in arm.spent.values()) / len(arm.spent) for name, arm in arms.items() if arm.spent}
