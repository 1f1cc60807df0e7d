"""Runs Python that nobody has read against tests, in a sandbox; the code cannot touch the machine or write its own verdict.

**Two processes per job.** One runs the code, the other runs the tests and calls the code's functions in the first; only plain
data crosses (None, numbers, text, bytes, lists, tuples, sets, dicts, iterators run out). The verdict comes from the process in
which the code never was: leaving early, replacing builtins, an object that is equal to everything, or writing to any
descriptor can at most make the tests fail. What the code prints goes nowhere.

**Two strengths.** ``bubblewrap`` (Linux, the program ``bwrap``): own namespaces for processes, files, network and
IPC; nothing to be seen but the interpreter and system libraries, read-only; one scratch folder in memory; environment empty;
everything ends with the parent. ``subprocess``, where that does not work: a bare interpreter in its own session with an empty
environment, a scratch folder, the same limits, and a hook in the interpreter that refuses network, processes, signals and
files outside the scratch folder and the standard library. It is weaker: a program that breaks the interpreter itself is stopped
by nothing but the user's own rights; attributes of files can be seen; the sum of its files is not limited, nor, for root, the
number of its threads; and if whet itself is killed, it may go on until its CPU time or an alarm ends it. Whoever gets it is
told once, and the receipt says so.

Limits in both: seconds of wall and CPU time, address space, processes and threads, size of a file, open files, length of a reply.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from whet.errors import WhetError

Mode = Literal["bubblewrap", "subprocess"]

START_SECONDS = 60.0
"""How long both processes may take to start, on a busy machine; not counted against the code's limit."""
NOTES = {
    "bubblewrap": "bubblewrap",
    "subprocess": "subprocess (weaker: no isolation by the kernel; network, files, processes and signals are refused only "
    "within the interpreter)",
}
"""What a receipt says of the sandbox used."""
_HARNESS = Path(__file__).with_name("sandbox_child.py")
_SHARED = ("sandbox_common", "sandbox_limits")
_FIRST_UID = 1_879_048_192
"""User ids from here on belong to nobody; each process started by root gets one of its own."""
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Limits:
    """``seconds`` of wall time for code and tests together; ``memory`` (address space, each process) and ``disk`` (scratch
    folder) in MiB; ``processes``: how many processes and threads the code may be, itself included."""

    seconds: float = 10.0
    memory: int = 1024
    processes: int = 1
    disk: int = 16


@dataclass(frozen=True)
class Job:
    """``prefix``: trusted code that stands before ``code`` and that the tests may use too (passed over if it is no program by
    itself). ``tests``: asserts, ``test_*`` functions, or ``check(candidate)``, which is called with ``entry_point``.
    ``partial``: failed asserts do not stop the others and are counted."""

    code: str
    tests: str
    prefix: str = ""
    entry_point: str = ""
    partial: bool = False


@dataclass(frozen=True)
class Verdict:
    """``status``: ``passed``, ``failed`` (a test or the code raised), ``timeout``, ``ended`` (the code's process ended before its
    tests), or ``broken`` (the tests are at fault). ``passed`` of ``total`` asserts hold, counted where the job is ``partial``."""

    status: str
    why: str = ""
    passed: int = 0
    total: int = 0


def choose(wanted: Literal["auto", "bubblewrap", "subprocess"] = "auto") -> Mode:
    """The sandbox to use: with ``auto`` bubblewrap where it works, else the weaker one with a warning (once per process).

    Raises:
        WhetError: bubblewrap is demanded and does not work (with the reason), or there is no sandbox on this system.
    """
    if os.name != "posix":
        raise WhetError("there is no sandbox on this system for code that a model wrote. Way out: Linux, or macOS")
    trouble = "" if wanted == "subprocess" else _bubblewrap_trouble()
    if wanted == "bubblewrap" and trouble:
        raise WhetError(f"sandbox: bubblewrap does not work here: {trouble}. Way out: install it, or sandbox: auto (weaker)")
    if wanted == "subprocess" or trouble:
        _warn_once(trouble)
        return "subprocess"
    return "bubblewrap"


@functools.cache
def _warn_once(trouble: str) -> None:
    reason = f" because bubblewrap does not work here: {trouble}" if trouble else ""
    warnings.warn(f"code that a model wrote runs in the sandbox {NOTES['subprocess']}{reason}", stacklevel=3)


@functools.cache
def _bubblewrap_trouble() -> str:
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return "the program bwrap was not found"
    try:
        verdict = run(Job("def f():\n return 1", "assert f() == 1"), Limits(), "bubblewrap")
    except WhetError as error:
        return str(error)
    return "" if verdict.status == "passed" else f"a trial ended with {verdict.status}: {verdict.why}"


