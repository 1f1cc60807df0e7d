"""What is under way: each running step with its curve so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from whet.board.records import Records
from whet.recipe_steps import SECTIONS
from whet.run import figures
from whet.run.ledger import Run
from whet.run.progress import read_progress
from whet.run.show import number

POINTS = 600
"""Points of a curve that are drawn."""


def under_way(records: Records, run: str | None = None) -> list[dict[str, Any]]:
    """One entry per running step, of one run or of all; a run between two steps has one without a curve."""
    known = [records.run(r.id) for r in records.runs(50, status="running") if run in (None, r.id)]
    return [entry for r in known if r is not None and records.status(r) == "running" for entry in _entries(records, r)]


def curve(points: Sequence[Mapping[str, Any]], width: int = 860, height: int = 220) -> str:
    """A figure of loss (for rollouts, of the reward) over steps; empty with fewer than two points."""
    taken = thinned(points)
    if len(taken) < 2:
        return ""
    name = "reward" if any("reward" in _values(p) for p in taken) else "loss"
    ys = [float(_values(p).get(name, float("nan"))) for p in taken]
    return figures.curves([(name, [float(p["step"]) for p in taken], ys)], "step", width, height)


def thinned(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most about :data:`POINTS` of the points, the last one always."""
    stride = -(-len(points) // POINTS) or 1
    taken = list(points[::stride])
    return taken if not points or taken[-1] is points[-1] else [*taken, points[-1]]


def _values(point: Mapping[str, Any]) -> dict[str, Any]:
    return {**(point.get("terms") or {}), **point}


def _entries(records: Records, run: Run) -> list[dict[str, Any]]:
    of = sum(len(run.document.get(section) or ()) for section in SECTIONS)
    finished = sum(step.status in ("done", "reused") and step.section != "base" for step in run.steps)
    head = {"run": run.id, "recipe": run.recipe, "finished": finished, "of": of}
    blank = {"step": "", "section": "", "at": 0, "steps": None, "facts": "", "figure": ""}
    entries = []
    for step in run.steps:
        if step.status == "running":
            points = read_progress(records.store.checkpoints(step.identity))
            entries.append({**head, **blank, "step": step.name, "section": step.section, **_progress(points)})
    return entries or [{**head, **blank}]


def _progress(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not points:
        return {}
    last, first = points[-1], points[0]
    done = last["step"] + 1
    facts = [f"loss {number(float(last['loss']))}"]
    if last["seconds"] > 0:
        facts.append(f"{last['tokens'] / last['seconds']:,.0f} tokens/s")
    took, made = last["at"] - first["at"], last["step"] - first["step"]
    if last["steps"] and took > 0 and made > 0:
        facts.append(f"about {_duration((last['steps'] - done) * took / made)} to go")
    silent = time.time() - last["at"]
    if silent > 60:
        facts.append(f"last sign {_duration(silent)} ago")
    return {"at": done, "steps": last["steps"], "facts": " · ".join(facts), "figure": curve(points)}


def _duration(seconds: float) -> str:
    """In the unit that fits.

    >>> _duration(42), _duration(300), _duration(9000)
    ('42 s', '5 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
