"""Carries a comparison out: tuning, the variants at every seed, the verdicts."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.budget import Budget
from whet.errors import WhetError
from whet.model import quiet_transformers
from whet.recipe_text import set_field
from whet.run.compare import jobs
from whet.run.compare.jobs import Done, Job
from whet.run.compare.plan import VALIDATION, Plan, Variant, make_plan
from whet.run.compare.spending import Spending, matched, over, shared_identities, spending, total
from whet.run.compare.target import TargetVerdict, time_to_target
from whet.run.compare.tuning import points
from whet.run.compare.verdicts import Verdict, judge
from whet.run.store import Store

if TYPE_CHECKING:
    from whet.measure.outcome import TaskResult

Say = Callable[[str], None]
Pool = Callable[[Callable[[Job], Done], Sequence[Job]], Sequence[Done]]

TUNING_SEED = 100_000
"""Added to the first seed for trials: the comparison's own seeds are not used for choosing."""


@dataclass(frozen=True)
class Arm:
    """A variant and what it gave: a finished job and its spending per seed, the trials that chose its values, and why it has
    no result (``failed``) or fewer seeds (``stopped``).
    """

    variant: Variant
    done: Mapping[int, Done] = field(default_factory=dict)
    spent: Mapping[int, Spending] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Mapping[str, Any]] = ()
    tuning: Spending = field(default_factory=Spending)
    failed: str = ""
    stopped: str = ""


@dataclass(frozen=True)
class Comparison:
    """A finished comparison. ``results``: task -> variant -> seed -> result."""

    id: str
    plan: Plan
    arms: Mapping[str, Arm]
    results: Mapping[str, Mapping[str, Mapping[int, TaskResult]]]
    verdicts: Sequence[Verdict]
    targets: Sequence[TargetVerdict]
    notes: Sequence[str]
    seconds: float = 0.0


def compare_recipe(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    store: Store | None = None,
    pool: Pool | None = None,
    say: Say = print,
    **asked: Any,
) -> Comparison:
    """Runs variants of a recipe under one budget and several seeds, and judges them.

    Args:
        recipe: a file, a bundled recipe's name, or a mapping; with or without a section ``compare``.
        overrides: ``path=value`` each, for all variants.
        store: default: the folder ``$WHET_HOME``.
        pool: calls a function on every job and gives the results in order; default one after another.
        say: told what happens.
        asked: fields of :class:`whet.run.compare.plan.Asked`.

    Raises:
        RecipeError: a comparison that cannot be carried out; nothing has run.
        WhetError: fewer than two variants gave a result.
    """
    quiet_transformers()
    plan = make_plan(recipe, overrides, **asked)
    return _Comparing(plan, store or Store.open(), pool or one_after_another, say).run()


def one_after_another(function: Callable[[Job], Done], items: Sequence[Job]) -> list[Done]:
    """The pool of one."""
    return [function(item) for item in items]


