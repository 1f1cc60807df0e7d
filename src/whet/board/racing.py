"""The pages of races: their list, and one race with its comparisons."""

from __future__ import annotations

from typing import Any

from whet.board import live, pages
from whet.board.records import Records
from whet.run.ledger import RaceRecord
from whet.run.plain import as_yaml
from whet.run.race.page import rules, shown_of


def listed(records: Records, record: RaceRecord) -> dict[str, Any]:
    """A race in a list."""
    result = record.result
    return {
        "id": record.id,
        "name": record.name,
        "status": records.status(record),
        "started": f"{record.started:%Y-%m-%d %H:%M}",
        "summary": rules(result) if "scores" in result else progress(records, record),
        "headline": headline(record),
        "error": result.get("error", ""),
    }


def headline(record: RaceRecord) -> str:
    """The algorithms with their scores, the best first; empty of a race that has none."""
    scores = record.result.get("scores", {})
    told = ", ".join(f"{name} {scores[name]:.3f}" for name in sorted(scores, key=lambda n: -scores[n]))
    return f"scores: {told}" if told else ""


def progress(records: Records, record: RaceRecord) -> str:
    """How far a race is that did not come to its end."""
    begun = _begun(records, record)
    if not begun:
        return f"setting the targets, runs of the reference optimizers done: {len(records.done(records.parts(record.id)))}"
    done = sum(c.status == "done" for c in begun)
    return f"{done} of {len(record.result.get('workloads', begun))} workloads done"


def _begun(records: Records, record: RaceRecord) -> list[Any]:
    """The comparisons of a race in the order in which they began."""
    own = records.parts(record.id)
    return [c for c in reversed(records.comparisons()) if c.id in own]


def race_page(records: Records, record: RaceRecord) -> dict[str, Any]:
    """What the page of a race shows; one that is finished as its own page does."""
    finished = "scores" in record.result
    begun = [] if finished else _begun(records, record)
    own = set() if finished else records.parts(record.id)
    return {
        "record": record,
        "row": listed(records, record),
        "about": record.document.get("about", ""),
        "live": live.under_way(records, within=record.id) if records.status(record) == "running" else [],
        "comparisons": [pages.listed(records, c) for c in begun],
        "waiting": [] if finished else record.result.get("workloads", [])[len(begun) :],
        "targets": [pages.run_row(records, run) for identity in sorted(own) if (run := records.run(identity))],
        "document": as_yaml(record.document),
        "pages": records.pages(record.id),
        **(shown_of(record.result) if finished else {"race": None}),
    }
