"""Reads the ledger and the store for the pages; writes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, case, func, select, type_coerce
from sqlalchemy.orm import load_only

from whet.measure.results import read_result
from whet.run.alive import INTERRUPTED, is_gone
from whet.run.compare.plan import VALIDATION
from whet.run.comparisons import RESULTS
from whet.run.ledger import ComparisonRecord, Ledger, RaceRecord, Run, StepRecord
from whet.run.ledger_tables import Document, Membership, Result
from whet.run.manifest import MANIFEST
from whet.run.store import Store

if TYPE_CHECKING:
    from whet.measure.outcome import TaskResult

PAGES = ("report.html", "compare.html", "recover.html", "race.html")
"""What lies in a run's, comparison's or race's folder for a reader."""

result_at = lru_cache(maxsize=64)(read_result)
"""The outcomes in a file; artifacts never change."""


@dataclass(frozen=True)
class Step:
    """What the graphs need of a step's record; ``settings`` and ``receipt`` of an edit alone, else empty."""

    run: str
    position: int
    name: str
    section: str
    identity: str
    status: str
    inputs: dict[str, Any]
    settings: Mapping[str, Any]
    receipt: Mapping[str, Any]


@dataclass(frozen=True)
class Records:
    """The ledger and the store that a board shows."""

    store: Store
    ledger: Ledger

    def runs(self, count: int, start: int = 0, status: str | None = None) -> list[Run]:
        """Runs from the newest on, without their steps and documents."""
        few = load_only(Run.id, Run.recipe, Run.seed, Run.status, Run.started, Run.finished)
        asked = select(Run).options(few).order_by(Run.started.desc(), Run.id).offset(start).limit(count)
        with self.ledger.session() as session:
            return list(session.scalars(asked if status is None else asked.where(Run.status == status)))

    def number_of_runs(self) -> int:
        with self.ledger.session() as session:
            return session.scalar(select(func.count()).select_from(Run)) or 0

    def run(self, identity: str) -> Run | None:
        """A run with its steps."""
        with self.ledger.session() as session:
            found = session.get(Run, identity)
            if found is not None:
                _ = found.steps
            return found

    def comparisons(self) -> list[ComparisonRecord]:
        """All comparisons, newest first."""
        return self.ledger.comparisons()

    def comparison(self, identity: str) -> ComparisonRecord | None:
        with self.ledger.session() as session:
            return session.get(ComparisonRecord, identity)

    def races(self) -> list[RaceRecord]:
        """All races, newest first."""
        return self.ledger.races()

    def race(self, identity: str) -> RaceRecord | None:
        with self.ledger.session() as session:
            return session.get(RaceRecord, identity)

    def parts(self, whole: str) -> set[str]:
        """Ids of the runs and comparisons that a comparison or race has begun."""
        return self.ledger.parts(whole)

    def whole(self, part: str) -> str:
        """Id of the comparison or race that a run or comparison is carried out for; empty if there is none."""
        with self.ledger.session() as session:
            return session.scalar(select(Membership.whole).where(Membership.part == part)) or ""

    def done(self, runs: Collection[str]) -> set[str]:
        """Those of the runs that are done."""
        with self.ledger.session() as session:
            return set(session.scalars(select(Run.id).where(Run.id.in_(runs), Run.status == "done")))

    def owner(self, run: str) -> tuple[str, str]:
        """What a run is carried out for: ``comparison`` or ``race``, and its id; both empty if nothing is known.

        Of a run from before the ledger kept it, it is the newest finished comparison that names it.
        """
        if whole := self.whole(run):
            return "race" if self.race(whole) else "comparison", whole
        for record in self.comparisons():
            if any(run in arm.get("runs", {}).values() for arm in record.result.get("variants", {}).values()):
                return "comparison", record.id
        return "", ""

    def status(self, entry: Run | Result) -> str:
        """As in the ledger; ``interrupted`` also where the ledger does not know yet that the process is gone."""
        with suppress(OSError):
            if is_gone(self.store, entry):
                return INTERRUPTED
        return entry.status

    def steps(self, runs: Collection[str] | None = None) -> list[Step]:
        """The steps of these runs, or of all, as the graphs need them."""
        columns = (
            StepRecord.run_id,
            StepRecord.position,
            StepRecord.name,
            StepRecord.section,
            StepRecord.identity,
            StepRecord.status,
            StepRecord.inputs,
        )
        documents = (
            type_coerce(case((StepRecord.section == "edit", type_coerce(d, Text)), else_="{}"), Document)
            for d in (StepRecord.settings, StepRecord.receipt)
        )
        asked = select(*columns, *documents)
        with self.ledger.session() as session:
            rows = session.execute(asked if runs is None else asked.where(StepRecord.run_id.in_(runs)))
            return [Step(*row) for row in rows]

    def artifact(self, identity: str) -> Path | None:
        """An artifact's folder on this machine; ``None`` if it is no longer here."""
        folder = self.store.scratch / "artifacts" / identity
        if not (folder / MANIFEST).is_file() and self.store.remote and self.store.has(identity):
            return self.store.get(identity)
        return folder if (folder / MANIFEST).is_file() else None

    def result_files(self, runs: Collection[str]) -> dict[str, dict[tuple[str, str], Path]]:
        """Run -> (task, stage) -> the file with its outcomes; validation, and what is no longer in the store, left out."""
        found: dict[str, dict[tuple[str, str], Path]] = {}
        for step in self.steps(runs):
            measured = step.section == "measure" and step.name != VALIDATION and step.status in ("done", "reused")
            folder = self.artifact(step.identity) if measured else None
            if folder is not None:
                listing = json.loads((folder / RESULTS).read_text())
                found.setdefault(step.run, {}).update({(e["task"], e["stage"]): folder / e["file"] for e in listing})
        return found

    def results(self, runs: Sequence[tuple[int, str]], task: str, stage: str | None = None) -> dict[int, TaskResult]:
        """Seed -> the outcomes of a task, for pairs of seed and run; without ``stage``, of the only one measured."""
        files = self.result_files([run for _, run in runs])
        found = {}
        for seed, run in runs:
            paths = [path for (t, s), path in files.get(run, {}).items() if t == task and stage in (None, s)]
            if paths:
                found[seed] = result_at(paths[0])
        return found

    def pages(self, identity: str) -> list[str]:
        """The names of the pages that were written for a run, comparison or race."""
        folder = self.store.scratch / "runs" / identity
        return [name for name in PAGES if (folder / name).is_file()]
