"""Carries a comparison out: tuning, the variants at every seed, the verdicts."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.budget import Budget
from whet.model import quiet_transformers
from whet.recipe import read
from whet.recipe_order import LONGEST_NAME
from whet.recipe_text import set_field
from whet.run.compare import jobs
from whet.run.compare.arms import Arm, Comparison, alike, excess, gather, unmatched
from whet.run.compare.graph import ancestors, with_budget
from whet.run.compare.jobs import Done, Job
from whet.run.compare.plan import VALIDATION, Plan, make_plan
from whet.run.compare.record import begun, recorded
from whet.run.compare.spending import Spending, spending, total
from whet.run.compare.stopping import FIRST_LOOK, interim_level, lost
from whet.run.compare.studies import as_trial, dealt, winner
from whet.run.compare.target import TargetVerdict, corrected, time_to_target
from whet.run.compare.tuning import points
from whet.run.compare.verdicts import judge
from whet.run.ledger import ComparisonRecord
from whet.run.store import Store
from whet.workers import Local

if TYPE_CHECKING:
    pass

Say = Callable[[str], None]
Pool = Callable[..., Sequence[Done]]
"""The ``map`` of a :class:`whet.workers.Pool`."""

TUNING_SEED = 100_000
"""Added to the first seed for trials: the comparison's own seeds are not used for choosing."""


def compare_recipe(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    store: Store | None = None,
    pool: Pool | None = None,
    say: Say = print,
    part_of: str = "",
    **asked: Any,
) -> Comparison:
    """Runs variants of a recipe under one budget and several seeds, and judges them; the ledger and a page keep what came out.

    Args:
        recipe: a file, a bundled recipe's name, or a mapping; with or without a section ``compare``.
        overrides: ``path=value`` each, for all variants.
        store: default: the folder ``$WHET_HOME``.
        pool: the ``map`` of a :class:`whet.workers.Pool`, which jobs are spread over; default: here, one after another.
        say: told what happens.
        part_of: id of the race that it is carried out for, which goes by times alone.
        asked: fields of :class:`whet.run.compare.plan.Asked`.

    Raises:
        RecipeError: a comparison that cannot be carried out; nothing has run.
        WhetError: fewer than two variants gave a result.
    """
    from whet.run.compare.page import write_page
    from whet.run.compare.summary import summary

    quiet_transformers()
    plan, store = make_plan(recipe, overrides, **asked), store or Store.open()
    record = begun(ComparisonRecord, plan.name, plan.document)
    with recorded(record, store, part_of):
        found = _Comparing(record.id, plan, store, pool or Local().map, say, in_race=bool(part_of)).run()
        comparison = replace(found, seconds=(dt.datetime.now(dt.UTC) - record.started).total_seconds())
        record.result = summary(comparison)
        write_page(comparison, store.scratch / "runs" / record.id)
    return comparison


