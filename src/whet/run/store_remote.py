"""Artifacts in object storage: the content first, under a key of its own, then one small pointer that makes it exist.

``content/<identity>/<key>/`` holds the files of one upload; ``artifacts/<identity>.json``, written last and never
overwritten, names the key and the hash of the manifest. Two machines that upload one identity write under two keys, and
the first pointer wins; a copy is compared with its manifest before it is used.
"""

from __future__ import annotations

import datetime as dt
import errno
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import StoreError
from whet.run.manifest import MANIFEST, Files, differences, from_bytes, manifest, sha256

FORMAT = 1
LOCAL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Errors that speak of this machine's disk, not of the remote."""

_WAY_OUT = (
    "check that the address exists, and the network and the credentials "
    "(for S3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
)


@dataclass(frozen=True)
class Pointer:
    """Where an artifact's content lies: its ``key``, and the sha256 of its manifest."""

    key: str
    manifest: str


@dataclass(frozen=True)
class Upload:
    """The files of one upload: their number of bytes together, and when the newest was written (``None``: not known)."""

    size: int
    newest: dt.datetime | None


class Damaged(StoreError):
    """What a remote holds is not what was written; the text says which object."""


class Remote:
    """The artifacts below an fsspec URL. Every method raises :class:`StoreError` where the remote cannot be reached."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.shown = re.sub(r"://[^@/]*@", "://***@", address).rstrip("/")

    def prepare(self) -> None:
        """Says before any compute is spent whether artifacts can be written here."""
        with self._reaching("opening"):
            marker = f"{self._root}/store.json"
            if not self._exists(marker):
                self._files.pipe_file(marker, json.dumps({"whet": FORMAT}).encode())

    def has(self, identity: str) -> bool:
        """Whether the artifact's pointer is there."""
        with self._reaching(f"looking for artifact {identity} in"):
            return self._exists(self._pointer(identity))

    def pointer(self, identity: str) -> Pointer | None:
        """Where the artifact's content lies; ``None`` if there is no such artifact.

        Raises:
            Damaged: the pointer cannot be read.
        """
        with self._reaching(f"reading artifact {identity} from"):
            try:
                content = self._files.cat_file(self._pointer(identity))
            except FileNotFoundError:
                return None
        try:
            found = json.loads(content)
            return Pointer(str(found["key"]), str(found["manifest"]))
        except (ValueError, KeyError, TypeError):
            raise Damaged(f"{self.shown}/artifacts/{identity}.json") from None

    def publish(self, folder: Path, identity: str) -> bool:
        """Uploads an artifact; ``False`` if another machine's was there first, which then is the artifact."""
        written = (folder / MANIFEST).read_bytes()
        pointer = Pointer(f"{sha256([written])[:12]}-{secrets.token_hex(4)}", sha256([written]))
        with self._reaching(f"uploading artifact {identity} (which is kept on this machine, and uploaded by the next run) to"):
            for name in (*from_bytes(written), MANIFEST):
                self._files.put_file(str(folder / name), f"{self._content(identity, pointer.key)}/{name}")
        if self.point(identity, pointer) or self.pointer(identity) == pointer:
            return True
        self.remove(identity, pointer.key)
        return False

    def point(self, identity: str, pointer: Pointer) -> bool:
        """Makes an uploaded artifact exist; ``False`` if the identity has a pointer already."""
        path = self._pointer(identity)
        content = json.dumps({"key": pointer.key, "manifest": pointer.manifest}).encode()
        with self._reaching(f"writing artifact {identity} to"):
            try:
                self._files.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
            except (TypeError, OSError) as error:
                if isinstance(error, OSError) and error.errno != errno.ENOSYS:
                    raise
                # A storage that cannot create exclusively: the window is that between these two calls.
                if self._exists(path):
                    return False
                self._files.pipe_file(path, content)
        return True

    def fetch(self, identity: str, folder: Path) -> bool:
        """Copies an artifact into a folder that does not exist yet; ``False`` if there is no such artifact.

        Raises:
            StoreError: what arrived is not what was written.
        """
        try:
            pointer = self.pointer(identity)
            if pointer is None:
                return False
            listing, content = self._manifest(identity, pointer)
            for name in listing:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                self._download(identity, pointer, name, folder / name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).write_bytes(content)
            for problem, name in differences(listing, manifest(folder)):
                raise Damaged(f"{self._shown_content(identity, pointer.key)}/{name} ({problem})")
        except Damaged as error:
            raise StoreError(
                f"artifact {identity} is not what was written: {error}; nothing of it was used. Remove "
                f"{self.shown}/artifacts/{identity}.json and run the recipe again, which makes it anew"
            ) from error
        return True

    def examine(self, identity: str, read: bool) -> Iterator[tuple[str, str]]:
        """Pairs of problem and object in which an artifact differs from its manifest; without ``read`` by sizes only."""
        try:
            pointer = self.pointer(identity)
            if pointer is None:
                return
            listing, _ = self._manifest(identity, pointer)
        except Damaged as error:
            yield "damaged", str(error)
            return
        root = self._content(identity, pointer.key)
        with self._reaching(f"reading artifact {identity} from"):
            found: Files = {}
            for path, about in self._find(root).items():
                name = path.removeprefix(f"{root}/")
                digest = self._sha256(path) if read else listing.get(name, {}).get("sha256", "")
                found[name] = {"bytes": int(about["size"]), "sha256": digest}
        found.pop(MANIFEST, None)
        for problem, name in differences(listing, found):
            yield problem, f"{self._shown_content(identity, pointer.key)}/{name}"

    def identities(self) -> list[str]:
        """Every artifact that has a pointer."""
        with self._reaching("listing"):
            return sorted(path.rpartition("/")[2].removesuffix(".json") for path in self._find(f"{self._root}/artifacts"))

    def uploads(self) -> dict[tuple[str, str], Upload]:
        """(identity, key) -> what lies there, with or without a pointer to it."""
        found: dict[tuple[str, str], Upload] = {}
        with self._reaching("listing"):
            root = f"{self._root}/content/"
            for path, about in self._find(root.rstrip("/")).items():
                identity, _, inner = path.removeprefix(root).partition("/")
                upload = (identity, inner.partition("/")[0])
                before = found.get(upload, Upload(0, None))
                times = [t for t in (before.newest, self._modified(path, about)) if t is not None]
                found[upload] = Upload(before.size + int(about["size"]), max(times, default=None))
        return found

    def hide(self, identity: str) -> None:
        """Removes an artifact's pointer: the artifact is gone for who looks, its content still there."""
        with self._reaching(f"removing artifact {identity} from"), suppress(FileNotFoundError):
            self._files.rm_file(self._pointer(identity))

    def remove(self, identity: str, key: str) -> None:
        """Removes the content of one upload."""
        with self._reaching(f"removing artifact {identity} from"), suppress(FileNotFoundError):
            self._files.rm(self._content(identity, key), recursive=True)

    @property
    def _files(self) -> Any:
        return self._open()[0]

    @property
    def _root(self) -> str:
        return self._open()[1]

    def _open(self) -> tuple[Any, str]:
        import fsspec

        with self._reaching("opening"):
            files, root = fsspec.core.url_to_fs(self.address)
        return files, root.rstrip("/")

    def _pointer(self, identity: str) -> str:
        return f"{self._root}/artifacts/{identity}.json"

    def _content(self, identity: str, key: str) -> str:
        return f"{self._root}/content/{identity}/{key}"

    def _shown_content(self, identity: str, key: str) -> str:
        return f"{self.shown}/content/{identity}/{key}"

    def _exists(self, path: str) -> bool:
        # Another machine may have written since the listing that this process remembers.
        self._files.invalidate_cache()
        return bool(self._files.exists(path))

    def _find(self, path: str) -> dict[str, dict[str, Any]]:
        self._files.invalidate_cache()
        try:
            found = self._files.find(path, detail=True)
            # An empty folder that another machine begins to fill while it is listed comes back as an entry itself.
            return {name: about for name, about in found.items() if about["type"] == "file"}
        except FileNotFoundError:
            return {}

    def _modified(self, path: str, about: dict[str, Any]) -> dt.datetime | None:
        moment = about.get("LastModified") or about.get("last_modified") or about.get("mtime") or about.get("updated")
        if not isinstance(moment, dt.datetime):
            try:
                moment = self._files.modified(path)
            except (NotImplementedError, FileNotFoundError):
                return None  # such a storage has no dates; or the object is gone again
        return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)

    def _sha256(self, path: str) -> str:
        with self._files.open(path, "rb") as handle:
            return sha256(iter(lambda: handle.read(1 << 22), b""))

    def _download(self, identity: str, pointer: Pointer, name: str, target: Path) -> None:
        with self._reaching(f"reading artifact {identity} from"):
            try:
                self._files.get_file(f"{self._content(identity, pointer.key)}/{name}", str(target))
            except FileNotFoundError:
                raise Damaged(f"{self._shown_content(identity, pointer.key)}/{name} (missing)") from None

    def _manifest(self, identity: str, pointer: Pointer) -> tuple[Files, bytes]:
        where = f"{self._shown_content(identity, pointer.key)}/{MANIFEST}"
        with self._reaching(f"reading artifact {identity} from"):
            try:
                content = self._files.cat_file(f"{self._content(identity, pointer.key)}/{MANIFEST}")
            except FileNotFoundError:
                raise Damaged(f"{where} (missing)") from None
        if sha256([content]) != pointer.manifest:
            raise Damaged(f"{where} (damaged)")
        try:
            return from_bytes(content), content
        except ValueError as error:
            raise Damaged(f"{where} ({error})") from None

    @contextmanager
    def _reaching(self, doing: str) -> Iterator[None]:
        """Turns whatever a storage library raises (its own kinds, its network library's) into one error with a way out."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in LOCAL_DISK:
                raise
            way_out = "pip install 'whet[s3]'" if isinstance(error, ImportError) else _WAY_OUT
            raise StoreError(f"{doing} {self.shown} failed: {type(error).__name__}: {error}; {way_out}") from error
