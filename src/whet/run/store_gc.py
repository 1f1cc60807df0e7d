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
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from whet.errors import StoreError
from whet.run.alive import settle
from whet.run.ledger import Ledger, Run
from whet.run.manifest import MANIFEST
from whet.run.store import Store, identity_of
from whet.run.store_lock import is_free, locked
from whet.run.store_remote import Damaged, Pointer, Remote
from whet.run.store_tools import UPLOAD

Kept = Counter[str]


@dataclass(frozen=True)
class Rules:
    """What may go.

    Args:
        keep_runs: forget all but the newest so many runs.
        older_than: forget runs that began more than so many days ago; with ``keep_runs``, those that both rules name.
        forget: runs to forget, as ``whet show`` takes them.
        grace: hours; nothing younger is touched.
        only_ledger: no other ledger uses the store: what this one does not know may go too.
        delete: remove it; else only say what would go.
    """

    keep_runs: int | None = None
    older_than: float | None = None
    forget: Sequence[str] = ()
    grace: float = 24.0
    only_ledger: bool = False
    delete: bool = False

    def __post_init__(self) -> None:
        for name in ("keep_runs", "older_than", "grace"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise StoreError(f"{name}: {value!r} is below 0; nothing was removed")


@dataclass(frozen=True)
class Thing:
    """What goes: ``kind`` is artifact, checkpoints, leftover, lock, report, remote artifact or remote leftover."""

    kind: str
    name: str
    where: str
    bytes: int
    why: str


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
    survey = _Survey(_ledgers(store, ledger), set(chosen), rules)
    with store.reporting(f"remove from {store.scratch}"):
        things = [*_local(store, survey), *_reports(store, survey), *_locks(store, survey)]
        removed = [t for t in things if not rules.delete or _remove(store, survey, t)]
    if store.remote:
        removed += _Sweep(store.remote, survey, ledger.file is None or rules.only_ledger).run()
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
        limit = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=rules.older_than or 0)
        old = {r.id for r in runs[rules.keep_runs or 0 :] if r.status != "running" and r.started <= limit}
    for reference in rules.forget:
        run = ledger.run(reference)
        if not is_free(store.scratch / "locks" / f"run-{run.id}"):
            raise StoreError(f"run {run.id} is under way and cannot be forgotten; nothing was removed. Stop it first")
        old |= {run.id} - forgotten
    return [run.id for run in runs if run.id in old]


class _Survey:
    """What the ledgers say about identities and runs, and how much is kept for which reason."""

    def __init__(self, ledgers: Sequence[Ledger], chosen: set[str], rules: Rules) -> None:
        self.ledgers, self.rules = ledgers, rules
        self.kept: Kept = Counter()
        self.notes: list[str] = []
        self.forgotten = {run for ledger in ledgers for run in ledger.forgotten()} | chosen
        self.runs: dict[str, Run] = {run.id: run for ledger in ledgers for run in ledger.runs()}
        self.comparisons = {compared.id: compared for ledger in ledgers for compared in ledger.comparisons()}
        steps = [(step, run.id) for run in self.runs.values() for step in run.steps]
        self.known = {step.identity: f"{step.section} {step.name}" for step, _ in steps}
        self.needed = {step.identity for step, run in steps if run not in self.forgotten}
        self.limit = dt.datetime.now(dt.timezone.utc) - dt.timedelta(hours=rules.grace)

    def reason(self, identity: str) -> str:
        """Why an artifact may go; empty if it is kept."""
        if identity in self.needed:
            self._keep("named by a run")
        elif identity in self.known:
            return f"{self.known[identity]}, of forgotten runs only"
        elif self.rules.only_ledger:
            return "in no run"
        else:
            self._keep("not known to this ledger (--only-ledger: there is no other)")
        return ""

    def is_young(self, newest: dt.datetime | None) -> bool:
        """Whether something was written within the grace period; what has no date counts as young."""
        young = newest is None or newest > self.limit
        if young:
            self._keep(f"younger than {self.rules.grace:g} hours (--grace)")
        return young

    def is_idle(self, lock: Path) -> bool:
        """Whether no process is at it."""
        free = is_free(lock)
        if not free:
            self._keep("in use at this moment")
        return free

    def needs(self, identity: str) -> bool:
        """Asks the ledgers again."""
        found = any(ledger.needs(identity) for ledger in self.ledgers)
        if found:
            self._keep("named by a run")
        return found

    def _keep(self, why: str) -> None:
        self.kept[why] += 1


def _local(store: Store, survey: _Survey) -> Iterator[Thing]:
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


def _candidate(store: Store, survey: _Survey, thing: Thing) -> Iterator[Thing]:
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
    return size, dt.datetime.fromtimestamp(newest, dt.timezone.utc)


