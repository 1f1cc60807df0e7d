"""Whether a run, comparison or race that the ledger calls ``running`` still is: each holds a lock for as long as its process lives.

The operating system releases the lock however the process ends, SIGKILL included. In the lock's file stands which machine
it is on: of one on another machine, or one without the file, nothing is claimed.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whet.run.ledger import Ledger, Result, Run
from whet.run.store import Store
from whet.run.store_lock import is_free, locked

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
    """Records as interrupted the runs, comparisons and races of this machine whose process is gone."""
    for entry in ledger.unfinished():
        if _here(store, entry):
            with locked(_file(store, entry.id), wait=False) as gone:
                if gone:
                    _record(ledger, entry)
    locks = list((store.scratch / "locks").glob("run-*"))
    names = {_file(store, identity).name for identity in ledger.ids()} if locks else set()
    for path in locks:
        if path.name not in names:
            # Killed before the ledger knew it; a lock that nobody holds goes away as it is let go.
            with locked(path, wait=False):
                pass


def note(store: Store, run: Run | Result) -> str:
    """What can be said about the status of a run, comparison or race, after :func:`settle`; empty where the status says it all."""
    if run.status == INTERRUPTED:
        return "its process is gone; the same command goes on where it was"
    if run.status != "running":
        return ""
    if _here(store, run):
        return "on this machine, now"
    return "started on another machine or with another store folder; from here it cannot be told whether it still runs"


def is_gone(store: Store, run: Run | Result) -> bool:
    """Whether a run that the ledger calls running was on this machine and its process is gone; records nothing."""
    return run.status == "running" and _here(store, run) and is_free(_file(store, run.id))


def _file(store: Store, run_id: str) -> Path:
    return store.scratch / "locks" / f"run-{run_id}"


def _here(store: Store, run: Run | Result) -> bool:
    path = _file(store, run.id)
    return path.is_file() and path.read_text() == platform.node()


def _record(ledger: Ledger, entry: Run | Result) -> None:
    with ledger.session() as session:
        known: Any = session.get_one(type(entry), entry.id)
        for row in (known, *getattr(known, "steps", ())):
            row.status = INTERRUPTED if row.status == "running" else row.status
