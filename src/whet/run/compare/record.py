"""A comparison's record in the ledger, from its start to however it ends."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager

from whet.interrupt import graceful
from whet.run.alive import alive, settle
from whet.run.compare.plan import Plan
from whet.run.ledger import ComparisonRecord, Ledger, in_passing
from whet.run.store import Store


@contextmanager
def recorded(identity: str, plan: Plan, store: Store, started: dt.datetime) -> Iterator[ComparisonRecord]:
    """Keeps the comparison's record in the ledger: that it is under way, and how it ends; what is inside sets its ``result``."""
    store.prepare()
    ledger = Ledger.beside(store.scratch)
    settle(store, ledger)
    record = ComparisonRecord(
        id=identity, name=plan.name, status="running", started=started, finished=None, document=dict(plan.document), result={}
    )
    with graceful(), alive(store, identity):
        ledger.save(record)
        try:
            yield record
        except BaseException as error:
            record.status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            record.result, record.finished = {"error": f"{type(error).__name__}: {error}"}, dt.datetime.now(dt.UTC)
            with in_passing():
                ledger.save(record)
            raise
        record.status, record.finished = "done", dt.datetime.now(dt.UTC)
        ledger.save(record)
