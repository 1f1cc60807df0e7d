"""``whet store``: how much lies in the store, and whether every artifact is still what was written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from whet.run.ledger import Ledger
from whet.run.store import MANIFEST, Store, manifest
from whet.run.store_lock import locked

Finding = dict[str, str]


def verify_store(store: Store | None = None) -> tuple[list[Finding], str]:
    """Reads every file in the store's folder again and compares it with its artifact's manifest.

    Of a remote store it reads the copies on this machine.

    Returns:
        rows ``problem`` (``damaged``, ``missing``, ``extra`` or ``leftover``), ``artifact``, ``file``; and the text. No rows:
        all is well.
    """
    store = store or Store.open()
    found = [row for identity in store.identities() for row in _examine(store.scratch / "artifacts" / identity)]
    found += [{"problem": "leftover", "artifact": path.name, "file": str(path)} for path in _leftovers(store)]
    lines = [f"  {r['problem']}: artifact {r['artifact']}: {r['file']}" for r in found]
    head = f"{store.scratch}: {len(list(store.identities()))} artifacts read, "
    return found, "\n".join([head + (f"{len(found)} problems" if found else "all as they were written"), *lines])


def _examine(folder: Path) -> Iterator[Finding]:
    actual = manifest(folder)
    try:
        written = json.loads((folder / MANIFEST).read_bytes())
        expected = {name: (about["bytes"], about["sha256"]) for name, about in written.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        yield {"problem": "damaged", "artifact": folder.name, "file": MANIFEST}
        return
    for name in sorted({*expected, *actual}):
        about = actual.get(name)
        now = about and (about["bytes"], about["sha256"])
        if now != expected.get(name):
            problem = "missing" if now is None else "damaged" if name in expected else "extra"
            yield {"problem": problem, "artifact": folder.name, "file": name}


def _leftovers(store: Store) -> Iterator[Path]:
    """What killed runs left: folders aside whose writer is gone, folders without manifest, checkpoints of finished steps."""
    artifacts = store.scratch / "artifacts"
    for path in sorted(artifacts.iterdir()):
        identity = path.name.removeprefix(".new-").rpartition("-")[0] if path.name.startswith(".new-") else path.name
        if not (path / MANIFEST).is_file() and _idle(store, identity or path.name):
            yield path
    for path in sorted((store.scratch / "checkpoints").iterdir()):
        if (artifacts / path.name / MANIFEST).is_file() and _idle(store, path.name):
            yield path


def _idle(store: Store, identity: str) -> bool:
    """Whether no run is making the artifact at this moment."""
    with locked(store.scratch / "locks" / identity, wait=False) as held:
        return held


def store_sizes(store: Store | None = None, ledger: Ledger | None = None) -> tuple[dict[str, Any], str]:
    """Bytes in the store's folder by the kind of step and by run; an artifact of several runs counts for each."""
    store = store or Store.open()
    ledger = ledger or Ledger.beside(store.scratch)
    sizes = {identity: _bytes(store.scratch / "artifacts" / identity) for identity in store.identities()}
    runs = ledger.runs()
    kinds = {step.identity: step.section for run in runs for step in run.steps}
    by_kind: dict[str, int] = {}
    for identity, size in sizes.items():
        kind = kinds.get(identity, "in no run")
        by_kind[kind] = by_kind.get(kind, 0) + size
    by_run = {run.id: sum(sizes.get(i, 0) for i in {s.identity for s in run.steps}) for run in runs}
    data = {
        "artifacts": sum(sizes.values()),
        "checkpoints": _bytes(store.scratch / "checkpoints"),
        "reports": _bytes(store.scratch / "runs"),
        "kinds": by_kind,
        "runs": by_run,
    }
    places = {key: data[key] for key in ("artifacts", "checkpoints", "reports")}
    return data, "\n".join([str(store.scratch), *_table(places), "by kind", *_table(by_kind), "by run", *_table(by_run)])


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _table(sizes: Mapping[str, Any]) -> list[str]:
    return [f"  {size / 2**20:12,.2f} MiB  {name}" for name, size in sizes.items()]
