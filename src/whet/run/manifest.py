"""What an artifact consists of: its manifest names every file with size and sha256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

MANIFEST = "manifest.json"

Files = dict[str, dict[str, int | str]]
"""File -> ``bytes`` and ``sha256``."""

_CHUNK = 1 << 20


def manifest(folder: Path) -> Files:
    """Size in bytes and sha256 of every file below the folder but its own manifest."""
    listing: Files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            with path.open("rb") as handle:
                digest = sha256(iter(lambda: handle.read(_CHUNK), b""))
            listing[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return listing


def sha256(chunks: Iterable[bytes]) -> str:
    """The digest of all chunks together, as hex."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def as_text(listing: Files) -> str:
    """The manifest as it is written."""
    return json.dumps(listing, indent=1)


def from_bytes(content: bytes) -> Files:
    """Reads a written manifest.

    Raises:
        ValueError: it is damaged, or names a file outside its folder.
    """
    listing: Files = {}
    try:
        for name, about in json.loads(content).items():
            listing[name] = {"bytes": int(about["bytes"]), "sha256": str(about["sha256"])}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a manifest: {error!r}") from error
    if outside := [name for name in listing if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise ValueError(f"the manifest names a file outside its folder: {outside[0]!r}")
    return listing


def differences(written: Mapping[str, object], found: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Pairs of problem (``damaged``, ``missing`` or ``extra``) and file, by name."""
    for name in sorted({*written, *found}):
        if found.get(name) != written.get(name):
            yield ("missing" if name not in found else "damaged" if name in written else "extra"), name
