"""What is under way: each running step with its curve so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from whet.board.records import Records
from whet.errors import WhetError
from whet.recipe_steps import SECTIONS
from whet.run import figures
from whet.run.compare.plan import VALIDATION, Asked
from whet.run.compare.variants import make_variants
from whet.run.ledger import ComparisonRecord, Run
from whet.run.progress import read_progress
from whet.run.show import number


def under_way(records: Records, run: str | None = None, within: str | None = None) -> list[dict[str, Any]]:
    """One entry per running step, of one run, of those within a comparison or race, or of all; a run between two steps has one
    without a curve.
    """
    asked = [r for r in records.runs(50, status="running") if run in (None, r.id)]
    if within:
        own = records.parts(within)
        inside = own.union(*map(records.parts, own))
        asked = [r for r in asked if r.id in inside]
    known = [records.run(r.id) for r in asked]
    return [entry for r in known if r is not None and records.status(r) == "running" for entry in _entries(records, r)]


def progress(records: Records, comparison: ComparisonRecord) -> str:
    """``n of m runs done`` of a comparison that is not finished, or ended before it was; empty of one that did. Runs that only
    tune are not counted.
    """
    if "variants" in comparison.result:
        return ""
    own = records.done(records.parts(comparison.id))
    # Trials measure on validation rows alone, and what only spends a budget beforehand does not measure.
    judged = {step.run for step in records.steps(own) if step.section == "measure" and step.name != VALIDATION}
    seeds = (comparison.document.get("compare") or {}).get("seeds", Asked.seeds)
    variants, number = len(_variants(comparison)), len(seeds) if isinstance(seeds, list) else seeds
    return f"{len(judged)} of {number * variants} runs done" if variants and isinstance(number, int) else ""


def _variants(comparison: ComparisonRecord) -> list[str]:
    document = comparison.document
    asked = document.get("compare") or {}
    try:
        return [v.name for v in make_variants(document, asked.get("vary") or {}, asked.get("variants") or {})]
    except WhetError:
        return []


def _entries(records: Records, run: Run) -> list[dict[str, Any]]:
    of = sum(len(run.document.get(section) or ()) for section in SECTIONS)
    finished = sum(step.status in ("done", "reused") and step.section != "base" for step in run.steps)
    head = {"run": run.id, "recipe": run.recipe, "seed": run.seed, "finished": finished, "of": of}
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
    return {"at": done, "steps": last["steps"], "facts": " · ".join(facts), "figure": figures.training(points, 860, 220)}


def _duration(seconds: float) -> str:
    """In the unit that fits.

    >>> _duration(42), _duration(300), _duration(9000)
    ('42 s', '5 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
