"""The tables of the ledger: runs with their steps, comparisons, races, and what belongs to what."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from sqlalchemy import BigInteger, DateTime, ForeignKey, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


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


class Membership(Base):
    """What a run or comparison is carried out for: ``part`` is its id, ``whole`` that of the comparison or race."""

    __tablename__ = "memberships"

    part: Mapped[str] = mapped_column(primary_key=True)
    whole: Mapped[str] = mapped_column(index=True)


class Forgotten(Base):
    """A run whose artifacts need not be kept; its record stays."""

    __tablename__ = "forgotten"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    moment: Mapped[dt.datetime]
