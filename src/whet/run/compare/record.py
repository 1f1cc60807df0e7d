"""A comparison's or race's record in the ledger, from its start to however it ends."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from whet.interrupt import graceful
from whet.run.alive import alive, settle
from whet.run.ledger import AnyResult, Ledger, Membership, in_passing
from whet.run.store import Store


def begun(kind: type[AnyResult], name: str, document: Mapping[str, Any]) -> AnyResult:
    """A record, with an id of its own, of what begins now."""
    now = dt.datetime.now(dt.UTC)
    return kind(
        id=f"{name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        name=name,
        status="running",
        started=now,
        finished=None,
        document=dict(document),
        result={},
    )


@contextmanager
def recorded(record: AnyResult, store: Store, part_of: str = "") -> Iterator[Ledger]:
    """Keeps the record in the ledger: that it is under way, and how it ends; what is inside sets its ``result``.

    Args:
        part_of: id of the race that it is carried out for.
    """
    store.prepare()
    ledger = Ledger.beside(store.scratch)
    settle(store, ledger)
    with graceful(), alive(store, record.id):
        ledger.save(record, *([Membership(part=record.id, whole=part_of)] if part_of else []))
        try:
            yield ledger
        except BaseException as error:
            record.status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            record.result = {**record.result, "error": f"{type(error).__name__}: {error}"}
            record.finished = dt.datetime.now(dt.UTC)
            with in_passing():
                ledger.save(record)
            raise
        record.status, record.finished = "done", dt.datetime.now(dt.UTC)
        ledger.save(record)
