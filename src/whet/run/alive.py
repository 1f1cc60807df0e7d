"""Whether a run that the ledger calls ``running`` still is: each run holds a lock for as long as its process lives.

The operating system releases the lock however the process ends, SIGKILL included. In the lock's file stands which machine the
run is on: of a run on another machine, or one without the file, nothing is claimed.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.run.ledger import Ledger, Run
from whet.run.store import Store
from whet.run.store_lock import locked

INTERRUPTED = "interrupted"
"""How a run ended whose process is gone without having said how."""


@contextmanager
def alive(store: Store, run_id: str) -> Iterator[None]:
    """Marks the run as under way on this machine while inside."""
    path = _file(store, run_id)
    with locked(path):
        path.write_text(platform.node())
        yield


def settle(store: Store, ledger: Ledger) -> None:
    """Records as interrupted the runs of this machine whose process is gone."""
    for run in ledger.runs():
        if run.status == "running" and _here(store, run):
            with locked(_file(store, run.id), wait=False) as gone:
                if gone:
                    _record(ledger, run.id)


def note(store: Store, run: Run) -> str:
    """What can be said about the status of a run, after :func:`settle`; empty where the status says it all."""
    if run.status == INTERRUPTED:
        return "its process is gone; the same command goes on where it was"
    if run.status != "running":
        return ""
    if _here(store, run):
        return "on this machine, now"
    return "started on another machine or with another store folder; from here it cannot be told whether it still runs"


def _file(store: Store, run_id: str) -> Path:
    return store.scratch / "locks" / f"run-{run_id}"


def _here(store: Store, run: Run) -> bool:
    path = _file(store, run.id)
    return path.is_file() and path.read_text() == platform.node()


def _record(ledger: Ledger, run_id: str) -> None:
    with ledger.session() as session:
        run = session.get_one(Run, run_id)
        run.status = INTERRUPTED if run.status == "running" else run.status
        for step in run.steps:
            step.status = INTERRUPTED if step.status == "running" else step.status