class _Comparing:
    """A comparison in progress."""

    def __init__(self, identity: str, plan: Plan, store: Store, pool: Pool, say: Say, in_race: bool = False) -> None:
        # To a race a variant that failed is one that never got there.
        self.needed = not in_race
        self.identity, self.plan, self.store, self.pool, self.say = identity, plan, store, pool, say
        self.notes: list[str] = []
        self.unit = plan.budget.unit if plan.budget else "tokens"
        self.arms = {variant.name: Arm(variant) for variant in plan.variants}
        self.made_from = {v.name: ancestors(read(v.document), plan.stages[v.name]) for v in plan.variants}
        self.stop_lost = plan.asked.stop_lost and len(plan.seeds) > FIRST_LOOK
        self.interim = interim_level(plan.asked.alpha, len(plan.seeds))

    def run(self) -> Comparison:
        """Everything, from the first trial to the verdicts."""
        self.say(f"comparison {self.identity}")
        self.say(f"{len(self.arms)} variants, seeds {', '.join(map(str, self.plan.seeds))}, budget {self.plan.budget or 'none'}")
        if self.plan.asked.stop_lost and not self.stop_lost:
            self.notes.append(f"Nothing was stopped early: that needs more than {FIRST_LOOK} seeds.")
        if self.plan.ranges and not self.plan.asked.studies:
            self._tune()
        if not self.stop_lost:
            self._seeds(self.plan.seeds)
        for number, seed in enumerate(self.plan.seeds if self.stop_lost else (), start=1):
            self._seeds((seed,))
            if FIRST_LOOK <= number < len(self.plan.seeds):
                self._leave_out_lost()
        return self._judged()

    def _judged(self) -> Comparison:
        results, targets = gather(self.arms, self.plan.asked.tasks, self.store, self.needed), self._targets()
        alpha = self.plan.asked.alpha
        if self.stop_lost:
            looks = len(self.plan.seeds) - FIRST_LOOK
            self.notes.append(
                f"Early stopping: half of the level {alpha:g} was divided among {looks} looks and all tests (Bonferroni), half is for "
                "the end; together they keep the level."
            )
        if note := excess(self.arms, self.plan.budget):
            self.notes.append(note)
        self.notes += alike(self.arms, self.plan.stages)
        verdicts = judge(
            results,
            alpha=alpha / 2 if self.stop_lost else alpha,
            margin=self.plan.asked.margin,
            unmatched=unmatched(self.arms, self.plan.budget),
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
        chosen = self._study(seeds, [arm.variant.name for arm in open_]) if self.plan.asked.studies else {}
        wanted = [(a.variant.name, seed, chosen.get((a.variant.name, seed), a.values)) for seed in seeds for a in open_]
        done = self._carry_out(wanted)
        for finished in done:
            arm = self.arms[finished.job.variant]
            if finished.error:
                self.arms[arm.variant.name] = replace(arm, failed=arm.failed or f"seed {finished.job.seed}: {finished.error}")
            else:
                done_, spent = {**arm.done, finished.job.seed: finished}, {**arm.spent, finished.job.seed: self._spent(finished)}
                self.arms[arm.variant.name] = replace(arm, done=done_, spent=spent)

    def _study(self, seeds: Sequence[int], names: Sequence[str]) -> dict[tuple[str, int], Mapping[str, Any]]:
        """Tries each seed's own points on the variants; gives the values of the trial that reaches the target first."""
        deal, target = dealt(self.plan.ranges, self.plan.asked.trials, self.plan.seeds), self.plan.target
        assert target
        wanted = [(name, seed, values) for seed in seeds for name in names for values in deal[seed]]
        chosen: dict[tuple[str, int], Mapping[str, Any]] = {}
        for (name, seed, _), done in zip(wanted, self._carry_out(wanted, validation=True)):
            arm = self.arms[name]
            several = {**arm.studies, seed: [*arm.studies.get(seed, ()), done]}
            trials = [*arm.trials, as_trial(done, target, self.unit)]
            self.arms[name] = replace(arm, studies=several, trials=trials, tuning=total([arm.tuning, self._spent(done)]))
            chosen[name, seed] = winner(several[seed], target, self.unit).job.values
        return chosen

    def _spent(self, done: Done) -> Spending:
        """What a job spent on its stage beyond what all variants share; not what a reference took that it is measured against."""
        made_from = self.made_from[done.job.variant]
        return spending([step for step in done.steps if step.name in made_from], self.plan.shared)

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
        return Job(
            name, seed, jobs.document_for(document, stage, seed, self._label(name), validation=validation), values, self.identity
        )

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
            used = spending(before.steps, self.plan.shared).of(budget.unit) if before else 0.0
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
        for name, why in lost(
            gather(self.arms, self.plan.asked.tasks, self.store), self.interim, unmatched(self.arms, self.plan.budget), still
        ).items():
            self.arms[name] = replace(self.arms[name], stopped=why)
            self.say(f"  {name}: {why}")

    def _targets(self) -> list[TargetVerdict]:
        if self.plan.target is None:
            return []
        return time_to_target(self.plan.target, {n: (a.done, a.spent) for n, a in self.arms.items() if a.done}, self.unit)
