"""Races on the board: none, under way, interrupted; and which runs are whose."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from whet.board.app import make_app
from whet.board.guard import Access
from whet.run.alive import alive
from whet.run.ledger import ComparisonRecord, Ledger, Membership, RaceRecord, Run, StepRecord
from whet.run.store import Store

RACE, FIRST, SECOND = "race-1", "same-1", "same-2"
VARIANTS = {"variants": {"a": {}, "b": {"train.0.lr": 0.1}}, "seeds": 3}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store.open(str(tmp_path / "home"))
    found.prepare()
    return found


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger.beside(store.scratch)


@pytest.fixture
def get(store: Store, ledger: Ledger) -> Callable[[str], str]:
    client = TestClient(make_app(store, ledger, None, Access.to("localhost")), base_url="http://localhost")

    def text(address: str) -> str:
        answer = client.get(address)
        assert answer.status_code == 200
        return answer.text

    return text


def race(status: str = "running", **result: Any) -> RaceRecord:
    now = dt.datetime.now(dt.UTC)
    workloads = {"workloads": ["chains", "chains, wide"], **result}
    return RaceRecord(id=RACE, name="sprint", status=status, started=now, finished=None, document={"race": {}}, result=workloads)


def comparison(identity: str, status: str = "running") -> ComparisonRecord:
    now, document = dt.datetime.now(dt.UTC), {"name": "same", "train": [{"name": "t"}], "compare": VARIANTS}
    return ComparisonRecord(id=identity, name="same", status=status, started=now, finished=None, document=document, result={})


def run(identity: str, whole: str, status: str = "done", measured: str = "test") -> list[Any]:
    """A run of variant a, as any comparison of the name calls it."""
    now, blank = dt.datetime.now(dt.UTC), {"inputs": {}, "settings": {}, "receipt": {}, "cost": {}}
    step = {"name": measured, "section": "measure", "identity": f"i-{identity}", "status": status, "why": ""}
    return [
        Run(id=identity, recipe="same-a", document={"name": "same-a"}, seed=0, status=status, started=now, finished=None,
            versions={}, machine={}, steps=[]),
        StepRecord(run_id=identity, position=0, **step, **blank),
        Membership(part=identity, whole=whole),
    ]  # fmt: skip


def test_without_a_race_the_board_says_how_to_begin_one(get: Callable[[str], str]) -> None:
    assert "whet race training-algorithm-race" in get("/races")
    assert "<h2>Races" not in get("/")


def test_a_race_that_sets_its_targets_and_one_that_runs_are_told_apart(
    get: Callable[[str], str], store: Store, ledger: Ledger
) -> None:
    with alive(store, RACE), alive(store, "t-2"), alive(store, FIRST):
        ledger.save(race(), *run("t-1", RACE), *run("t-2", RACE, "running"))
        page = get(f"/races/{RACE}")
        assert (
            "setting the targets, runs of the reference optimizers done: 1" in page and "Not begun: chains; chains, wide" in page
        )
        assert "badge running" in page and "t-1" in page and 'data-from="/live?within=race-1"' in page
        assert "its race" in get("/runs/t-1")

        ledger.save(comparison(FIRST), Membership(part=FIRST, whole=RACE), *run("c-1", FIRST))
        page = get(f"/races/{RACE}")
        assert "0 of 2 workloads done" in page and "1 of 6 runs done" in page and "Not begun: chains, wide<" in page
        assert f"/comparisons/{FIRST}" in page and f"/races/{RACE}" in get(f"/comparisons/{FIRST}")
        ledger.save(comparison(FIRST, "done"))
        assert "1 of 2 workloads done" in get("/races") and "1 of 2 workloads done" in get("/")


def test_a_race_whose_process_is_gone_is_interrupted_and_keeps_what_it_has(
    get: Callable[[str], str], store: Store, ledger: Ledger
) -> None:
    with alive(store, RACE):
        ledger.save(race(), comparison(FIRST, "interrupted"), Membership(part=FIRST, whole=RACE), *run("c-1", FIRST))
        lock = store.scratch / "locks" / f"run-{RACE}"
        held = lock.read_text()
        lock.unlink()
        lock.write_text(held)
        page = get(f"/races/{RACE}")
        assert "badge interrupted" in page and "the same command goes on where it was" in page and "/live?" not in page
        assert "1 of 6 runs done" in page and FIRST in page


def test_a_race_that_failed_says_why(get: Callable[[str], str], ledger: Ledger) -> None:
    ledger.save(race("failed", error="WhetError: no target <b>"))
    for address in ("/races", f"/races/{RACE}", "/search?q=race-1"):
        assert "failed" in get(address)
    assert "WhetError: no target &lt;b&gt;" in get(f"/races/{RACE}") and "<b>&" not in get(f"/races/{RACE}")


def test_comparisons_of_one_name_count_their_own_runs(get: Callable[[str], str], store: Store, ledger: Ledger) -> None:
    with alive(store, FIRST), alive(store, SECOND), alive(store, "c-4"):
        ledger.save(comparison(FIRST), comparison(SECOND), *run("c-1", FIRST), *run("c-2", FIRST), *run("c-3", SECOND))
        ledger.save(*run("c-4", SECOND, "running"), *run("trial", SECOND, measured="validation"), *run("alone", ""))
        assert "2 of 6 runs done" in get(f"/comparisons/{FIRST}") and "1 of 6 runs done" in get(f"/comparisons/{SECOND}")
        assert "c-4" in get(f"/live?within={SECOND}") and "c-4" not in get(f"/live?within={FIRST}")
        assert f"/comparisons/{SECOND}" in get("/runs/c-4") and "its comparison" not in get("/runs/alone")
