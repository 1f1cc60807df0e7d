"""Artifacts: folders that appear whole or not at all, found by the identity of the step that made them.

An artifact lies at ``artifacts/<identity>/`` below the store's address (a folder, or any fsspec URL). Its
``manifest.json`` lists every file with size and sha256 and is what makes the artifact exist: a local artifact is written
aside and renamed, a remote one is uploaded with the manifest last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import StoreError
from whet.run.store_lock import locked

MANIFEST = "manifest.json"


def default_home() -> str:
    """``$WHET_HOME``, else ``whet`` in the user's cache folder."""
    return os.environ.get("WHET_HOME") or _cache_folder()


def _local_home() -> str:
    """A folder of this machine, also where ``$WHET_HOME`` is a URL."""
    home = default_home()
    return _cache_folder() if "://" in home else home


def _cache_folder() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whet")


@dataclass(frozen=True)
class Store:
    """The artifacts below ``address``; ``scratch`` is a local folder for checkpoints and copies of remote artifacts."""

    address: str
    scratch: Path

    @classmethod
    def open(cls, address: str | None = None) -> Store:
        """Opens the store at a folder or fsspec URL; default :func:`default_home`.

        Raises:
            StoreError: the folder cannot be made or written.
        """
        address = (address or default_home()).removeprefix("file://")
        scratch = Path(address)
        if "://" in address:
            scratch = Path(_local_home()) / "remote" / hashlib.sha256(address.encode()).hexdigest()[:12]
        try:
            for folder in ("artifacts", "checkpoints", "locks", "runs"):
                (scratch / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the store {scratch} cannot be written ({error}); set WHET_HOME to a folder you can write"
            ) from None
        return cls(address, scratch)

    @property
    def remote(self) -> bool:
        """Whether artifacts lie behind a URL; ``scratch`` then holds copies of them."""
        return "://" in self.address

    def checkpoints(self, identity: str) -> Path:
        """Where a step keeps its checkpoints while it runs."""
        return self.scratch / "checkpoints" / identity

    def has(self, identity: str) -> bool:
        """Whether the artifact exists whole."""
        if (self._local(identity) / MANIFEST).is_file():
            return True
        if not self.remote:
            return False
        filesystem, root = self._remote(identity)
        return bool(filesystem.exists(f"{root}/{MANIFEST}"))

    def get(self, identity: str) -> Path:
        """The artifact's local folder; a remote one is copied here first.

        Raises:
            StoreError: there is no such artifact.
        """
        folder = self._local(identity)
        if not (folder / MANIFEST).is_file():
            if not self.remote or not self.has(identity):
                raise StoreError(f"no artifact {identity} in {self.address}; run the recipe again")
            filesystem, root = self._remote(identity)
            with self._aside(identity) as aside:
                filesystem.get(root, str(aside / "copy"), recursive=True)
                self._appear(aside / "copy", folder)
        self._tidy(identity)
        return folder

    def put(self, identity: str, write: Callable[[Path], None]) -> Path:
        """Writes an artifact: ``write`` fills an empty folder, which then appears under the identity.

        While another process makes the same artifact this one waits and then takes the other's.

        Raises:
            StoreError: the disk is full or not writable; nothing of the artifact remains, earlier ones are untouched.
        """
        folder = self._local(identity)
        try:
            with locked(self._lock(identity)):
                self._clear(identity)
                if not self.has(identity):
                    self._write(identity, write, folder)
        except Exception as error:
            # safetensors reports a full disk by an error of its own.
            if not (isinstance(error, OSError) or type(error).__module__.startswith("safetensors")):
                raise
            raise StoreError(
                f"cannot write artifact {identity} to {self.address}: {error}; earlier artifacts are intact"
            ) from error
        return folder

    def _write(self, identity: str, write: Callable[[Path], None], folder: Path) -> None:
        with self._aside(identity) as aside:
            content = aside / "new"
            content.mkdir()
            write(content)
            (content / MANIFEST).write_text(json.dumps(manifest(content), indent=1))
            self._upload(content, identity)
            self._appear(content, folder)

    def identities(self) -> Iterator[str]:
        """Every artifact that is whole in the local folder."""
        for path in sorted((self.scratch / "artifacts").iterdir()):
            if (path / MANIFEST).is_file():
                yield path.name

    def _local(self, identity: str) -> Path:
        return self.scratch / "artifacts" / identity

    def _lock(self, identity: str) -> Path:
        return self.scratch / "locks" / identity

    def _clear(self, identity: str) -> None:
        """Removes what a killed run left of an artifact; only while its lock is held."""
        for path in (self.scratch / "artifacts").glob(f".new-{identity}-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _tidy(self, identity: str) -> None:
        """Removes what a run that was killed after its artifact appeared left: the checkpoints, the folder aside."""
        checkpoints, asides = self.checkpoints(identity), (self.scratch / "artifacts").glob(f".new-{identity}-*")
        if checkpoints.exists() or any(asides):
            with suppress(OSError), locked(self._lock(identity), wait=False) as held:
                if held:
                    shutil.rmtree(checkpoints, ignore_errors=True)
                    self._clear(identity)

    def _remote(self, identity: str) -> tuple[Any, str]:
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(self.address)
        return filesystem, f"{root.rstrip('/')}/artifacts/{identity}"

    def _upload(self, content: Path, identity: str) -> None:
        if not self.remote:
            return
        filesystem, root = self._remote(identity)
        for path in sorted(content.rglob("*")):
            if path.is_file() and path != content / MANIFEST:
                filesystem.put_file(str(path), f"{root}/{path.relative_to(content)}")
        filesystem.put_file(str(content / MANIFEST), f"{root}/{MANIFEST}")

    def _aside(self, identity: str) -> _Aside:
        return _Aside(self.scratch / "artifacts", f".new-{identity}-")

    @staticmethod
    def _appear(content: Path, folder: Path) -> None:
        try:
            content.rename(folder)
        except OSError:
            if not (folder / MANIFEST).is_file():
                shutil.rmtree(folder, ignore_errors=True)
                content.rename(folder)


class _Aside:
    """A temporary folder beside the artifacts, so that the final rename stays on one file system."""

    def __init__(self, beside: Path, prefix: str) -> None:
        self._beside, self._prefix = beside, prefix

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._beside))
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """File -> size in bytes and sha256, for every file below the folder."""
    listing = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            with path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(handle)
            listing[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": digest}
    return listing


def _sha256(handle: Any) -> str:
    digest = hashlib.sha256()
    while chunk := handle.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
