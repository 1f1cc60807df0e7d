"""What a collection of the store may remove: the user's rules, and what the ledgers say of each artifact and run."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whet.errors import StoreError
from whet.run.ledger import ComparisonRecord, Ledger, RaceRecord, Run
from whet.run.store_lock import is_free


@dataclass(frozen=True)
class Rules:
    """What may go.

    Args:
        keep_runs: forget all but the newest so many runs.
        older_than: forget runs that began more than so many days ago; with ``keep_runs``, those that both rules name.
        forget: runs to forget, as ``whet show`` takes them.
        grace: hours; nothing younger is touched.
        only_ledger: no other ledger uses the store: what this one does not know may go too.
        delete: remove it; else only say what would go.
    """

    keep_runs: int | None = None
    older_than: float | None = None
    forget: Sequence[str] = ()
    grace: float = 24.0
    only_ledger: bool = False
    delete: bool = False

    def __post_init__(self) -> None:
        for name in ("keep_runs", "older_than", "grace"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise StoreError(f"{name}: {value!r} is below 0; nothing was removed")


@dataclass(frozen=True)
class Thing:
    """What goes: ``kind`` is artifact, checkpoints, leftover, lock, report, remote artifact or remote leftover."""

    kind: str
    name: str
    where: str
    bytes: int
    why: str


class Survey:
    """What the ledgers say about identities and runs, and how much is kept for which reason."""

    def __init__(self, ledgers: Sequence[Ledger], chosen: set[str], rules: Rules) -> None:
        self.ledgers, self.rules = ledgers, rules
        self.kept: Counter[str] = Counter()
        self.notes: list[str] = []
        self.forgotten = {run for ledger in ledgers for run in ledger.forgotten()} | chosen
        self.runs: dict[str, Run] = {run.id: run for ledger in ledgers for run in ledger.runs()}
        self.comparisons: dict[str, ComparisonRecord | RaceRecord] = {c.id: c for ledger in ledgers for c in ledger.comparisons()}
        self.comparisons |= {race.id: race for ledger in ledgers for race in ledger.races()}
        steps = [(step, run.id) for run in self.runs.values() for step in run.steps]
        self.known = {step.identity: f"{step.section} {step.name}" for step, _ in steps}
        self.needed = {step.identity for step, run in steps if run not in self.forgotten}
        self.limit = dt.datetime.now(dt.UTC) - dt.timedelta(hours=rules.grace)

    def reason(self, identity: str) -> str:
        """Why an artifact may go; empty if it is kept."""
        if identity in self.needed:
            self._keep("named by a run")
        elif identity in self.known:
            return f"{self.known[identity]}, of forgotten runs only"
        elif self.rules.only_ledger:
            return "in no run"
        else:
            self._keep("not known to this ledger (--only-ledger: there is no other)")
        return ""

    def is_young(self, newest: dt.datetime | None) -> bool:
        """Whether something was written within the grace period; what has no date counts as young."""
        young = newest is None or newest > self.limit
        if young:
            self._keep(f"younger than {self.rules.grace:g} hours (--grace)")
        return young

    def is_idle(self, lock: Path) -> bool:
        """Whether no process is at it."""
        free = is_free(lock)
        if not free:
            self._keep("in use at this moment")
        return free

    def needs(self, identity: str) -> bool:
        """Asks the ledgers again."""
        found = any(ledger.needs(identity) for ledger in self.ledgers)
        if found:
            self._keep("named by a run")
        return found

    def _keep(self, why: str) -> None:
        self.kept[why] += 1
