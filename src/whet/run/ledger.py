"""The ledger: which runs and comparisons there were, of what, with which results. SQLite by default, any SQLAlchemy URL by choice."""

from __future__ import annotations

import datetime as dt
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session, joinedload, selectinload

from whet.errors import StoreError, unknown
from whet.run.ledger_tables import Base, ComparisonRecord, Forgotten, Membership, RaceRecord, Result, Run, StepRecord

log = logging.getLogger(__name__)

Row = TypeVar("Row", Run, ComparisonRecord, RaceRecord)
AnyResult = TypeVar("AnyResult", bound=Result)

_WITH_STEPS = selectinload(Run.steps)


class Ledger:
    """Reads and writes the ledger at a SQLAlchemy URL.

    ``shown`` is the URL without its password, ``file`` the database of SQLite, ``None`` for a server's.
    """

    def __init__(self, url: str) -> None:
        self.shown = shown = re.sub(r"://[^@/]*@", "://***@", url)
        try:
            self._engine = create_engine(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url), pool_pre_ping=True)
            self.file = Path(self._engine.url.database or "") if self._engine.dialect.name == "sqlite" else None
            if self.file:
                event.listen(self._engine, "connect", _write_ahead)
            _make_tables(self._engine)
        except ModuleNotFoundError as error:
            raise StoreError(f"the ledger {shown} needs {error.name}; pip install 'whet[postgres]'") from error
        except SQLAlchemyError as error:
            raise StoreError(
                f"the ledger {shown} cannot be opened: {_cause(error)}; set WHET_HOME to a folder you can write, or WHET_LEDGER "
                "to a database"
            ) from error

    @classmethod
    def beside(cls, folder: Path) -> Ledger:
        """The ledger that ``$WHET_LEDGER`` names, else ``ledger.db`` in the store's folder."""
        return cls(os.environ.get("WHET_LEDGER") or f"sqlite:///{folder / 'ledger.db'}")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction; rows stay readable after it."""
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise StoreError(
                f"the ledger {self.shown} cannot be read or written: {_cause(error)}; artifacts are intact. Make room on its disk, "
                "or see that it can be reached and written, and run again"
            ) from error

    def save(self, *rows: Base) -> None:
        """Inserts or updates rows."""
        with self.session() as session:
            for row in rows:
                session.merge(row)

    def finish(self, run_id: str, status: str) -> None:
        """Records how a run ended, and when."""
        with self.session() as session:
            run = session.get_one(Run, run_id)
            run.status, run.finished = status, dt.datetime.now(dt.UTC)

    def runs(self) -> list[Run]:
        """All runs, newest first, with their steps."""
        with self.session() as session:
            return list(session.scalars(select(Run).options(_WITH_STEPS).order_by(Run.started.desc())))

    def ids(self) -> set[str]:
        """Ids of all runs, comparisons and races."""
        with self.session() as session:
            return {identity for kind in (Run, ComparisonRecord, RaceRecord) for identity in session.scalars(select(kind.id))}

    def unfinished(self) -> list[Run | Result]:
        """The runs (without their steps), comparisons and races that are ``running`` as far as the ledger knows."""
        found: list[Run | Result] = []
        with self.session() as session:
            for table in (Run, ComparisonRecord, RaceRecord):
                found += session.scalars(select(table).where(table.status == "running"))
        return found

    def last_made(self, recipe: str, name: str) -> StepRecord | None:
        """The step of this name that the newest run of a recipe has finished, with its run; ``None`` if there is none."""
        query = (
            select(StepRecord)
            .join(StepRecord.run)
            .options(joinedload(StepRecord.run))
            .where(Run.recipe == recipe, StepRecord.name == name, StepRecord.status.in_(("done", "reused")))
            .order_by(Run.started.desc())
        )
        with self.session() as session:
            return session.scalars(query.limit(1)).first()

    def comparisons(self) -> list[ComparisonRecord]:
        """All comparisons, newest first."""
        return self._all(ComparisonRecord)

    def races(self) -> list[RaceRecord]:
        """All races, newest first."""
        return self._all(RaceRecord)

    def _all(self, kind: type[AnyResult]) -> list[AnyResult]:
        with self.session() as session:
            return list(session.scalars(select(kind).order_by(kind.started.desc())))

    def parts(self, whole: str) -> set[str]:
        """Ids of the runs and comparisons that a comparison or race has begun."""
        with self.session() as session:
            return set(session.scalars(select(Membership.part).where(Membership.whole == whole)))

    def made_on(self, identities: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Identity -> the machine of the run that made the step, not of those that reused it; of steps that the ledger knows."""
        found: dict[str, dict[str, Any]] = {}
        wanted = sorted(set(identities))
        with self.session() as session:
            for start in range(0, len(wanted), 500):
                some = StepRecord.identity.in_(wanted[start : start + 500])
                query = select(StepRecord.identity, Run.machine).join(Run).where(some, StepRecord.status == "done")
                found.update((identity, machine) for identity, machine in session.execute(query))
        return found

    def forget(self, runs: Iterable[str]) -> None:
        """Marks runs as forgotten: what only they refer to may be collected. Their records stay."""
        now = dt.datetime.now(dt.UTC)
        self.save(*(Forgotten(run_id=run, moment=now) for run in runs))

    def forgotten(self) -> set[str]:
        """Ids of the runs marked as forgotten."""
        with self.session() as session:
            return set(session.scalars(select(Forgotten.run_id)))

    def needs(self, identity: str) -> bool:
        """Whether a run that is not forgotten refers to an artifact."""
        kept = StepRecord.run_id.not_in(select(Forgotten.run_id))
        asked = select(StepRecord.run_id).where(StepRecord.identity == identity, kept).limit(1)
        with self.session() as session:
            return session.scalars(asked).first() is not None

    def run(self, reference: str) -> Run:
        """A run by its id, an unambiguous beginning of it, its recipe's name (the newest), or ``last``.

        Raises:
            StoreError: no such run, or several.
        """
        return self._find(Run, Run.recipe, "run", reference)

    def comparison(self, reference: str) -> ComparisonRecord:
        """A comparison by its id, an unambiguous beginning of it, its name (the newest), or ``last``.

        Raises:
            StoreError: no such comparison, or several.
        """
        return self._find(ComparisonRecord, ComparisonRecord.name, "comparison", reference)

    def race(self, reference: str) -> RaceRecord:
        """A race by its id, an unambiguous beginning of it, its name (the newest), or ``last``.

        Raises:
            StoreError: no such race, or several.
        """
        return self._find(RaceRecord, RaceRecord.name, "race", reference)

    def _find(self, table: type[Row], name: InstrumentedAttribute[str], kind: str, reference: str) -> Row:
        # The rows themselves hold receipts and curves: of all but the one that is meant, names are enough.
        with self.session() as session:
            names = dict(session.execute(select(table.id, name).order_by(table.started.desc())).tuples().all())
            return session.get_one(table, _meant(kind, reference, names), options=[_WITH_STEPS] if table is Run else [])


