"""The steps of one run: each begun or found again by its identity, and recorded in the ledger with what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.recipe import Recipe
from whet.recipe_steps import BASE, Step
from whet.run import identity as ids
from whet.run.artifact import RECEIPT
from whet.run.diff import why
from whet.run.ledger import Ledger, Run, StepRecord, in_passing
from whet.run.show import receipt_lines
from whet.run.steps import Inputs
from whet.run.store import Store
from whet.workers import Local, Pool


@dataclass
class RunSteps:
    """What is known of a run's steps so far, by name: their ``records``, ``identities`` (of models that no step made, too) and the
    ``folders`` of their artifacts. ``say`` prints a line.
    """

    recipe: Recipe
    run: Run
    store: Store
    ledger: Ledger
    pool: Pool
    say: Callable[[str], None]
    records: dict[str, StepRecord] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)

    def begin(self, section: str, step: Step | Any, name: str) -> StepRecord | None:
        """Identifies a step and looks for its artifact; its record, or ``None`` if it is there already."""
        if name in self.folders and name in self.identities:
            return None
        settings = ids.effective_settings(section, step) if section != "base" else ids.plain(step)
        inputs = ids.inputs(self.recipe, section, step, self._identity) | ids.fingerprints(step)
        code = ids.code_hash(section, step)
        identity = ids.identity(section, settings, inputs, self.recipe.seed, code)
        record = StepRecord(
            run_id=self.run.id,
            position=[BASE, *(s.name for _, s in self.recipe.steps)].index(name) - 1,
            name=name,
            section=section,
            identity=identity,
            status="running",
            why="",
            inputs={**inputs, "code": code},
            settings=settings,
            receipt={},
            cost={},
        )
        self.records[name] = record
        # The record comes first: an artifact that a record names is not collected.
        self.ledger.save(record)
        reused = self.store.claim(identity)
        record.status = "reused" if reused else "running"
        again = "inputs, settings, code and seed are those of a finished step"
        record.why = again if reused else why(self.ledger.last_made(self.recipe.name, record.name), self.run, record)
        self.say(f"\n[{section}] {name}: {'reused' if reused else record.why}")
        self.ledger.save(record)
        if reused:
            self.finish(record, made=False)
            return None
        return record

    def finish(self, record: StepRecord, made: bool) -> None:
        """Takes a step's artifact in use and records what it says."""
        if not made and record.status != "reused":
            record.why = "another run made it while this one waited"
        self.identities[record.name] = record.identity
        self.folders[record.name] = self.store.get(record.identity)
        saved = json.loads((self.folders[record.name] / RECEIPT).read_text())
        lost = [why for why in self.pool.tally.lost if why.startswith(f"step {record.name}:")]
        record.receipt, record.cost = saved["receipt"], {**saved["cost"], **({"workers_lost": lost} if lost else {})}
        record.status = "done" if made else "reused"
        self.ledger.save(record)
        self._say_receipt(record, together=made and not isinstance(self.pool, Local))

    def fail(self, record: StepRecord, error: BaseException) -> None:
        """Records that a step failed, or was stopped, and the error."""
        record.status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        record.receipt = {"error": f"{type(error).__name__}: {error}"}
        with in_passing():
            self.ledger.save(record)

    def made(self) -> dict[str, str]:
        """Name of each finished step -> identity of its artifact. The recipe's own model, where it is a name or a folder, is none."""
        return {name: self.identities[name] for name, path in self.folders.items() if path.name == self.identities.get(name)}

    def _identity(self, name: str) -> str:
        """The identity of a step before, or of a model that no step made."""
        if name not in self.identities:
            self.identities[name] = ids.model_identity(Inputs(self.recipe, self.folders).model(name))
        return self.identities[name]

    def _say_receipt(self, record: StepRecord, together: bool) -> None:
        lines = [f"  {line}" for line in receipt_lines(record.receipt, record.cost)]
        # Steps that run side by side end in any order, far from the line that announced them.
        for line in [f"\n[{record.section}] {record.name}: {record.status}", *lines] if together else lines:
            self.say(line)
