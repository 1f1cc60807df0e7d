"""``whet store gc``: removes what no run needs.

Needed is what a run of the ledger refers to, unless the run is forgotten: its record stays, its artifacts need not. Never
removed is what a process is at (it holds the lock), what is younger than the grace period, and, unless ``only_ledger`` says
that no other ledger uses the store, what this ledger does not know.

A run may begin to use an artifact while it is being removed. A run writes into the ledger first and then looks, under the
artifact's lock; the removal looks into the ledger under that lock. On a remote, which has no locks, the pointer is removed
first, then the ledger is asked again, and only then does the content go: who found the pointer is in the ledger by then.
"""

from __future__ import annotations

import datetime as dt
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whet.errors import StoreError
from whet.run.alive import settle
from whet.run.ledger import Ledger
from whet.run.manifest import MANIFEST
from whet.run.store import Store, identity_of
from whet.run.store_lock import is_free, locked
from whet.run.store_survey import Rules, Survey, Thing
from whet.run.store_sweep import Sweep


def collect(store: Store | None = None, ledger: Ledger | None = None, rules: Rules | None = None) -> tuple[dict[str, Any], str]:
    """Removes what no run needs, or says what would go.

    Returns:
        ``things`` (rows of :class:`Thing`), ``bytes`` (of all of them), ``forgotten`` (ids of the runs forgotten now), ``kept``
        (reason -> number), ``deleted`` and ``notes``; and the text.

    Raises:
        StoreError: a run to forget is unknown or under way; the store, the ledger or the remote cannot be reached.
    """
    store, rules = store or Store.open(), rules or Rules()
    ledger = ledger or Ledger.beside(store.scratch)
    settle(store, ledger)
    chosen = _choose(store, ledger, rules)
    if rules.delete:
        ledger.forget(chosen)
    survey = Survey(_ledgers(store, ledger), set(chosen), rules)
    with store.reporting(f"remove from {store.scratch}"):
        things = [*_local(store, survey), *_reports(store, survey), *_locks(store, survey)]
        removed = [t for t in things if not rules.delete or _remove(store, survey, t)]
    if store.remote:
        removed += Sweep(store.remote, survey, ledger.file is None or rules.only_ledger).run()
    data = {
        "things": [asdict(t) for t in removed],
        "bytes": sum(t.bytes for t in removed),
        "forgotten": chosen,
        "kept": dict(survey.kept),
        "deleted": rules.delete,
        "notes": survey.notes,
    }
    return data, _text(store, ledger, data)


def _ledgers(store: Store, ledger: Ledger) -> list[Ledger]:
    """The ledger, and the file that lies in the store's folder where ``$WHET_LEDGER`` names another one."""
    beside = store.scratch / "ledger.db"
    other = beside.is_file() and (ledger.file is None or ledger.file.resolve() != beside.resolve())
    return [ledger, Ledger(f"sqlite:///{beside}")] if other else [ledger]


def _choose(store: Store, ledger: Ledger, rules: Rules) -> list[str]:
    """Ids of the runs to forget now. Only by its name is a run forgotten of which the ledger says that it runs."""
    forgotten = ledger.forgotten()
    runs = [run for run in ledger.runs() if run.id not in forgotten]
    old = set()
    if rules.keep_runs is not None or rules.older_than is not None:
        limit = dt.datetime.now(dt.UTC) - dt.timedelta(days=rules.older_than or 0)
        old = {r.id for r in runs[rules.keep_runs or 0 :] if r.status != "running" and r.started <= limit}
    for reference in rules.forget:
        run = ledger.run(reference)
        if not is_free(store.scratch / "locks" / f"run-{run.id}"):
            raise StoreError(f"run {run.id} is under way and cannot be forgotten; nothing was removed. Stop it first")
        old |= {run.id} - forgotten
    return [run.id for run in runs if run.id in old]


