"""One writer per artifact: a lock that the operating system releases when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock file at ``path``; yields whether it is held: without ``wait``, ``False`` if another process has it.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    handle = _acquire(path, wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def _acquire(path: Path, wait: bool) -> int | None:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    os.close(handle)
                    return None
                log.warning("another run is making artifact %s; waiting for it", path.name)
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _names(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _names(path: Path, handle: int) -> bool:
    """Whether the path still names the locked file: its last holder may have removed it meanwhile."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False
