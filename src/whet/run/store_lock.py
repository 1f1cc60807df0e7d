"""One writer per artifact: a lock that the operating system releases when its holder ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whet.errors import StoreError

log = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds after which waiting is worth a message: a short hold is a look, a long one is a run at work."""

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def locked(path: Path, wait: bool = True, patience: float = 0.0) -> Iterator[bool]:
    """Holds the lock file at ``path``; yields whether it is held.

    Args:
        path: made, and removed when the lock is released.
        wait: for as long as another process has it; else ``False`` is yielded after ``patience`` seconds.
        patience: seconds to wait without ``wait``.

    Raises:
        OSError: the file cannot be made.
        StoreError: its file system has no locks.
    """
    handle = _acquire(path, wait, _PATIENCE if wait else patience)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def is_free(path: Path) -> bool:
    """Whether no process holds the lock file; it is neither made nor removed."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        return _try(path, handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)


def _acquire(path: Path, wait: bool, patience: float) -> int | None:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _take(path, handle, wait, patience):
                os.close(handle)
                return None
            if _names(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _take(path: Path, handle: int, wait: bool, patience: float) -> bool:
    limit = time.monotonic() + patience
    while not _try(path, handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
        if time.monotonic() >= limit:
            if not wait:
                return False
            log.warning("another run is making artifact %s; waiting for it", path.name)
            return _try(path, handle, fcntl.LOCK_EX)
        time.sleep(0.02)
    return True


def _try(path: Path, handle: int, operation: int) -> bool:
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StoreError(
            f"the file system of {path.parent} has no file locks ({error}), without which two runs could write one "
            "artifact at once; set WHET_HOME to a folder of another disk, or mount this one with locks"
        ) from error
    return True


def _names(path: Path, handle: int) -> bool:
    """Whether the path still names the locked file: its last holder may have removed it meanwhile."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False
