"""Prints runs, comparisons and races: what each step did, what it cost, and why it ran or was reused; what was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.errors import StoreError
from whet.recipe_steps import MODEL_SECTIONS
from whet.run.alive import note, settle
from whet.run.ledger import Ledger
from whet.run.store import Store


def receipt_lines(receipt: Mapping[str, Any], cost: Mapping[str, Any]) -> list[str]:
    """A receipt as short lines, nested figures joined; long lists and tables are left to the report."""
    lines = [f"{key}: {text}" for key, value in receipt.items() if (text := _short(value))]
    return [*lines, "cost: " + ", ".join(f"{k} {number(v)}" for k, v in cost.items())]


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = [(k, _short(v)) for k, v in value.items()]
        text = ", ".join(f"{k} {v}" for k, v in inner if v)
        return text if len(text) <= 400 else text[:397] + "..."
    if isinstance(value, (list, tuple)):
        return ", ".join(map(number, value)) if len(value) <= 6 and all(isinstance(v, (int, float, str)) for v in value) else ""
    return number(value)


def number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:.3e}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def show_all() -> tuple[list[dict[str, Any]], str]:
    """All runs and comparisons, newest first, as data and as text."""
    ledger = _settled()
    runs, forgotten = ledger.runs(), ledger.forgotten()
    data = [
        {
            "run": r.id,
            "recipe": r.recipe,
            "status": r.status,
            "started": r.started,
            "steps": len(r.steps),
            "forgotten": r.id in forgotten,
        }
        for r in runs
    ]
    text = "\n".join(
        f"{r.id}  {r.status:<11} {len(r.steps):>3} steps  {r.started:%Y-%m-%d %H:%M}{'  forgotten' if r.id in forgotten else ''}"
        for r in runs
    )
    compared = ledger.comparisons()
    data += [{"comparison": c.id, "name": c.name, "status": c.status, "started": c.started} for c in compared]
    if compared:
        rows = (
            f"{c.id}  {c.status:<11} {len(c.result.get('variants', {})):>3} variants  {c.started:%Y-%m-%d %H:%M}"
            for c in compared
        )
        text = "\n".join([text, "", "comparisons", *rows])
    raced = ledger.races()
    data += [{"race": r.id, "name": r.name, "status": r.status, "started": r.started} for r in raced]
    if raced:
        rows = (
            f"{r.id}  {r.status:<11} {len(r.result.get('scores', {})):>3} algorithms  {r.started:%Y-%m-%d %H:%M}" for r in raced
        )
        text = "\n".join([text, "", "races", *rows])
    return data, text or "no runs yet; try: whet run quickstart"


def show(reference: str) -> tuple[dict[str, Any], str]:
    """A run, a comparison or a race, as data and as text; where a name or a beginning is that of several, the first of these."""
    ledger = _settled()
    is_run = reference == "last" or any(r.recipe == reference or r.id.startswith(reference) for r in ledger.runs())
    is_comparison = any(c.name == reference or c.id.startswith(reference) for c in ledger.comparisons())
    is_race = any(r.name == reference or r.id.startswith(reference) for r in ledger.races())
    if is_run or not (is_comparison or is_race):
        return show_run(reference)
    return show_comparison(reference) if is_comparison else show_race(reference)


def show_comparison(reference: str) -> tuple[dict[str, Any], str]:
    """One comparison with its verdicts, as data and as text."""
    from whet.run.compare.command import lines

    record, store = _settled().comparison(reference), Store.open()
    about = note(store, record)
    data = {
        "comparison": record.id,
        "name": record.name,
        "status": record.status,
        "note": about,
        "started": record.started,
        "finished": record.finished,
        "document": record.document,
        "result": record.result,
    }
    head = f"{record.id}  {record.status}" + (f" ({about})" if about else "")
    if "verdicts" not in record.result:
        return data, "\n".join([head, *record.result.values()])
    page = store.scratch / "runs" / record.id / "compare.html"
    return data, "\n".join([head, *lines(record.result)[1:], *([f"page: {page}"] if page.is_file() else [])])


def show_race(reference: str) -> tuple[dict[str, Any], str]:
    """One race with its times and scores, as data and as text."""
    from whet.run.race.page import lines

    ledger, store = _settled(), Store.open()
    record = ledger.race(reference)
    result, about = record.result, note(store, record)
    data = {"race": record.id, "status": record.status, "note": about, **result}
    if "scores" in result:
        return data, "\n".join([*lines(result), f"page: {result['page']}"])
    head = f"{record.id}  {record.status}" + (f" ({about})" if about else "")
    own = ledger.parts(record.id)
    begun = [f"  {c.id}  {c.status}" for c in reversed(ledger.comparisons()) if c.id in own]
    return data, "\n".join([head, *([result["error"]] if "error" in result else []), *begun])


def show_run(reference: str) -> tuple[dict[str, Any], str]:
    """One run with its steps, as data and as text."""
    run = _settled().run(reference)
    about = note(Store.open(), run)
    steps = sorted(run.steps, key=lambda s: s.position)
    data = {
        "run": run.id,
        "recipe": run.recipe,
        "status": run.status,
        "note": about,
        "seed": run.seed,
        "versions": run.versions,
        "machine": run.machine,
        "steps": [{c.key: getattr(s, c.key) for c in s.__table__.columns if c.key != "run_id"} for s in steps],
    }
    lines = [
        f"{run.id}  {run.status}" + (f" ({about})" if about else ""),
        "versions: " + _short(run.versions),
        "machine: " + _short(run.machine),
    ]
    for step in steps:
        lines += ["", f"[{step.section}] {step.name}  {step.status}  {step.identity}", f"  {step.why}"]
        lines += [f"  {line}" for line in receipt_lines(step.receipt, step.cost)]
    return data, "\n".join(lines)


def find_model_folder(reference: str) -> Path:
    """The folder of a model: a folder as it is, or a run's last model (``RUN:STAGE`` for another).

    Raises:
        StoreError: no such run, stage or artifact.
    """
    if Path(reference).is_dir():
        return Path(reference)
    name, _, stage = reference.partition(":")
    run = _ledger().run(name)
    made = [
        s for s in sorted(run.steps, key=lambda s: s.position) if s.section in MODEL_SECTIONS and s.status in ("done", "reused")
    ]
    chosen = [s for s in made if not stage or s.name == stage]
    if not chosen:
        raise StoreError(
            f"run {run.id} has no finished stage {stage or 'with a model'!r}; it has: {', '.join(s.name for s in made) or 'none'}"
        )
    return Store.open().get(chosen[-1].identity)


def _settled() -> Ledger:
    """The ledger, in which runs whose process is gone are no longer running."""
    ledger = _ledger()
    settle(Store.open(), ledger)
    return ledger


def _ledger() -> Ledger:
    return Ledger.beside(Store.open().scratch)
