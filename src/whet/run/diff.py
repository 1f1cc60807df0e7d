"""Compares two runs: every effective setting, receipt figure and version in which they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whet.run.ledger import Ledger, Run, StepRecord
from whet.run.store import Store

ABSENT = "(absent)"


def diff_runs(first: str, second: str) -> tuple[list[dict[str, Any]], str]:
    """The differences as rows ``where, first, second`` and as text, causes (versions, settings, code) before effects (receipts).

    Times, costs, identities and training curves are left out: they differ without the run being another one, or repeat what the
    report draws.
    """
    ledger = Ledger.beside(Store.open().scratch)
    runs = [ledger.run(first), ledger.run(second)]
    left, right = (flatten(_content(run)) for run in runs)
    rows = [
        {"where": key, "first": left.get(key, ABSENT), "second": right.get(key, ABSENT)}
        for key in sorted({*left, *right}, key=lambda key: (".receipt." in key, key))
        if left.get(key, ABSENT) != right.get(key, ABSENT)
    ]
    head = f"{runs[0].id} -> {runs[1].id}: "
    lines = [f"  {r['where']}: {r['first']} -> {r['second']}" for r in rows]
    return rows, "\n".join([head + (f"{len(rows)} differences" if rows else "no difference"), *lines])


def _content(run: Run) -> dict[str, Any]:
    steps = {
        s.name: {
            "settings": s.settings,
            "code": s.inputs.get("code"),
            "receipt": {k: v for k, v in s.receipt.items() if k not in ("curve", "seconds", "peak_memory_bytes")},
        }
        for s in run.steps
    }
    return {"seed": run.seed, "versions": run.versions, "machine": run.machine, "step": steps}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping from dotted path to leaf.

    >>> flatten({"a": {"b": [1, {"c": 2}]}})
    {'a.b.0': 1, 'a.b.1.c': 2}
    """
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, (list, tuple)) and value:
        items = enumerate(value)  # type: ignore[assignment]
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in items:
        found.update(flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return found


def why(old: StepRecord | None, run: Run, record: StepRecord) -> str:
    """Why a step of a run is made: what differs from ``old``, the newest finished step of the same name and recipe."""
    if old is None:
        return "runs: the first time"
    changed = [f"setting {k}" for k in record.settings if old.settings.get(k) != record.settings[k]]
    changed += [f"input {k}" for k in record.inputs if old.inputs.get(k) != record.inputs[k]]
    changed += [] if old.run.seed == run.seed else ["seed"]
    return f"runs: changed since {old.run.id}: {', '.join(changed)}" if changed else "runs: its artifact is gone"