class _Comparing:
    """A comparison in progress."""

    def __init__(self, plan: Plan, store: Store, pool: Pool, say: Say) -> None:
        self.plan, self.store, self.pool, self.say = plan, store, pool, say
        self.notes: list[str] = []
        self.arms = {variant.name: Arm(variant) for variant in plan.variants}

    def run(self) -> Comparison:
        started = dt.datetime.now(dt.timezone.utc)
        self.say(f"{len(self.arms)} variants, seeds {', '.join(map(str, self.plan.seeds))}, budget {self.plan.budget or 'none'}")
        if self.plan.ranges:
            self._tune()
        looks = [(seed,) for seed in self.plan.seeds] if self.plan.asked.stop_lost else [self.plan.seeds]
        for number, seeds in enumerate(looks):
            self._seeds(seeds)
            if self.plan.asked.stop_lost and 2 <= number < len(looks) - 1:
                self._leave_out_lost(len(looks))
        results = self._results()
        targets = self._targets()
        verdicts = judge(
            results,
            alpha=self._final_level(len(looks)),
            margin=self.plan.asked.margin,
            unmatched=self._unmatched(),
            corrected_with=[t.p for t in targets],
        )
        return Comparison(
            id=f"{self.plan.name}-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
            plan=self.plan,
            arms=self.arms,
            results=results,
            verdicts=verdicts,
            targets=targets,
            notes=self.notes,
            seconds=(dt.datetime.now(dt.timezone.utc) - started).total_seconds(),
        )

    def _tune(self) -> None:
        """Tries every point on every variant and keeps each variant's best on validation."""
        trials, seed = points(self.plan.ranges, self.plan.asked.trials), self.plan.seeds[0] + TUNING_SEED
        wanted = [(name, values) for name in self.arms for values in trials]
        done = self._carry_out([(name, seed, values) for name, values in wanted], validation=True)
        spent = _own(done)
        for name, arm in self.arms.items():
            mine = [(d, s) for d, s in zip(done, spent) if d.job.variant == name]
            scored: list[dict[str, Any]] = [
                {"values": dict(d.job.values), "score": self._validation_score(d), "error": d.error} for d, _ in mine
            ]
            usable = [t for t in scored if t["score"] is not None]
            changed = replace(arm, trials=scored, tuning=total(s for _, s in mine))
            if usable:
                best = max(usable, key=lambda trial: trial["score"])["values"]
                self.say(f"  {name}: best of {len(scored)} trials: {', '.join(f'{k} = {v:g}' for k, v in best.items())}")
                self.arms[name] = replace(changed, values=best)
            else:
                self.arms[name] = replace(changed, failed=f"none of {len(scored)} trials gave a result: {scored[0]['error']}")

    def _validation_score(self, done: Done) -> float | None:
        """The first validation task's figure, larger being better."""
        from whet.measure.estimates import is_better_high

        if done.error:
            return None
        result = next(iter(jobs.read_results(done, self.store, VALIDATION).values()))
        value = float(result.estimates[result.metric].value)
        return value if is_better_high(result.metric) else -value

    def _seeds(self, seeds: Sequence[int]) -> None:
        """Runs every variant that is still in at these seeds."""
        open_ = [arm for arm in self.arms.values() if not arm.failed and not arm.stopped]
        wanted = [(arm.variant.name, seed, arm.values) for seed in seeds for arm in open_]
        done = self._carry_out(wanted)
        for finished in done:
            arm = self.arms[finished.job.variant]
            if finished.error:
                self.say(f"  {arm.variant.name}, seed {finished.job.seed} failed: {finished.error}")
                self.arms[arm.variant.name] = replace(arm, failed=arm.failed or f"seed {finished.job.seed}: {finished.error}")
            else:
                self.arms[arm.variant.name] = replace(arm, done={**arm.done, finished.job.seed: finished})
        self._count()

    def _count(self) -> None:
        """What each variant spent at each seed beyond what all share."""
        for seed in self.plan.seeds:
            of_seed = {name: arm.done[seed] for name, arm in self.arms.items() if seed in arm.done}
            shared = shared_identities(d.steps for d in of_seed.values())
            for name, d in of_seed.items():
                self.arms[name] = replace(self.arms[name], spent={**self.arms[name].spent, seed: spending(d.steps, shared)})

    def _carry_out(self, wanted: Sequence[tuple[str, int, Mapping[str, Any]]], validation: bool = False) -> list[Done]:
        prepared = [self._job(name, seed, values, validation) for name, seed, values in wanted]
        budget, refused = self.plan.budget, dict[int, Done]()
        if budget and self.plan.budget_step:
            prepared, refused = self._within(prepared, budget, self.plan.budget_step)
        runnable = [job for index, job in enumerate(prepared) if index not in refused]
        for job in runnable:
            self.say(f"  {job.variant}, seed {job.seed}" + "".join(f", {k} = {v:g}" for k, v in job.values.items()))
        results = iter(self.pool(partial(jobs.carry_out, store=self.store.address), runnable))
        return [refused[index] if index in refused else next(results) for index in range(len(prepared))]

    def _job(self, name: str, seed: int, values: Mapping[str, Any], validation: bool) -> Job:
        document: Any = self.arms[name].variant.document
        for path, value in values.items():
            document = set_field(document, path, value)
        stage = self.plan.stages[name]
        return Job(name, seed, jobs.document_for(document, stage, seed, self._label(name), validation=validation), values)

    def _label(self, variant: str) -> str:
        return re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self.plan.name}-{variant}").strip("-")

    def _within(self, wanted: Sequence[Job], budget: Budget, step: str) -> tuple[list[Job], dict[int, Done]]:
        """Gives each job's budgeted step what its earlier steps leave; jobs that leave nothing are refused."""
        earlier = [self._earlier(job, step) for job in wanted]
        done = list(self.pool(partial(jobs.carry_out, store=self.store.address), earlier))
        spent = _own(done)
        kept: list[Job] = []
        refused: dict[int, Done] = {}
        for index, (job, before, used) in enumerate(zip(wanted, done, spent)):
            left = budget.amount - used.of(budget.unit)
            if before.error or left <= 0:
                why = (
                    before.error
                    or f"its steps before {step!r} need {Budget(used.of(budget.unit), budget.unit)}, more than {budget}"
                )
                refused[index] = Done(job, error=why)
            kept.append(replace(job, document=jobs.with_budget(job.document, step, f"{left:.17g} {budget.unit}")))
        return kept, refused

    def _earlier(self, job: Job, step: str) -> Job:
        """The job's recipe up to its budgeted step."""
        names = jobs.before(job.document, step)
        kept = {
            key: [e for e in value if e["name"] in names] if isinstance(value, list) else value
            for key, value in job.document.items()
            if key != "measure"
        }
        return replace(job, document=kept)

    def _leave_out_lost(self, looks: int) -> None:
        """Drops variants that a remaining one beats at the interim level.

        Half of ``alpha`` is kept for the end and the rest divided among the looks (Bonferroni), so that all looks together
        call a difference that is not there at most with probability ``alpha``.
        """
        level = self.plan.asked.alpha / 2 / max(1, looks - 3)
        still = {name for name, arm in self.arms.items() if not arm.failed and not arm.stopped}
        results = {
            task: {name: by_seed for name, by_seed in by_variant.items() if name in still}
            for task, by_variant in self._results().items()
        }
        first_task = next(iter(results))
        for verdict in judge({first_task: results[first_task]}, alpha=level, unmatched=self._unmatched()):
            lost = {"better": verdict.first, "worse": verdict.second}.get(verdict.kind)
            if lost:
                winner = verdict.second if lost == verdict.first else verdict.first
                seeds = len(self.arms[lost].done)
                why = f"lost to {winner} after {seeds} seeds (p = {verdict.p:.2g}, interim level {level:.2g})"
                self.arms[lost] = replace(self.arms[lost], stopped=why)
                self.say(f"  {lost}: {why}")

    def _final_level(self, looks: int) -> float:
        alpha = self.plan.asked.alpha
        if self.plan.asked.stop_lost and looks > 3:
            self.notes.append(
                f"Early stopping: half of the level {alpha:g} was divided among {looks - 3} interim looks (Bonferroni), half is for "
                "the final tests; together they keep the level."
            )
            return alpha / 2
        return alpha

    def _results(self) -> dict[str, dict[str, dict[int, TaskResult]]]:
        found: dict[str, dict[str, dict[int, TaskResult]]] = {}
        for name, arm in self.arms.items():
            for seed, done in arm.done.items():
                for task, result in jobs.read_results(done, self.store).items():
                    if not self.plan.asked.tasks or task in self.plan.asked.tasks:
                        found.setdefault(task, {}).setdefault(name, {})[seed] = replace(result, model=name)
        usable = {task: by_variant for task, by_variant in found.items() if len(by_variant) > 1}
        if not usable:
            why = "; ".join(f"{name}: {arm.failed}" for name, arm in self.arms.items() if arm.failed)
            raise WhetError(
                f"fewer than two variants gave a result, nothing to compare. {why or 'No task is shared by two variants.'}"
            )
        return usable

    def _unmatched(self) -> dict[tuple[str, str], str]:
        """Pairs that did not keep to the declared budget, and why."""
        budget = self.plan.budget
        if budget is None:
            return {}
        means = {name: _mean(arm.spent, budget.unit) for name, arm in self.arms.items() if arm.spent}
        found = {}
        for a, spent_a in means.items():
            for b, spent_b in means.items():
                exceeding = [name for name in (a, b) if over(means[name], budget)]
                if exceeding:
                    found[a, b] = f"{' and '.join(exceeding)} spent more than {budget}"
                elif not matched(spent_a, spent_b):
                    amounts = f"{Budget(spent_a, budget.unit)} and {Budget(spent_b, budget.unit)}"
                    found[a, b] = f"the budget is not matched: {a} and {b} spent {amounts}"
        return found

    def _targets(self) -> list[TargetVerdict]:
        if self.plan.target is None:
            return []
        unit = self.plan.budget.unit if self.plan.budget else "tokens"
        return time_to_target(self.plan.target, {n: (a.done, a.spent) for n, a in self.arms.items() if a.done}, unit)


def _own(done: Sequence[Done]) -> list[Spending]:
    """What each job spent beyond what all jobs of its seed share."""
    by_seed: dict[int, list[Done]] = {}
    for d in done:
        if not d.error:
            by_seed.setdefault(d.job.seed, []).append(d)
    shared = {seed: shared_identities(d.steps for d in same) for seed, same in by_seed.items()}
    return [spending(d.steps, shared.get(d.job.seed, ())) for d in done]


def _mean(spent: Mapping[int, Spending], unit: str) -> float:
    return sum(s.of(unit) for s in spent.values()) / len(spent)
