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
from whet.errors import RecipeError, WhetError, unknown
from whet.model import quiet_transformers
from whet.recipe_order import LONGEST_NAME
from whet.recipe_text import set_field
from whet.run.compare import jobs
from whet.run.compare.graph import with_budget
from whet.run.compare.jobs import Done, Job
from whet.run.compare.plan import VALIDATION, Plan, make_plan
from whet.run.compare.record import recorded
from whet.run.compare.spending import Spending, matched, over, spending, total
from whet.run.compare.stopping import FIRST_LOOK, interim_level, lost
from whet.run.compare.target import TargetVerdict, corrected, time_to_target
from whet.run.compare.tuning import points
from whet.run.compare.variants import Variant
from whet.run.compare.verdicts import Verdict, judge
from whet.run.store import Store
from whet.workers import Local

if TYPE_CHECKING:
    from whet.measure.outcome import TaskResult

Say = Callable[[str], None]
Pool = Callable[..., Sequence[Done]]
"""The ``map`` of a :class:`whet.workers.Pool`."""

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
    """Runs variants of a recipe under one budget and several seeds, and judges them; the ledger and a page keep what came out.

    Args:
        recipe: a file, a bundled recipe's name, or a mapping; with or without a section ``compare``.
        overrides: ``path=value`` each, for all variants.
        store: default: the folder ``$WHET_HOME``.
        pool: the ``map`` of a :class:`whet.workers.Pool`, which jobs are spread over; default: here, one after another.
        say: told what happens.
        asked: fields of :class:`whet.run.compare.plan.Asked`.

    Raises:
        RecipeError: a comparison that cannot be carried out; nothing has run.
        WhetError: fewer than two variants gave a result.
    """
    from whet.run.compare.page import summary, write_page

    quiet_transformers()
    plan, store = make_plan(recipe, overrides, **asked), store or Store.open()
    started = dt.datetime.now(dt.timezone.utc)
    identity = f"{plan.name}-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    with recorded(identity, plan, store, started) as record:
        found = _Comparing(identity, plan, store, pool or Local().map, say).run()
        seconds = (dt.datetime.now(dt.timezone.utc) - started).total_seconds()
        comparison = replace(found, seconds=seconds)
        record.result = summary(comparison)
        write_page(comparison, store.scratch / "runs" / identity)
    return comparison


