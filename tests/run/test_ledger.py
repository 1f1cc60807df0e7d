"""The ledger keeps what it is given, the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path

import pytest
from sqlalchemy import Connection, Table, create_engine, event

from whet.errors import StoreError
from whet.run.ledger import Base, ComparisonRecord, Ledger, Run, StepRecord


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    if request.param == "postgresql":
        monkeypatch.setenv("WHET_LEDGER", request.getfixturevalue("database"))
    return Ledger.beside(tmp_path)


def _run(name: str, seed: int = 0) -> Run:
    now = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
    return Run(
        id=name, recipe=name.partition("-")[0], document={}, seed=seed, status="running", started=now, finished=None,
        versions={}, machine={}, steps=[],
    )  # fmt: skip


def _step(run: str, receipt: dict[str, object]) -> StepRecord:
    return StepRecord(
        run_id=run, position=0, name="first", section="train", identity="abc", status="done", why="", inputs={}, settings={},
        receipt=receipt, cost={},
    )  # fmt: skip


def test_what_is_saved_comes_back(ledger: Ledger) -> None:
    ledger.save(_run("kept-1", seed=2**40))
    ledger.save(_step("kept-1", {"loss": math.nan, "text": "\x00 \ud800 é ⟦"}))
    ledger.finish("kept-1", "done")
    run = ledger.run("kept-1")
    assert (run.seed, run.status, run.started.isoformat()) == (2**40, "done", "2024-01-01T12:00:00+00:00")
    assert run.finished is not None and abs(run.finished - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)
    receipt = run.steps[0].receipt
    assert math.isnan(receipt["loss"]) and receipt["text"] == "\x00 \ud800 é ⟦"


def test_a_step_saved_again_is_updated(ledger: Ledger) -> None:
    ledger.save(_run("twice-1"))
    for value in (1, 2):
        ledger.save(_step("twice-1", {"value": value}))
    assert [s.receipt for s in ledger.run("twice").steps] == [{"value": 2}]


def test_a_forgotten_run_stays_but_needs_nothing(ledger: Ledger) -> None:
    ledger.save(_run("old-1"), _step("old-1", {}))
    assert ledger.needs("abc") and not ledger.needs("abd")
    for _ in range(2):
        ledger.forget(["old-1"])
    assert ledger.forgotten() == {"old-1"} and not ledger.needs("abc")
    assert ledger.run("old").steps[0].identity == "abc"
    ledger.save(_run("new-1"), _step("new-1", {}))
    assert ledger.needs("abc")


def test_an_ambiguous_or_unknown_run_is_named(ledger: Ledger) -> None:
    ledger.save(_run("same-1"), _run("same-2"))
    with pytest.raises(StoreError, match="begins several runs"):
        ledger.run("same-")
    with pytest.raises(StoreError, match="unknown run 'sane-1'"):
        ledger.run("sane-1")


def test_comparisons_come_back_newest_first_and_are_found_like_runs(ledger: Ledger) -> None:
    for day in (1, 2):
        started = dt.datetime(2024, 1, day, tzinfo=dt.UTC)
        document, name = {"compare": {"seeds": day}}, f"ranks-{day}"
        ledger.save(
            ComparisonRecord(
                id=name, name="ranks", status="running", started=started, finished=None, document=document, result={}
            )
        )
    assert [c.id for c in ledger.comparisons()] == ["ranks-2", "ranks-1"] and ledger.runs() == []
    done = ledger.comparison("ranks")
    done.status, done.finished, done.result = "done", done.started, {"verdicts": [{"p": math.nan}]}
    ledger.save(done)
    found = ledger.comparison("last")
    assert (found.id, found.status, found.document) == ("ranks-2", "done", {"compare": {"seeds": 2}})
    assert math.isnan(found.result["verdicts"][0]["p"])
    with pytest.raises(StoreError, match="begins several comparisons"):
        ledger.comparison("rank")
    with pytest.raises(StoreError, match="unknown comparison 'rants-1'"):
        ledger.comparison("rants-1")


def test_a_ledger_that_cannot_be_reached_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=r"ledger postgresql://\*\*\*@127\.0\.0\.1:1/x cannot be opened") as caught:
        Ledger("postgresql://whet:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


def test_a_ledger_opens_while_another_run_is_making_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    other = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")

    def ahead(table: Table, connection: Connection, **_: object) -> None:
        if connection.engine is not other:
            table.create(other)

    tables = list(Base.metadata.tables.values())
    for table in tables:
        event.listen(table, "before_create", ahead)
    try:
        assert Ledger.beside(tmp_path).runs() == []
    finally:
        for table in tables:
            event.remove(table, "before_create", ahead)


def test_what_is_under_way_is_found_among_all(ledger: Ledger) -> None:
    ledger.save(_run("one-1"), _run("two-1"))
    ledger.finish("one-1", "done")
    assert [run.id for run in ledger.unfinished()] == ["two-1"] and ledger.ids() == {"one-1", "two-1"}


def test_the_last_made_step_is_that_of_the_newest_run_that_finished_it(ledger: Ledger) -> None:
    for day, status in enumerate(("done", "reused", "failed"), 1):
        run = _run(f"steps-{day}", seed=day)
        run.started = dt.datetime(2024, 1, day, tzinfo=dt.UTC)
        step = _step(run.id, {})
        step.status = status
        ledger.save(run, step)
    last = ledger.last_made("steps", "first")
    assert last is not None and (last.run.id, last.run.seed) == ("steps-2", 2)
    assert ledger.last_made("steps", "second") is None and ledger.last_made("other", "first") is None


def test_finding_one_run_reads_no_other(ledger: Ledger) -> None:
    """A ledger of thousands of runs holds all their curves."""
    for number in range(5):
        ledger.save(_run(f"many-{number}"), _step(f"many-{number}", {"curve": [number]}))
    loaded: list[str] = []

    def note(step: StepRecord, *_: object) -> None:
        loaded.append(step.run_id)

    event.listen(StepRecord, "load", note)
    try:
        ledger.run("many-3"), ledger.unfinished(), ledger.last_made("many", "first")
    finally:
        event.remove(StepRecord, "load", note)
    assert loaded[0] == "many-3" and len(loaded) == 2
