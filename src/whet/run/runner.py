"""Carries a recipe out: each step once, found again by its identity, recorded in the ledger."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, StoreError
from whet.interrupt import graceful
from whet.model import quiet_transformers, resolve
from whet.recipe import Recipe, needs_no_model, read
from whet.recipe_steps import BASE, Step
from whet.run import identity as ids
from whet.run.alive import alive, settle
from whet.run.artifact import make_artifact
from whet.run.bundled import find_recipe
from whet.run.cluster import check_reach, open_pool
from whet.run.ledger import Ledger, Membership, Run, StepRecord, in_passing
from whet.run.machine import machine, versions
from whet.run.models import outline
from whet.run.preflight import preflight
from whet.run.ranks import dismiss_others, train_along
from whet.run.report import check_out, copy_out, write_report
from whet.run.run_steps import RunSteps
from whet.run.seen import seen_notes
from whet.run.side_by_side import StepJob, Work, side_by_side
from whet.run.steps import MODEL, Inputs
from whet.run.store import Store
from whet.train.distributed import world
from whet.workers import Local, Pool


@dataclass(frozen=True)
class RunResult:
    """A finished run: its record, where its report lies, and where the artifacts of its steps are."""

    run: Run
    report: Path
    folders: Mapping[str, Path]

    def summary(self) -> dict[str, Any]:
        """The run as plain data."""
        shown = ("name", "section", "status", "why", "cost")
        steps = [{**{name: getattr(s, name) for name in shown}, "artifact": str(self.folders[s.name])} for s in self.run.steps]
        return {"run": self.run.id, "report": str(self.report), "steps": steps}

    def closing(self) -> str:
        """What is printed when a run ends."""
        made = [f"{name}: {folder}" for name, folder in self.exports().items()]
        return "\n".join(["", f"run {self.run.id} done", f"report: {self.report}", *made, f"whet show {self.run.id}"])

    def exports(self) -> dict[str, Path]:
        """Export step -> the folder that other software loads: beside the report if it was copied there."""
        made = {s.name: self.folders[s.name] for s in self.run.steps if s.section == "export"}
        copied = {name: self.report.parent / name for name in made if (self.report.parent / name).is_dir()}
        return {name: folder / MODEL for name, folder in (made | copied).items()}


def run_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    store: Store | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    on: str | None = None,
    part_of: str = "",
) -> RunResult:
    """Runs a recipe; finished steps are reused, a stopped run goes on where it was.

    Several processes that torchrun started train together; the first does everything else, records and prints.

    Args:
        recipe: a file, a bundled recipe's name, a mapping, or a recipe already read.
        overrides: ``path=value`` each.
        store: default: the folder ``$WHET_HOME``.
        out: a folder that also gets the report and the exports.
        quiet: print nothing.
        on: where steps are carried out: an address as :func:`whet.run.cluster.open_pool` takes it; default here.
        part_of: id of the comparison or race that it is carried out for.

    Raises:
        RecipeError: the recipe cannot be carried out; raised before anything runs.
        WhetError: a step failed; the run is recorded as failed and its finished steps are kept.
    """
    if not isinstance(recipe, Recipe):
        recipe = read(find_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe, overrides)
    quiet_transformers()
    store = store or Store.open()
    ledger, ranks = Ledger.beside(store.scratch), world()
    if ranks.size > 1 and on:
        raise RecipeError(f"--on {on} and torchrun exclude each other: start one process to use a cluster")
    say: Callable[[str], None] = (lambda _: None) if quiet else print
    with graceful(), ranks.together(lambda: "while the recipe was carried out; the same command goes on where it was"):
        if ranks.rank:
            run, report, folders = train_along(recipe, ranks)
            return RunResult(ledger.run(run), report, folders)
        check_out(out)
        with closing(open_pool(on)) as pool:
            check_reach(pool, store)
            result = _Runner(recipe, store, ledger, say, pool, part_of).run(Path(out) if out else None)
        dismiss_others(ranks, result.run.id, result.report, result.folders)
        return result


class _Runner:
    """One run in progress."""

    def __init__(
        self, recipe: Recipe, store: Store, ledger: Ledger, say: Callable[[str], None], pool: Pool, part_of: str = ""
    ) -> None:
        self.recipe, self.store, self.ledger, self.say, self.pool = recipe, store, ledger, say, pool
        now = dt.datetime.now(dt.UTC)
        self.run_record = Run(
            id=f"{recipe.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
            recipe=recipe.name,
            document=dict(recipe.document),
            seed=recipe.seed,
            status="running",
            started=now,
            finished=None,
            versions=versions(),
            machine=machine(),
            steps=[],
        )
        self.steps = RunSteps(recipe, self.run_record, store, ledger, pool, say)
        self.membership = [Membership(part=self.run_record.id, whole=part_of)] if part_of else []

    def run(self, out: Path | None) -> RunResult:
        self.store.prepare()
        settle(self.store, self.ledger)
        identity = self.run_record.id
        with alive(self.store, identity):
            self.ledger.save(self.run_record, *self.membership)
            self.say(f"run {identity}")
            try:
                self._base()
                self._try_inputs()
                self._steps()
                report = self._report(out)
            except BaseException as error:
                status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
                with in_passing():
                    self.ledger.finish(identity, status)
                raise
            self.ledger.finish(identity, "done")
        return RunResult(self.ledger.run(identity), report, self.steps.folders)

    def _report(self, out: Path | None) -> Path:
        """Writes the report before the run counts as done: what is done has one.

        Raises:
            StoreError: there is no room for it; every step is finished and will be reused.
        """
        record = self.ledger.run(self.run_record.id)
        record.status = "done"
        try:
            report = write_report(record, self.steps.folders, self.store.scratch / "runs" / record.id)
            exports = {step.name: self.steps.folders[step.name] for step in self.recipe.section("export")}
            return report if out is None else copy_out(report, exports, out)
        except OSError as error:
            raise StoreError(
                f"every step of run {record.id} is finished, but its report cannot be written: {error}; make room there, or "
                "name another folder by WHET_HOME or --out, and run again"
            ) from error

    def _base(self) -> None:
        """The recipe's own model: made from scratch as a step of its own, else identified by its weights."""
        if isinstance(self.recipe.model, str):
            resolve(self.recipe.model)
            self.steps.folders[BASE] = Path(self.recipe.model)
            return
        if self.recipe.tokenizer_data:
            name = self.recipe.tokenizer_data
            self._step("data", self.recipe.step(name))
        self._step("base", self.recipe.model, name=BASE)

    def _try_inputs(self) -> None:
        """Makes the rows that need no model, and tries what the steps will read before anything is computed."""
        if isinstance(self.pool, Local):
            for section, step in self.recipe.steps:
                if section == "data" and needs_no_model(self.recipe, step.name):
                    self._step(section, step)
        inputs = Inputs(self.recipe, self.steps.folders)
        if any(section != "data" for section, _ in self.recipe.steps):

            def rows_of(name: str) -> Any:
                return inputs.dataset(name) if name in self.steps.folders else None

            preflight(self.recipe, outline(inputs.model_folder(BASE)), rows_of)
            for note in seen_notes(self.recipe, rows_of):
                self.say(f"\nnote: {note}")

    def _steps(self) -> None:
        if isinstance(self.pool, Local):
            for section, step in self.recipe.steps:
                self._step(section, step)
        else:
            side_by_side(self.recipe, self.pool, Work(self._job, self._here, self._settle))

    def _step(self, section: str, step: Step | Any, name: str | None = None) -> None:
        record = self.steps.begin(section, step, name or step.name)
        if record is not None:
            self.steps.finish(record, self._carry_out(section, step, record))

    def _job(self, entry: tuple[str, Step]) -> StepJob | None:
        """Begins a step; what a worker needs to carry it out, if there is something to do."""
        section, step = entry
        record = self.steps.begin(section, step, step.name)
        if record is None:
            return None
        return StepJob(
            document=self.recipe.document,
            section=section,
            name=step.name,
            identity=record.identity,
            inputs=self.steps.made(),
            stages=ids.stages(self.recipe, step) if section == "measure" else (),
            store=self.store.address if self.store.remote else str(self.store.scratch.absolute()),
            nested=self.pool.nested,
            cwd=str(Path.cwd()),
        )

    def _here(self, entry: tuple[str, Step]) -> None:
        section, step = entry
        record = self.steps.records[step.name]
        self.steps.finish(record, self._carry_out(section, step, record))

    def _settle(self, entry: tuple[str, Step], outcome: bool | BaseException) -> None:
        """Records what became of a step on a worker."""
        record = self.steps.records[entry[1].name]
        if isinstance(outcome, BaseException):
            self.steps.fail(record, outcome)
        else:
            self.steps.finish(record, outcome)

    def _carry_out(self, section: str, step: Any, record: StepRecord) -> bool:
        """Makes the step's artifact; ``False`` if another run, which was at it already, made it."""
        inputs = Inputs(self.recipe, self.steps.folders, ids.stages(self.recipe, step) if section == "measure" else ())
        try:
            return make_artifact(self.store, record.identity, section, step, inputs, record.name)
        except BaseException as error:
            self.steps.fail(record, error)
            raise