class _Comparing:
    """A comparison in progress."""

    def __init__(self, identity: str, plan: Plan, store: Store, pool: Pool, say: Say) -> None:
        self.identity, self.plan, self.store, self.pool, self.say = identity, plan, store, pool, say
        self.notes: list[str] = []
        self.arms = {variant.name: Arm(variant) for variant in plan.variants}
        self.stop_lost = plan.asked.stop_lost and len(plan.seeds) > FIRST_LOOK
        self.interim = interim_level(plan.asked.alpha, len(plan.seeds))

    def run(self) -> Comparison:
        """Everything, from the first trial to the verdicts."""
        self.say(f"comparison {self.identity}")
        self.say(f"{len(self.arms)} variants, seeds {', '.join(map(str, self.plan.seeds))}, budget {self.plan.budget or 'none'}")
        if self.plan.asked.stop_lost and not self.stop_lost:
            self.notes.append(f"Nothing was stopped early: that needs more than {FIRST_LOOK} seeds.")
        if self.plan.ranges:
            self._tune()
        if not self.stop_lost:
            self._seeds(self.plan.seeds)
        for number, seed in enumerate(self.plan.seeds if self.stop_lost else (), start=1):
            self._seeds((seed,))
            if FIRST_LOOK <= number < len(self.plan.seeds):
                self._leave_out_lost()
        return self._judged()

    def _judged(self) -> Comparison:
        results, targets = self._results(), self._targets()
        alpha = self.plan.asked.alpha
        if self.stop_lost:
            looks = len(self.plan.seeds) - FIRST_LOOK
            self.notes.append(
                f"Early stopping: half of the level {alpha:g} was divided among {looks} looks and all tests (Bonferroni), half is for "
                "the end; together they keep the level."
            )
        self._note_excess()
        verdicts = judge(
            results,
            alpha=alpha / 2 if self.stop_lost else alpha,
            margin=self.plan.asked.margin,
            unmatched=self._unmatched(),
            corrected_with=[t.p for t in targets],
            stopped=[name for name, arm in self.arms.items() if arm.stopped],
            interim=self.interim,
        )
        return Comparison(
            id=self.identity,
            plan=self.plan,
            arms=self.arms,
            results=results,
            verdicts=verdicts,
            targets=corrected(targets, [v.raw_p for v in verdicts]),
            notes=self.notes,
        )

    def _tune(self) -> None:
        """Tries every point on every variant and keeps each variant's best on validation."""
        trials, seed = points(self.plan.ranges, self.plan.asked.trials), self.plan.seeds[0] + TUNING_SEED
        wanted = [(name, values) for name in self.arms for values in trials]
        done = self._carry_out([(name, seed, values) for name, values in wanted], validation=True)
        spent = [self._spent(d) for d in done]
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
                self.arms[arm.variant.name] = replace(arm, failed=arm.failed or f"seed {finished.job.seed}: {finished.error}")
            else:
                done_, spent = {**arm.done, finished.job.seed: finished}, {**arm.spent, finished.job.seed: self._spent(finished)}
                self.arms[arm.variant.name] = replace(arm, done=done_, spent=spent)

    def _spent(self, done: Done) -> Spending:
        """What a job spent beyond what all variants share."""
        return spending(done.steps, self.plan.shared)

    def _carry_out(self, wanted: Sequence[tuple[str, int, Mapping[str, Any]]], validation: bool = False) -> list[Done]:
        prepared = [self._job(name, seed, values, validation) for name, seed, values in wanted]
        budget, refused = self.plan.budget, dict[int, Done]()
        if budget and self.plan.budget_step:
            prepared, refused = self._within(prepared, budget, self.plan.budget_step)
        runnable = [job for index, job in enumerate(prepared) if index not in refused]
        results = iter(self._map(runnable))
        return [refused[index] if index in refused else next(results) for index in range(len(prepared))]

    def _job(self, name: str, seed: int, values: Mapping[str, Any], validation: bool) -> Job:
        document: Any = self.arms[name].variant.document
        for path, value in values.items():
            document = set_field(document, path, value)
        stage = self.plan.stages[name]
        return Job(name, seed, jobs.document_for(document, stage, seed, self._label(name), validation=validation), values)

    def _label(self, variant: str) -> str:
        return re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self.plan.name}-{variant}").strip("-")[:LONGEST_NAME]

    def _map(self, wanted: Sequence[Job], what: str = "") -> Sequence[Done]:
        """Carries jobs out and says which is done as soon as it is; ``what`` of a job this is."""
        store = self.store.address if self.store.remote else str(self.store.scratch.absolute())

        def finished(_: int, done: Done) -> None:
            self.say(f"  {done.job}{what}: {f'failed: {done.error}' if done.error else 'done'}")

        return self.pool(partial(jobs.carry_out, store=store, cwd=str(Path.cwd())), wanted, label=str, on_result=finished)

    def _within(self, wanted: Sequence[Job], budget: Budget, step: str) -> tuple[list[Job], dict[int, Done]]:
        """Gives each job's budgeted step what its earlier steps leave; jobs that leave nothing are refused."""
        costly = [index for index, job in enumerate(wanted) if jobs.spends_before(job.document, step, self.plan.shared)]
        earlier = dict(zip(costly, self._map([self._earlier(wanted[index], step) for index in costly], f", before {step}")))
        kept: list[Job] = []
        refused: dict[int, Done] = {}
        for index, job in enumerate(wanted):
            before = earlier.get(index)
            used = self._spent(before).of(budget.unit) if before else 0.0
            left = budget.amount - used
            if before and before.error:
                refused[index] = Done(job, error=before.error)
            elif left <= 0:
                need = f"its steps before {step!r} need {Budget(used, budget.unit)}, the budget is {budget}"
                refused[index] = Done(job, error=f"refused: {need}; nothing is left to train with")
                self.say(f"  {job}: {refused[index].error}")
            kept.append(replace(job, document=with_budget(job.document, step, f"{left:.17g} {budget.unit}")))
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

    def _leave_out_lost(self) -> None:
        """Drops variants that have lost at this look."""
        still = [name for name, arm in self.arms.items() if not arm.failed and not arm.stopped]
        for name, why in lost(self._results(), self.interim, self._unmatched(), still).items():
            self.arms[name] = replace(self.arms[name], stopped=why)
            self.say(f"  {name}: {why}")

    def _results(self) -> dict[str, dict[str, dict[int, TaskResult]]]:
        found: dict[str, dict[str, dict[int, TaskResult]]] = {}
        measured: set[str] = set()
        for name, arm in self.arms.items():
            for seed, done in arm.done.items():
                for task, result in jobs.read_results(done, self.store).items():
                    measured.add(task)
                    if not self.plan.asked.tasks or task in self.plan.asked.tasks:
                        found.setdefault(task, {}).setdefault(name, {})[seed] = replace(result, model=name)
        for task in self.plan.asked.tasks:
            if measured and task not in measured:
                raise RecipeError(f"compare.tasks: {unknown('task', task, sorted(measured))}")
        usable = {task: pairable for task, by_variant in found.items() if len(pairable := self._pairable(by_variant)) > 1}
        if not usable:
            why = "; ".join(f"{name}: {arm.failed}" for name, arm in self.arms.items() if arm.failed)
            raise WhetError(
                f"fewer than two variants gave a result, nothing to compare. {why or 'No task is shared by two variants.'}"
            )
        return usable

    def _pairable(self, by_variant: Mapping[str, dict[int, TaskResult]]) -> dict[str, dict[int, TaskResult]]:
        """Without the variants that failed at a seed, where the others would have no seed in common with them."""
        if set.intersection(*map(set, by_variant.values())):
            return dict(by_variant)
        return {name: by_seed for name, by_seed in by_variant.items() if not self.arms[name].failed}

    def _unmatched(self) -> dict[tuple[str, str], str]:
        """Pairs of which no winner is named, and why: one failed at a seed, or the declared budget was not kept."""
        failed = {name: f"{name} failed ({arm.failed.partition(':')[0]})" for name, arm in self.arms.items() if arm.failed}
        found = {(a, b): failed.get(a) or failed[b] for a in self.arms for b in self.arms if a in failed or b in failed}
        return self._unkept() | found

    def _unkept(self) -> dict[tuple[str, str], str]:
        """Pairs of which one spent more than the other although there is a budget, and why that is."""
        budget = self.plan.budget
        if budget is None:
            return {}
        means = self._means(budget)
        return {
            (
                a,
                b,
            ): f"the budget is not matched: {a} and {b} spent {Budget(means[a], budget.unit)} and {Budget(means[b], budget.unit)}"
            for a in means
            for b in means
            if not matched(means[a], means[b])
        }

    def _means(self, budget: Budget) -> dict[str, float]:
        """What each variant spent per seed, in the budget's unit."""
        return {
            name: sum(s.of(budget.unit) for s in arm.spent.values()) / len(arm.spent)
            for name, arm in self.arms.items()
            if arm.spent
        }

    def _note_excess(self) -> None:
        budget = self.plan.budget
        names = [name for name, amount in self._means(budget).items() if over(amount, budget)] if budget else []
        if names:
            self.notes.append(
                f"{', '.join(names)} spent more than {budget}: what comes after the step that the budget ends is not known before, and "
                "no room is left for it. Winners are named only between variants that spent the same."
            )

    def _targets(self) -> list[TargetVerdict]:
        if self.plan.target is None:
            return []
        unit = self.plan.budget.unit if self.plan.budget else "tokens"
        return time_to_target(self.plan.target, {n: (a.done, a.spent) for n, a in self.arms.items() if a.done}, unit)