def _meant(kind: str, reference: str, names: Mapping[str, str]) -> str:
    """The id that a user's reference means, of ids with their names in the order newest first.

    Raises:
        StoreError: none, or several.
    """
    if reference == "last" and names:
        return next(iter(names))
    if reference in names:
        return reference
    if (named := next((identity for identity, name in names.items() if name == reference), None)) is not None:
        return named
    started = [identity for identity in names if identity.startswith(reference)]
    if len(started) == 1:
        return started[0]
    if started:
        raise StoreError(f"{reference!r} begins several {kind}s: {', '.join(started)}")
    raise StoreError(unknown(kind, reference, list(names)[:20]))


@contextmanager
def in_passing() -> Iterator[None]:
    """For what is recorded while another error is on its way: a ledger that cannot be written must not hide that error."""
    try:
        yield
    except StoreError as error:
        log.warning("%s", error)


def _cause(error: SQLAlchemyError) -> str:
    """What the database said, without the statement that it was given."""
    return str(getattr(error, "orig", None) or error)


ATTEMPTS = 12
"""How often, every quarter of a second, the tables are made until all are there."""


def _write_ahead(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA journal_mode=WAL")


def _make_tables(engine: Engine) -> None:
    """Makes the tables that are missing; other runs may be making them at the same moment, each a step ahead at some table,
    or be switching a new file of SQLite to its write-ahead log, for which nobody waits."""
    if engine.dialect.name != "sqlite":
        engine.connect().close()  # A server that cannot be reached is found out once, not at every attempt.
    for attempt in range(ATTEMPTS):
        try:
            Base.metadata.create_all(engine)
            return
        except SQLAlchemyError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.25)