def _reports(store: Store, survey: _Survey) -> Iterator[Thing]:
    for path in sorted((store.scratch / "runs").iterdir()):
        if path.name in survey.comparisons or (path.name in survey.runs and path.name not in survey.forgotten):
            continue
        why = "its run is forgotten" if path.name in survey.runs else "in no run" if survey.rules.only_ledger else ""
        if why:
            yield from _candidate(store, survey, Thing("report", path.name, str(path), 0, why))


def _locks(store: Store, survey: _Survey) -> Iterator[Thing]:
    """Lock files whose holder was killed; that of a run or comparison which the ledger calls running says where it runs, and stays."""
    for path in sorted((store.scratch / "locks").iterdir()):
        name = path.name.removeprefix("run-")
        run = survey.runs.get(name) or survey.comparisons.get(name)
        if not (run and run.status == "running") and is_free(path):
            yield Thing("lock", path.name, str(path), 0, "left by a run that was killed")


def _remove(store: Store, survey: _Survey, thing: Thing) -> bool:
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


def _may_go(store: Store, survey: _Survey, thing: Thing, path: Path) -> bool:
    if thing.kind == "leftover":
        return not _is_whole(path)
    if thing.kind == "checkpoints" and (store.scratch / "artifacts" / thing.name / MANIFEST).is_file():
        return True
    return thing.kind == "report" or not survey.needs(thing.name)


class _Sweep:
    """The remote's part: artifacts that no run needs, and uploads that never became one."""

    def __init__(self, remote: Remote, survey: _Survey, complete: bool) -> None:
        self.remote, self.survey, self.complete = remote, survey, complete
        self.uploads, self.identities = remote.uploads(), set(remote.identities())

    def run(self) -> list[Thing]:
        """What was (or would be) removed."""
        return [*self._artifacts(), *self._leftovers()]

    def _artifacts(self) -> list[Thing]:
        if not self.complete:
            self.survey.kept["on the remote, where only a shared ledger could tell"] += len(self.identities)
            self.survey.notes.append(
                f"{self.remote.shown}: artifacts there are kept, since this ledger is a file of one machine and the runs of others "
                "may need them; WHET_LEDGER names a shared ledger, --only-ledger says that there is no other"
            )
            return []
        found = {identity: entry for identity in sorted(self.identities) if (entry := self._judge(identity))}
        if not self.survey.rules.delete:
            return [thing for thing, _ in found.values()]
        for identity in found:
            self.remote.hide(identity)
        return [thing for identity, (thing, pointer) in found.items() if self._finish(identity, pointer)]

    def _judge(self, identity: str) -> tuple[Thing, Pointer] | None:
        why = self.survey.reason(identity)
        pointer = self._pointer(identity) if why else None
        if not why or not pointer:
            return None
        upload = self.uploads.get((identity, pointer.key))
        if upload is None or self.survey.is_young(upload.newest):
            return None
        return Thing("remote artifact", identity, f"{self.remote.shown}/artifacts/{identity}.json", upload.size, why), pointer

    def _finish(self, identity: str, pointer: Pointer) -> bool:
        """Removes the content of an artifact whose pointer is gone, or puts the pointer back if a run needs it by now."""
        if self.survey.needs(identity):
            self.remote.point(identity, pointer)
            return False
        self.remote.remove(identity, pointer.key)
        self.uploads.pop((identity, pointer.key), None)
        return True

    def _leftovers(self) -> list[Thing]:
        found = []
        several = Counter(identity for identity, _ in self.uploads)
        for (identity, key), upload in self.uploads.items():
            if identity in self.identities and several[identity] == 1:
                continue
            pointer = self._pointer(identity)
            if pointer is False or (pointer and pointer.key == key) or self.survey.is_young(upload.newest):
                continue
            # Whatever the grace period: a run that the ledger names may be at this upload, on any machine.
            if pointer is None and self._is_recent(upload.newest) and self.survey.needs(identity):
                continue
            if self.survey.rules.delete:
                self.remote.remove(identity, key)
            where = f"{self.remote.shown}/content/{identity}/{key}"
            found.append(Thing("remote leftover", identity, where, upload.size, "an upload that never became an artifact"))
        return found

    @staticmethod
    def _is_recent(newest: dt.datetime | None) -> bool:
        return newest is None or newest > dt.datetime.now(dt.timezone.utc) - UPLOAD

    def _pointer(self, identity: str) -> Pointer | Literal[False] | None:
        """The artifact's pointer; ``False`` if there is one that cannot be read."""
        try:
            return self.remote.pointer(identity)
        except Damaged as error:
            note = f"{error} cannot be read and was left alone (whet store verify)"
            self.survey.notes += [note] if note not in self.survey.notes else []
            return False


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
