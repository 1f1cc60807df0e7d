"""``whet store verify`` and ``du``: whether every artifact is still what was written, and how much lies in the store."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from whet.run.ledger import Ledger
from whet.run.manifest import MANIFEST, differences, from_bytes, manifest
from whet.run.store import Store, identity_of
from whet.run.store_lock import is_free
from whet.run.store_remote import Damaged, Remote

Finding = dict[str, str]

UPLOAD = dt.timedelta(days=1)
"""Age of the newest file from which an upload without a pointer counts as given up."""


def verify_store(store: Store | None = None, remote: bool = False) -> tuple[list[Finding], str]:
    """Reads every file in the store's folder again and compares it with its artifact's manifest.

    Args:
        store: default: the one of ``$WHET_HOME``.
        remote: also reads every file of a remote store over the network; without it, their names and sizes are compared.

    Returns:
        rows ``problem`` (``damaged``, ``missing``, ``extra``, ``leftover``, or ``waiting``: not uploaded yet), ``artifact``,
        ``file``; and the text. No rows: all is well.
    """
    store = store or Store.open()
    identities = list(store.identities())
    found = [row for identity in identities for row in _examine(store.scratch / "artifacts" / identity)]
    found += [_finding("leftover", path.name, str(path)) for path in _leftovers(store)]
    lines = [f"{store.scratch}: {len(identities)} artifacts read"]
    if store.remote:
        rows, line = _verify_remote(store.remote, remote)
        found += [_finding("waiting", identity_of(path), str(path)) for path in _waiting(store)] + rows
        lines.append(line)
    lines.append(f"{len(found)} problems" if found else "all as they were written")
    return found, "\n".join([*lines, *(f"  {r['problem']}: artifact {r['artifact']}: {r['file']}" for r in found)])


def _finding(problem: str, artifact: str, file: str) -> Finding:
    return {"problem": problem, "artifact": artifact, "file": file}


def _examine(folder: Path) -> Iterator[Finding]:
    try:
        written = from_bytes((folder / MANIFEST).read_bytes())
    except ValueError:
        yield _finding("damaged", folder.name, MANIFEST)
        return
    for problem, name in differences(written, manifest(folder)):
        yield _finding(problem, folder.name, name)


def _verify_remote(remote: Remote, read: bool) -> tuple[list[Finding], str]:
    identities = remote.identities()
    found = [_finding(problem, i, file) for i in identities for problem, file in remote.examine(i, read)]
    limit = dt.datetime.now(dt.UTC) - UPLOAD
    for (identity, key), upload in remote.uploads().items():
        try:
            pointer = remote.pointer(identity)
        except Damaged:
            continue
        if (pointer is None or pointer.key != key) and upload.newest and upload.newest < limit:
            found.append(_finding("leftover", identity, f"{remote.shown}/content/{identity}/{key}"))
    how = "artifacts read" if read else "artifacts compared by names and sizes (--remote reads them)"
    return found, f"{remote.shown}: {len(identities)} {how}"


def _leftovers(store: Store) -> Iterator[Path]:
    """What killed runs left: folders aside whose writer is gone, folders without manifest, checkpoints of finished steps."""
    artifacts = store.scratch / "artifacts"
    for path in sorted(artifacts.iterdir()):
        aside = path.name.startswith((".new-", ".gone-")) or not (path / MANIFEST).is_file()
        if aside and is_free(store.lock(identity_of(path))):
            yield path
    for path in sorted((store.scratch / "checkpoints").iterdir()):
        if (artifacts / path.name / MANIFEST).is_file() and is_free(store.lock(path.name)):
            yield path


def _waiting(store: Store) -> Iterator[Path]:
    """Artifacts whose upload failed or was killed; the next run that uses them uploads them."""
    for path in sorted((store.scratch / "artifacts").glob(".upload-*")):
        if (path / MANIFEST).is_file() and is_free(store.lock(identity_of(path))):
            yield path


def store_sizes(store: Store | None = None, ledger: Ledger | None = None) -> tuple[dict[str, Any], str]:
    """Bytes in the store's folder by the kind of step and by run; an artifact of several runs counts for each.

    Of a remote store the folder holds copies; ``remote`` is what lies there, ``None`` without one.
    """
    store = store or Store.open()
    ledger = ledger or Ledger.beside(store.scratch)
    sizes = {identity: _bytes(store.scratch / "artifacts" / identity) for identity in store.identities()}
    runs = ledger.runs()
    kinds = {step.identity: step.section for run in runs for step in run.steps}
    by_kind: Counter[str] = Counter()
    for identity, size in sizes.items():
        by_kind[kinds.get(identity, "in no run")] += size
    by_run = {run.id: sum(sizes.get(i, 0) for i in {s.identity for s in run.steps}) for run in runs}
    data = {
        "artifacts": sum(sizes.values()),
        "checkpoints": _bytes(store.scratch / "checkpoints"),
        "reports": _bytes(store.scratch / "runs"),
        "remote": sum(upload.size for upload in store.remote.uploads().values()) if store.remote else None,
        "kinds": dict(by_kind),
        "runs": by_run,
    }
    places = {key: data[key] for key in ("artifacts", "checkpoints", "reports")}
    lines = [str(store.scratch), *_table(places), "by kind", *_table(by_kind), "by run", *_table(by_run)]
    if store.remote:
        lines += [store.remote.shown, *_table({"artifacts": data["remote"]})]
    return data, "\n".join(lines)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _table(sizes: Mapping[str, Any]) -> list[str]:
    return [f"  {size / 2**20:12,.2f} MiB  {name}" for name, size in sizes.items()]
