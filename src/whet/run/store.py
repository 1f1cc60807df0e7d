"""Artifacts: folders that appear whole or not at all, found by the identity of the step that made them.

An artifact lies at ``artifacts/<identity>/`` in a folder of this machine; its ``manifest.json`` lists every file with size
and sha256. It is written aside and renamed. Where the store's address is a URL it waits as ``.upload-<identity>`` until the
remote has it (:mod:`whet.run.store_remote`), so that an upload that fails or is killed loses nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from whet.errors import StoreError
from whet.run.manifest import MANIFEST, as_text, manifest
from whet.run.store_lock import locked
from whet.run.store_remote import Remote


def default_home() -> str:
    """``$WHET_HOME``, else ``whet`` in the user's cache folder."""
    return os.environ.get("WHET_HOME") or _cache_folder()


def _local_home() -> str:
    """A folder of this machine, also where ``$WHET_HOME`` is a URL."""
    home = default_home()
    return _cache_folder() if "://" in home else home


def _cache_folder() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whet")


_PATIENCE = 2.0
"""Seconds for which a run waits for who looks at or removes an artifact at the same moment."""


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
    def remote(self) -> Remote | None:
        """Where artifacts lie if the address is a URL; ``scratch`` then holds copies of them."""
        return Remote(self.address) if "://" in self.address else None

    def checkpoints(self, identity: str) -> Path:
        """Where a step keeps its checkpoints while it runs."""
        return self.scratch / "checkpoints" / identity

    def lock(self, name: str) -> Path:
        """The lock file of an artifact."""
        return self.scratch / "locks" / name

    def prepare(self) -> None:
        """Says before any compute is spent whether artifacts can be written, here and on the remote.

        Raises:
            StoreError: they cannot.
        """
        probe = self.lock(f"probe-{os.getpid()}")
        with self.reporting(f"write to the store {self.scratch}"), locked(probe, wait=False):
            probe.write_bytes(b"\0" * 4096)
            if self.remote:
                self.remote.prepare()

    def has(self, identity: str) -> bool:
        """Whether the artifact exists whole, here or on the remote. Nothing keeps it: a run asks :meth:`claim`."""
        if (self._local(identity) / MANIFEST).is_file():
            return True
        return self.remote is not None and self.remote.has(identity)

    def claim(self, identity: str) -> bool:
        """Whether the artifact exists whole; it then is brought here. ``False`` also while another process makes it.

        A run asks after its record in the ledger names the identity. From then on no collection removes the artifact; one
        that is at it in this moment holds the lock, and is waited for.
        """
        doing = f"look for artifact {identity} in {self.scratch}"
        with self.reporting(doing), locked(self.lock(identity), wait=False, patience=_PATIENCE) as held:
            return held and self._bring(identity)

    def get(self, identity: str) -> Path:
        """The artifact's local folder; a remote one is copied here first.

        Raises:
            StoreError: there is no such artifact.
        """
        folder = self._local(identity)
        if not (folder / MANIFEST).is_file():
            with self.reporting(f"read artifact {identity} into {self.scratch}"), locked(self.lock(identity)):
                self._bring(identity)
        if not (folder / MANIFEST).is_file():
            raise StoreError(f"no artifact {identity} in {self.address}; run the recipe again")
        self._tidy(identity)
        return folder

    def put(self, identity: str, write: Callable[[Path], None]) -> Path:
        """Writes an artifact: ``write`` fills an empty folder, which then appears under the identity.

        While another process makes the same artifact this one waits and then takes the other's.

        Raises:
            StoreError: the disk is full or not writable; nothing of the artifact remains, earlier ones are untouched. Or
                the remote cannot be reached: the artifact is kept here and uploaded by who next asks for it.
        """
        with self.reporting(f"write artifact {identity} to {self.address}"), locked(self.lock(identity)):
            self._clear(identity)
            if not self._bring(identity):
                with self._aside(identity) as aside:
                    content = aside / "new"
                    content.mkdir()
                    write(content)
                    self._still_there(identity)
                    (content / MANIFEST).write_text(as_text(manifest(content)))
                    self._appear(content, self._waiting(identity) if self.remote else self._local(identity))
                self._bring(identity)
        return self._local(identity)

    def identities(self) -> Iterator[str]:
        """Every artifact that is whole in the local folder."""
        for path in sorted((self.scratch / "artifacts").iterdir()):
            if (path / MANIFEST).is_file() and not path.name.startswith("."):
                yield path.name

    def _local(self, identity: str) -> Path:
        return self.scratch / "artifacts" / identity

    def _waiting(self, identity: str) -> Path:
        return self.scratch / "artifacts" / f".upload-{identity}"

    def _bring(self, identity: str) -> bool:
        """Brings a whole artifact to its place, from the wait for its upload or from the remote; only under its lock."""
        folder, waiting, remote = self._local(identity), self._waiting(identity), self.remote
        if (folder / MANIFEST).is_file():
            return True
        if remote is None:
            return False
        if (waiting / MANIFEST).is_file() and remote.publish(waiting, identity):
            self._appear(waiting, folder)
            return True
        with self._aside(identity) as aside:
            if not remote.fetch(identity, aside / "copy"):
                return False
            self._appear(aside / "copy", folder)
        shutil.rmtree(waiting, ignore_errors=True)
        return True

    def _clear(self, identity: str) -> None:
        """Removes what a killed run left of an artifact; only while its lock is held."""
        for path in (self.scratch / "artifacts").glob(f".new-{identity}-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _tidy(self, identity: str) -> None:
        """Removes what a run that was killed after its artifact appeared left: the checkpoints, the folder aside."""
        checkpoints, asides = self.checkpoints(identity), (self.scratch / "artifacts").glob(f".new-{identity}-*")
        if checkpoints.exists() or any(asides):
            with suppress(OSError), locked(self.lock(identity), wait=False) as held:
                if held:
                    shutil.rmtree(checkpoints, ignore_errors=True)
                    self._clear(identity)

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

    @contextmanager
    def reporting(self, doing: str) -> Iterator[None]:
        """Turns the disk's errors, and those that safetensors makes of them, into one with a way out."""
        try:
            yield
        except Exception as error:
            if not (isinstance(error, OSError) or type(error).__module__.startswith("safetensors")):
                raise
            raise StoreError(f"cannot {doing}: {error}; earlier artifacts are intact; {self._way_out(error)}") from error

    def _still_there(self, identity: str) -> None:
        """Only the holder of a lock removes its file: without it, this is no longer the folder that the run began in."""
        if not self.lock(identity).exists():
            raise FileNotFoundError(errno.ENOENT, "the store's folder is gone, or another lies in its place", str(self.scratch))

    def _way_out(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            if str(self.scratch) not in str(error):
                return f"see that {error.filename} is there"
            return f"see that {self.scratch} is there (mounted?), or set WHET_HOME to another folder, and run again"
        if getattr(error, "errno", None) in (errno.EROFS, errno.EACCES, errno.EPERM):
            return "set WHET_HOME to a folder you can write"
        return f"make room on the disk of {self.scratch} (whet store gc), or set WHET_HOME to a larger one, and run again"


def identity_of(folder: Path) -> str:
    """The identity of an artifact's folder, or of one beside it (being written, waiting for its upload, being removed)."""
    if folder.name.startswith(".upload-"):
        return folder.name.removeprefix(".upload-")
    if folder.name.startswith("."):
        return folder.name.partition("-")[2].rpartition("-")[0] or folder.name
    return folder.name


class _Aside:
    """A temporary folder beside the artifacts, so that the final rename stays on one file system."""

    def __init__(self, beside: Path, prefix: str) -> None:
        self._beside, self._prefix = beside, prefix

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._beside))
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
