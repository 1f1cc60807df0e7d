"""Carries a race out: targets first, then one comparison for each workload and variant, then the verdict on all."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, WhetError
from whet.model import quiet_transformers
from whet.run.cluster import check_reach, open_pool
from whet.run.compare import jobs
from whet.run.compare.carry import Say, compare_recipe
from whet.run.compare.jobs import Done, Job
from whet.run.compare.plan import SECTION as COMPARE
from whet.run.compare.record import begun, recorded
from whet.run.ledger import Ledger, RaceRecord
from whet.run.race.plan import Plan, Workload, make_plan
from whet.run.race.standing import Course, Standing, judge, times_by
from whet.run.race.targets import Target, recipe_name, set_target
from whet.run.report import check_out
from whet.run.store import Store
from whet.workers import Pool

SAME = ("processor", "accelerators", "threads", "system")
"""What of a machine must be the same for all runs of a race."""


@dataclass(frozen=True)
class Race:
    """A finished race and where its ``page`` lies."""

    id: str
    plan: Plan
    courses: Sequence[Course]
    standing: Standing
    machine: Mapping[str, Any]
    seconds: float
    page: Path = Path()

    @property
    def scores(self) -> Mapping[str, float]:
        """Algorithm -> its score, from 0 to 1."""
        return self.standing.scores

    def data(self) -> dict[str, Any]:
        """The race as plain data, as the ledger keeps it."""
        from whet.run.race.page import summary

        return {**summary(self), "page": str(self.page)}

    def text(self) -> str:
        """What is printed when a race ends: times, scores, and where the page lies."""
        from whet.run.race.page import lines

        return "\n".join([*lines(self.data()), f"page: {self.page}"])

    def print(self) -> None:
        """Prints times and scores."""
        print(self.text())


def race(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    on: str | None = None,
    out: str | Path | None = None,
    say: Say = print,
) -> Race:
    """Runs a race of training algorithms; finished runs are reused, a stopped race goes on by the same command.

    Args:
        recipe: a file, a bundled recipe's name, or a mapping, with a section ``race``.
        overrides: ``path=value`` each, such as ``race.trials=3``.
        on: where runs are carried out, see :func:`whet.run.cluster.open_pool`; default here.
        out: a folder that also gets the page and its data.
        say: told what happens.

    Raises:
        RecipeError: a race that cannot be carried out or would not be fair.
        WhetError: a workload gave nothing to judge by.
    """
    from whet.run.race.page import write_page

    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise RecipeError("whet race is one process; instead of torchrun use --on to run side by side")
    quiet_transformers()
    check_out(out)
    plan, store = make_plan(recipe, overrides), Store.open()
    record = begun(RaceRecord, plan.name, plan.document)
    record.result = {"workloads": [workload.name for workload in plan.workloads]}
    say(f"race {record.id}")
    for name, why in plan.left_out.items():
        say(f"  workload {name} is LEFT OUT: {why}")
    with recorded(record, store) as ledger, closing(open_pool(on)) as pool:
        check_reach(pool, store, whole_recipes=True)
        courses, machine = _Racing(record.id, plan, store, ledger, pool, say).run()
        took = (dt.datetime.now(dt.UTC) - record.started).total_seconds()
        result = Race(record.id, plan, courses, judge(plan, courses), machine, took)
        page = write_page(result, store.scratch / "runs" / record.id, Path(out) if out else None)
        result = replace(result, page=page)
        record.result = result.data()
    return result


class _Racing:
    """A race in progress."""

    def __init__(self, identity: str, plan: Plan, store: Store, ledger: Ledger, pool: Pool, say: Say) -> None:
        self.identity, self.plan, self.store, self.ledger, self.pool, self.say = identity, plan, store, ledger, pool, say

    def run(self) -> tuple[list[Course], Mapping[str, Any]]:
        """Every course, and the machine that all of them ran on; no algorithm runs before all targets are set."""
        targets = [self._target(workload) for workload in self.plan.workloads]
        documents = [comparison(self.plan, workload, t) for workload, t in zip(self.plan.workloads, targets)]
        for document in documents:
            refuse_moved_target(document, self.ledger)
        courses, identities = [], list[str]()
        for workload, target, document in zip(self.plan.workloads, targets, documents):
            course, made = self._course(workload, target, document)
            courses.append(course)
            identities += made
        return courses, one_machine(self.ledger.made_on(identities))

    def _target(self, workload: Workload) -> Target:
        if workload.target is not None:
            return Target(workload.metric, workload.target, {})
        found = set_target(self.plan, workload, self._carry_out)
        self.say(f"  {workload.name}: target {found}, set by {found.optimizer}")
        return found

    def _carry_out(self, wanted: Sequence[Job]) -> Sequence[Done]:
        store = self.store.address if self.store.remote else str(self.store.scratch.absolute())

        def finished(_: int, done: Done) -> None:
            self.say(f"  target, {done.job}: {f'failed: {done.error}' if done.error else 'done'}")

        own = [replace(job, part_of=self.identity) for job in wanted]
        return self.pool.map(partial(jobs.carry_out, store=store, cwd=str(Path.cwd())), own, label=str, on_result=finished)

    def _course(self, workload: Workload, target: Target, document: Mapping[str, Any]) -> tuple[Course, list[str]]:
        """A workload as it was run, and the identities of its train steps."""
        compared = compare_recipe(document, store=self.store, pool=self.pool.map, say=self.say, part_of=self.identity)
        arms, asked = compared.arms, self.plan.asked
        course = Course(
            workload=workload,
            target=target,
            comparison=compared.id,
            studies=times_by(asked.clock, self.plan, arms, target),
            others={clock: times_by(clock, self.plan, arms, target) for clock in asked.other_clocks},
        )
        timed = [done for arm in arms.values() for several in (*arm.studies.values(), arm.done.values()) for done in several]
        return course, [step.identity for done in timed for step in done.steps if step.section == "train"]


def comparison(plan: Plan, workload: Workload, target: Target) -> dict[str, Any]:
    """The comparison of all algorithms on one workload, as ``whet compare`` takes it."""
    asked, step = plan.asked, f"train.{workload.step}"
    section: dict[str, Any] = {
        "variants": plan.variants(workload),
        "seeds": list(plan.seeds),
        "stage": workload.step,
        "target": str(target),
    }
    if not asked.self_tuning:
        tune = {f"{step}.{path}": span for path, span in asked.tune.items()}
        section |= {"tune": tune, "trials": asked.trials, "studies": True}
    return {**workload.document, "name": recipe_name(plan, workload), COMPARE: section}


def refuse_moved_target(document: Mapping[str, Any], ledger: Ledger) -> None:
    """Refuses a target other than the one with which the same workload and studies were run first.

    Raises:
        RecipeError: results were there before the target was chosen.
    """
    for earlier in reversed(ledger.comparisons()):
        was = earlier.document.get(COMPARE, {})
        if "variants" in earlier.result and was.get("target") and _setting(earlier.document) == _setting(document):
            if was["target"] != document[COMPARE]["target"]:
                raise RecipeError(
                    f"{document['name']}: the target {document[COMPARE]['target']} was chosen after results were seen: comparison "
                    f"{earlier.id} ran this workload and these studies to {was.get('target')}. Keep that target, or race on studies "
                    "that were not run yet (race.seed)"
                )
            return


def _setting(document: Mapping[str, Any]) -> str:
    """What a target belongs to: the workload, whatever it is called, and the seeds of its studies."""
    compared = document.get(COMPARE, {})
    rest = {key: value for key, value in document.items() if key not in (COMPARE, "name", "about", "whet")}
    return json.dumps([rest, compared.get("seeds"), bool(compared.get("studies"))], sort_keys=True, default=str)


def one_machine(found: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The machine that all train steps were made on.

    Args:
        found: a step's identity -> the machine that made it.

    Raises:
        WhetError: there are several.
    """
    kinds = {json.dumps({key: machine.get(key) for key in SAME}, sort_keys=True): machine for machine in found.values()}
    if len(kinds) > 1:
        told = "; ".join(sorted(kinds))
        raise WhetError(
            f"the runs of this race were made on different machines, and times on different hardware are not compared: {told}. "
            "Run all on one kind of machine, with a WHET_HOME of its own if this one holds runs of others"
        )
    return next(iter(found.values()), {})