def run_all(jobs: Sequence[Job], limits: Limits, mode: Mode, workers: int | None = None) -> list[Verdict]:
    """The verdict of each job, in order; ``workers`` jobs at a time (default: one per core that this process may use)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=max(1, min(workers or cores, len(jobs)))) as pool:
        return list(pool.map(lambda job: run(job, limits, mode), jobs))


def run(job: Job, limits: Limits, mode: Mode) -> Verdict:
    """Runs one job.

    Raises:
        WhetError: the sandbox could not be started; says why.
    """
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        one, two = (stack.enter_context(end) for end in socket.socketpair())
        worker = stack.enter_context(_Child("worker", limits, mode, two, None))
        tester = stack.enter_context(_Child("tester", limits, mode, one, theirs))
        for end in (theirs, one, two):
            end.close()
        line = _Answers(ours)
        try:
            ours.sendall(json.dumps(asdict(job)).encode() + b"\n")
            ready = line.next(time.monotonic() + START_SECONDS)
        except OSError:
            ready = None
        if ready != "ready":
            raise WhetError(f"sandbox {mode} could not be started: {worker.complaint() or tester.complaint() or 'no answer'}")
        try:
            verdict = line.next(time.monotonic() + limits.seconds)
        except TimeoutError:
            return Verdict("timeout", f"not finished within {limits.seconds:g} s")
        return Verdict(**verdict) if isinstance(verdict, dict) else Verdict("ended", "the tests' process ended early")


class _Answers:
    """JSON lines from the tester."""

    def __init__(self, end: socket.socket) -> None:
        self.end, self.data = end, b""

    def next(self, deadline: float) -> Any:
        """The next line; ``None`` if the tester is gone. Raises ``TimeoutError`` at the deadline."""
        while b"\n" not in self.data:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.end.settimeout(left)
            try:
                more = self.end.recv(65536)
            except ConnectionError:
                more = b""
            if not more:
                return None
            self.data += more
        first, _, self.data = self.data.partition(b"\n")
        return json.loads(first)


class _Child:
    """One of the two processes; leaving its context ends it with all its descendants and removes its scratch folder."""

    def __init__(self, role: str, limits: Limits, mode: Mode, stdin: socket.socket, stdout: socket.socket | None) -> None:
        self.scratch = tempfile.mkdtemp(prefix="whet-sandbox-") if mode == "subprocess" else None
        uid = _own_uid(mode)
        if self.scratch and uid:
            os.chown(self.scratch, uid, uid)
        settings = {
            "seconds": limits.seconds,
            "start": START_SECONDS,
            "memory": limits.memory * 2**20,
            "processes": limits.processes + (mode == "bubblewrap" and not uid),  # bwrap itself counts in its own namespace
            "disk": limits.disk * 2**20,
            "uid": uid,
            "guard": mode == "subprocess",
        }
        harness = _HARNESS.read_text(encoding="utf-8")
        command = [_interpreter(), "-s", "-S", "-c", harness, role, json.dumps(settings), _sources(role)]
        self.process = subprocess.Popen(
            [*_bubblewrap(limits.disk), *command] if mode == "bubblewrap" else command,
            stdin=stdin.fileno(),
            stdout=stdout.fileno() if stdout else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=self.scratch or "/",
            env={"PYTHONHASHSEED": "0"},  # the order of sets must not decide a reward
            start_new_session=True,
        )

    def complaint(self) -> str:
        """What the process wrote to stderr before it was confined; ends the process."""
        self._end()
        assert self.process.stderr is not None
        return self.process.stderr.read(4000).decode(errors="replace").strip()[-400:]

    def _end(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        assert self.process.stderr is not None
        self.process.stderr.close()
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)


@functools.cache
def _sources(role: str) -> str:
    """The modules of a role, as the harness takes them."""
    names = (*_SHARED, f"sandbox_{role}")
    return json.dumps({f"{__package__}.{name}": _HARNESS.with_name(f"{name}.py").read_text(encoding="utf-8") for name in names})


@functools.cache
def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _own_uid(mode: Mode) -> int:
    """A user id for a process that root starts, 0 if there is none: limits on processes do not bind root, and root's code could
    signal everybody. Without bubblewrap it needs an interpreter that everybody may read."""
    if os.geteuid() != 0 or not (mode == "bubblewrap" or _readable_by_all()):
        return 0
    return _FIRST_UID + (os.getpid() % 4096) * 4096 + next(_NUMBERS) % 4096


@functools.cache
def _readable_by_all() -> bool:
    folders = [Path(_interpreter()).parent, Path(os.__file__).resolve().parent, Path(tempfile.gettempdir()).resolve()]
    return all(part.stat().st_mode & 0o001 for folder in folders for part in (folder, *folder.parents))


@functools.cache
def _bubblewrap(disk: int) -> tuple[str, ...]:
    """The command line up to the program: what it may see, and what it is cut off from."""
    root = os.geteuid() == 0
    spaces = (
        "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --cap-add CAP_SETUID --cap-add CAP_SETGID"
        if root
        else "--unshare-all --unshare-user"
    )
    seen = [os.path.realpath(sys.base_prefix), "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]
    above = dict.fromkeys(str(folder) for path in seen for folder in reversed(Path(path).parents) if folder.parent != folder)
    folders = [word for folder in above for word in ("--dir", folder)]  # made by a bind, they would be closed to other users
    binds = [*folders, *(word for path in seen for word in ("--ro-bind-try", path, path))]
    devices = [word for path in ("/dev/null", "/dev/urandom") for word in ("--dev-bind", path, path)]
    described = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, check=False).stdout
    size = ["--perms", "1777", "--size", str(disk * 2**20), "--tmpfs", "/scratch"]
    scratch = size if "--size" in described else ["--dir", "/scratch"]  # without a limit on its size it stays read-only
    ends = ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    return ("bwrap", *ends, *spaces.split(), *binds, *devices, *scratch, "--remount-ro", "/", "--chdir", "/scratch")
