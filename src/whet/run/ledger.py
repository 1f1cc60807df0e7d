"""The ledger: which runs and comparisons there were, of what, with which results. SQLite by default, any SQLAlchemy URL by choice."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import BigInteger, DateTime, Engine, ForeignKey, Text, TypeDecorator, create_engine, event, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from whet.errors import StoreError, unknown

log = logging.getLogger(__name__)

Row = TypeVar("Row")
AnyResult = TypeVar("AnyResult", bound="Result")


class Document(TypeDecorator[dict[str, Any]]):
    """A mapping as JSON text: unlike a database's own JSON type it keeps NaN and any text that a model wrote."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:
        return json.dumps(value, default=str)

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return json.loads(value)


class Moment(TypeDecorator[dt.datetime]):
    """A point in time, given and returned in UTC whatever the database keeps."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Any) -> dt.datetime | None:
        return value and value.astimezone(dt.UTC)

    def process_result_value(self, value: dt.datetime | None, dialect: Any) -> dt.datetime | None:
        if value is None:
            return None
        return value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: Document, dt.datetime: Moment}


class Run(Base):
    """One run of a recipe: what was asked for, on what, and how it ended (``running``, ``done``, ``failed``, ``stopped``, ``interrupted``)."""

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(primary_key=True)
    recipe: Mapped[str]
    document: Mapped[dict[str, Any]]
    seed: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str]
    started: Mapped[dt.datetime]
    finished: Mapped[dt.datetime | None]
    versions: Mapped[dict[str, Any]]
    machine: Mapped[dict[str, Any]]
    steps: Mapped[list[StepRecord]] = relationship(
        back_populates="run", order_by="StepRecord.position", cascade="all, delete-orphan"
    )


class StepRecord(Base):
    """One step of a run. ``why`` says why it ran or was reused; ``identity`` finds its artifact."""

    __tablename__ = "steps"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    section: Mapped[str]
    identity: Mapped[str]
    status: Mapped[str]
    why: Mapped[str]
    inputs: Mapped[dict[str, Any]]
    settings: Mapped[dict[str, Any]]
    receipt: Mapped[dict[str, Any]]
    cost: Mapped[dict[str, Any]]
    run: Mapped[Run] = relationship(back_populates="steps")


class Result(Base):
    """What is carried out by several runs: the file that asked for it, how it ended (as a run does), and then its summary as
    ``result`` (before the end: empty; of one that failed: ``error``).
    """

    __abstract__ = True

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    status: Mapped[str]
    started: Mapped[dt.datetime]
    finished: Mapped[dt.datetime | None]
    document: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any]]


class ComparisonRecord(Result):
    """One comparison; ``result``: see ``whet.run.compare.summary``. Its runs are runs like any."""

    __tablename__ = "comparisons"


class RaceRecord(Result):
    """One race; ``result``: see ``whet.run.race.page.summary``. Its comparisons are comparisons like any."""

    __tablename__ = "races"


class Forgotten(Base):
    """A run whose artifacts need not be kept; its record stays."""

    __tablename__ = "forgotten"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    moment: Mapped[dt.datetime]


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
            found = list(session.scalars(select(Run).order_by(Run.started.desc())))
            for run in found:
                _ = run.steps
            return found

    def comparisons(self) -> list[ComparisonRecord]:
        """All comparisons, newest first."""
        return self._all(ComparisonRecord)

    def races(self) -> list[RaceRecord]:
        """All races, newest first."""
        return self._all(RaceRecord)

    def _all(self, kind: type[AnyResult]) -> list[AnyResult]:
        with self.session() as session:
            return list(session.scalars(select(kind).order_by(kind.started.desc())))

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
        return _found("run", reference, {r.id: r for r in self.runs()}, lambda r: r.recipe)

    def comparison(self, reference: str) -> ComparisonRecord:
        """A comparison by its id, an unambiguous beginning of it, its name (the newest), or ``last``.

        Raises:
            StoreError: no such comparison, or several.
        """
        return _found("comparison", reference, {c.id: c for c in self.comparisons()}, lambda c: c.name)

    def race(self, reference: str) -> RaceRecord:
        """A race by its id, an unambiguous beginning of it, its name (the newest), or ``last``.

        Raises:
            StoreError: no such race, or several.
        """
        return _found("race", reference, {r.id: r for r in self.races()}, lambda r: r.name)


def _found(kind: str, reference: str, by_id: Mapping[str, Row], name: Callable[[Row], str]) -> Row:
    """What a user's reference means among rows that are in the order newest first."""
    if reference == "last" and by_id:
        return next(iter(by_id.values()))
    named = [row for row in by_id.values() if name(row) == reference]
    if reference in by_id or named:
        return by_id[reference] if reference in by_id else named[0]
    started = [identity for identity in by_id if identity.startswith(reference)]
    if len(started) == 1:
        return by_id[started[0]]
    if started:
        raise StoreError(f"{reference!r} begins several {kind}s: {', '.join(started)}")
    raise StoreError(unknown(kind, reference, list(by_id)[:20]))


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
