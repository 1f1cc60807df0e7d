"""What a process inside the sandbox may not do: limits of the system, and where nothing stronger holds a guard in the interpreter."""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
from typing import Any

DIGITS = 100_000
"""Digits of the longest integer that crosses."""
REFUSED = (
    *("socket.", "subprocess.", "ctypes.", "shutil.", "pty.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system"),
    *("os.kill", "os.chown", "os.mount", "os.setxattr", "os.removexattr", "signal.pthread_kill", "mmap.__new__"),
    *("resource.setrlimit", "resource.prlimit"),
)
"""Beginnings of the interpreter's events that are refused whatever their arguments."""
WITHIN = {
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink"),
    *("os.chmod", "os.truncate", "os.utime", "os.listdir", "os.scandir"),
}
"""Events that are refused outside the scratch folder; reading in the standard library is not."""
REMOVED = ("mkfifo", "mknod", "lchown", "pidfd_open", "setpriority", "sched_setaffinity")
"""Functions of ``os`` that no hook sees."""
UNSAFE = {
    *("ctypes", "_ctypes", "_posixsubprocess"),
    *("_testcapi", "_testinternalcapi", "_xxsubinterpreters", "_interpreters"),
}
"""Modules that reach behind the interpreter."""


def confine(limits: dict[str, Any]) -> None:
    """Sets limits that cannot be raised again, and leaves the rights of root."""
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(DIGITS)
    sys.path[:] = [entry for entry in sys.path if entry]
    if limits["uid"] and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(*[limits["uid"]] * 3)
        os.setresuid(*[limits["uid"]] * 3)
    seconds = math.ceil(limits["seconds"]) + 1
    for name, value in {
        "RLIMIT_CPU": seconds,
        "RLIMIT_AS": limits["memory"],
        "RLIMIT_NPROC": limits["processes"],
        "RLIMIT_FSIZE": limits["disk"],
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }.items():
        if hasattr(resource, name):
            hard = resource.getrlimit(getattr(resource, name))[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            try:
                resource.setrlimit(getattr(resource, name), (value, value))
            except (ValueError, OSError):
                if name != "RLIMIT_AS":  # some systems have no limit on the address space
                    raise
    # An orphan must not sleep for ever where nothing else ends it with its parent.
    signal.alarm(seconds + int(limits["start"]))


def hide() -> None:
    """Keeps other processes of the same user out of this one's memory (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


def guard() -> None:
    """Where nothing stronger holds: refuses, within the interpreter, network, processes, signals, and files outside the
    scratch folder. It stops programs that try; it would not stop one that breaks the interpreter."""
    scratch = os.path.realpath(".")
    library = os.path.realpath(os.__file__.rpartition(os.sep)[0])
    within, realpath, fsdecode = os.path.commonpath, os.path.realpath, os.fsdecode
    refused, inside, unsafe, devices = REFUSED, frozenset(WITHIN), frozenset(UNSAFE), ("/dev/null", "/dev/urandom")
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def allowed(path: Any, write: bool) -> bool:
        if isinstance(path, int):
            return True
        real = realpath(fsdecode("." if path is None else path))
        folders = [scratch] if write else [scratch, library]
        return real in devices or any(within([real, folder]) == folder for folder in folders)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        bad = event.startswith(refused) or (event == "import" and args[0] in unsafe)
        if event == "open":
            bad = not allowed(args[0], bool(args[2] & writing))
        elif event in inside:
            reading = event in ("os.listdir", "os.scandir")
            bad = not all(allowed(a, not reading) for a in args if a is None or isinstance(a, (str, bytes)))
        if bad:
            raise PermissionError(f"the sandbox refuses {event}")

    for module in (os, sys.modules["posix"]):
        for name in REMOVED:
            if hasattr(module, name):
                delattr(module, name)
    sys.addaudithook(hook)