def _local(store: Store, survey: Survey) -> Iterator[Thing]:
    """Artifacts, folders beside them, and checkpoints."""
    artifacts = store.scratch / "artifacts"
    for path in sorted(artifacts.iterdir()):
        identity, kind, why = identity_of(path), "leftover", "left by a run that was killed"
        if _is_whole(path):
            kind, why = "artifact", survey.reason(identity)
        yield from _candidate(store, survey, Thing(kind, identity, str(path), 0, why))
    for path in sorted((store.scratch / "checkpoints").iterdir()):
        finished = (artifacts / path.name / MANIFEST).is_file()
        why = "its step is finished" if finished else survey.reason(path.name)
        yield from _candidate(store, survey, Thing("checkpoints", path.name, str(path), 0, why))


def _is_whole(path: Path) -> bool:
    return not path.name.startswith((".new-", ".gone-")) and (path / MANIFEST).is_file()


def _candidate(store: Store, survey: Survey, thing: Thing) -> Iterator[Thing]:
    """The thing with its size, if it has a reason to go, is old enough, and nobody is at it."""
    if not thing.why or not survey.is_idle(store.lock(thing.name)):
        return
    size, newest = _extent(Path(thing.where))
    if not survey.is_young(newest):
        yield Thing(thing.kind, thing.name, thing.where, size, thing.why)


def _extent(path: Path) -> tuple[int, dt.datetime]:
    """Bytes in a folder, and when anything in it was written last. What vanishes meanwhile counts as nothing."""
    size, newest = 0, 0.0
    for item in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            about = item.lstat()
            newest = max(newest, about.st_mtime)
            size += 0 if item.is_dir() else about.st_size
    return size, dt.datetime.fromtimestamp(newest, dt.UTC)


def _reports(store: Store, survey: Survey) -> Iterator[Thing]:
    for path in sorted((store.scratch / "runs").iterdir()):
        if path.name in survey.comparisons or (path.name in survey.runs and path.name not in survey.forgotten):
            continue
        why = "its run is forgotten" if path.name in survey.runs else "in no run" if survey.rules.only_ledger else ""
        if why:
            yield from _candidate(store, survey, Thing("report", path.name, str(path), 0, why))


def _locks(store: Store, survey: Survey) -> Iterator[Thing]:
    """Lock files whose holder was killed; that of a run or comparison which the ledger calls running says where it runs, and stays."""
    for path in sorted((store.scratch / "locks").iterdir()):
        name = path.name.removeprefix("run-")
        run = survey.runs.get(name) or survey.comparisons.get(name)
        if not (run and run.status == "running") and is_free(path):
            yield Thing("lock", path.name, str(path), 0, "left by a run that was killed")


def _remove(store: Store, survey: Survey, thing: Thing) -> bool:
    """Removes a local thing if what made it go still holds under its lock."""
    path = Path(thing.where)
    lock = path if thing.kind == "lock" else store.lock(thing.name)
    with locked(lock, wait=False) as held:
        if not held:
            survey.is_idle(lock)
            return False
        if thing.kind == "lock":
            return True
        if not path.exists() or not _may_go(store, survey, thing, path):
            return False
        gone = store.scratch / "artifacts" / f".gone-{thing.name}-{secrets.token_hex(4)}"
        path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _may_go(store: Store, survey: Survey, thing: Thing, path: Path) -> bool:
    if thing.kind == "leftover":
        return not _is_whole(path)
    if thing.kind == "checkpoints" and (store.scratch / "artifacts" / thing.name / MANIFEST).is_file():
        return True
    return thing.kind == "report" or not survey.needs(thing.name)


def _text(store: Store, ledger: Ledger, data: dict[str, Any]) -> str:
    things, deleted = data["things"], data["deleted"]
    verb = "removed" if deleted else "would remove"
    lines = [f"{store.address} (ledger {ledger.shown})"]
    lines += [f"{'forgot' if deleted else 'would forget'} run {run}" for run in data["forgotten"]]
    for thing in things:
        lines.append(f"  {thing['bytes'] / 2**20:12,.2f} MiB  {thing['kind']} {thing['name']}: {thing['why']}")
    lines.append(f"{verb} {len(things)} things, {data['bytes'] / 2**20:,.2f} MiB")
    lines += [f"kept {number}: {why}" for why, number in data["kept"].items()]
    lines += data["notes"]
    if not deleted and (things or data["forgotten"]):
        lines.append("nothing was removed yet; --delete removes")
    return "\n".join(lines)
