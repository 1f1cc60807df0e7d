"""The two processes inside the sandbox; given as text to a bare interpreter, it imports only the standard library.

``worker`` runs the code under test and answers calls. ``tester`` runs the tests and calls the worker's functions; arguments and
results cross as plain data (JSON), never as objects, so that whatever the code does, it can only answer a call, rightly or
wrongly. The tester alone writes the verdict.
"""

from __future__ import annotations

import ast
import builtins
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

LONGEST = 16 * 2**20
"""Longest line in bytes that either side reads; what is longer ends the run."""
DIGITS = 100_000
"""Digits of the longest integer that crosses."""
_TAGS: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "iterator": iter}


class Ended(BaseException):
    """The worker is gone or speaks no sense; no ``except Exception`` of a test may take it for an answer."""


class Broken(BaseException):
    """The tests themselves are at fault, whatever the code under test does."""


class Line:
    """One JSON value per line over a socket."""

    def __init__(self, descriptor: int) -> None:
        self.out, self.lines = descriptor, os.fdopen(descriptor, "rb")

    def send(self, value: Any) -> None:
        try:
            data = memoryview(json.dumps(value).encode() + b"\n")
            while data:
                data = data[os.write(self.out, data) :]
        except OSError as error:
            raise Ended(f"the code's process ended: {error}") from None

    def read(self) -> Any:
        try:
            line = self.lines.readline(LONGEST)
        except OSError as error:
            raise Ended(f"the code's process ended: {error}") from None
        if not line.endswith(b"\n"):
            raise Ended("a reply is too long" if line else "the code's process ended before the tests did")
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Ended(f"a reply is no JSON: {type(error).__name__}") from None


def pack(value: Any) -> Any:
    """Plain data as JSON, types kept; subclasses become their base. Raises ``TypeError`` for anything else."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        return ["dict", *(pack(part) for pair in value.items() for part in pair)]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    for name in ("list", "tuple", "set", "frozenset"):
        if isinstance(value, getattr(builtins, name)):
            return [name, *map(pack, value)]
    if isinstance(value, Iterator):
        return ["iterator", *map(pack, value)]
    raise TypeError(f"{type(value).__name__} is no plain data")


def unpack(value: Any) -> Any:
    """The value that :func:`pack` made ``value`` of."""
    if not isinstance(value, list):
        return value
    tag, rest = value[0], value[1:]
    if tag == "bytes":
        return bytes.fromhex(rest[0])
    if tag == "complex":
        return complex(*rest)
    if tag == "dict":
        return {unpack(key): unpack(item) for key, item in zip(rest[::2], rest[1::2])}
    return _TAGS[tag]([unpack(part) for part in rest])


# The worker: everything below the call of ``execute`` may be in the hands of the code under test.


def worker(line: Line, before_code: Callable[[], None]) -> None:
    """Runs the code, says which of the wanted names it defines, then answers calls until the tester is done."""
    line.send("ready")
    job = line.read()
    before_code()
    space: dict[str, Any] = {"__name__": "completion"}
    try:
        execute(job["prefix"], space, optional=True)
        execute(job["code"], space)
    except BaseException as error:
        line.send({"raised": _named(error)})
        return
    line.send({"names": {name: _kind(space[name]) for name in job["names"] if name in space}})
    while True:
        line.send(_answer(space, line.read()))


def execute(source: str, space: dict[str, Any], optional: bool = False) -> None:
    """Runs ``source`` in ``space``; an ``optional`` source that is not a program by itself is passed over."""
    try:
        program = compile(source, "<code>", "exec")
    except (SyntaxError, ValueError):
        if optional:
            return
        raise
    if "random" in source:
        import random

        random.seed(0)
    exec(program, space)


def _named(error: BaseException) -> list[str]:
    try:
        return [type(error).__name__, str(error)[:300]]
    except BaseException:
        return [type(error).__name__, ""]


def _kind(value: Any) -> Any:
    try:
        return {"value": pack(value)}
    except BaseException:
        return {"function": callable(value)}


def _answer(space: dict[str, Any], call: dict[str, Any]) -> Any:
    try:
        args, kwargs = unpack(call["args"]), unpack(call["kwargs"])
        value = space[call["name"]](*args, **kwargs)
        return {"value": pack(value), "args": pack(args)}
    except BaseException as error:
        return {"raised": _named(error)}


# The tester.


class Remote:
    """The functions of the worker, and how often they were used."""

    def __init__(self, line: Line) -> None:
        self.line, self.used = line, 0

    def names(self, wanted: Sequence[str]) -> dict[str, Any]:
        """What the code defines of the wanted names, never another name; raises what the code raised when it was run."""
        reply = self._reply()
        found = reply.get("names")
        if not isinstance(found, dict):
            raise Ended("a reply has no names")
        found = {name: found[name] for name in wanted if isinstance(found.get(name), dict)}
        self.used += sum("value" in kind for kind in found.values())
        return {name: self._data(kind["value"]) if "value" in kind else self.function(name) for name, kind in found.items()}

    def function(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.used += 1
            try:
                packed = {"name": name, "args": pack(args), "kwargs": pack(kwargs)}
            except RecursionError:
                raise Ended("an argument is nested too deeply") from None
            except TypeError as error:
                raise Broken(f"they give {name} an argument that is no plain data: {error}") from None
            self.line.send(packed)
            reply = self._reply()
            _write_back(args, self._data(reply.get("args")))
            return self._data(reply.get("value"))

        return call

    def _reply(self) -> dict[str, Any]:
        reply = self.line.read()
        if not isinstance(reply, dict):
            raise Ended("a reply has the wrong form")
        if "raised" in reply:
            raise _error(reply["raised"])
        return reply

    def _data(self, packed: Any) -> Any:
        try:
            return unpack(packed)
        except Exception as error:
            raise Ended(f"a reply is no plain data: {type(error).__name__}") from None


def _error(named: Any) -> Exception:
    name, text = (str(part) for part in named) if isinstance(named, list) and len(named) == 2 else ("Exception", "")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:
            pass
    return RuntimeError(f"{name}: {text}")


def _write_back(args: tuple[Any, ...], after: Any) -> None:
    """What the code changed in its arguments is changed in the test's own."""
    for old, new in zip(args, after if isinstance(after, tuple) else ()):
        if type(old) is type(new) and isinstance(old, (list, dict, set)) and old != new:
            old.clear()
            old.extend(new) if isinstance(old, list) else old.update(new)


class Counted(ast.NodeTransformer):
    """Makes every assert statement count by itself: one that fails does not stop the others."""

    def __init__(self) -> None:
        self.asserts = 0

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        number, self.asserts = self.asserts, self.asserts + 1
        after = ast.parse(f"try: pass\nexcept __exception__: __count__({number}, False)\nelse: __count__({number}, True)").body[0]
        assert isinstance(after, ast.Try)
        after.body = [node]
        return after


def free_names(tree: ast.Module) -> set[str]:
    """Names that the tests read and neither define nor find among the builtins."""
    read: set[str] = set()
    known = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.alias):
            known.add((node.asname or node.name).partition(".")[0])
    return read - known


def tester(worker_line: Line, parent: Line) -> None:
    """Runs the tests of the parent's job against the worker, and writes ``ready`` and then the verdict to the parent."""
    if worker_line.read() != "ready":
        return
    job = parent.read()
    counts: dict[int, bool] = {}
    total, remote, started = 0, Remote(worker_line), False
    try:
        tree = _parsed(job["tests"])
        space: dict[str, Any] = {"__name__": "tests", "__exception__": Exception}
        execute(job["prefix"], space, optional=True)
        entry = job["entry_point"]
        wanted = sorted((free_names(tree) - space.keys()) | ({entry} if entry else set()))
        if not wanted:
            raise Broken("they never use the code under test")
        if job["partial"]:
            counter = Counted()
            tree = ast.fix_missing_locations(counter.visit(tree))
            total = counter.asserts
            space["__count__"] = lambda number, good: counts.__setitem__(number, good and counts.get(number, True))
        program = compile(tree, "<tests>", "exec")
        started = True
        parent.send("ready")
        worker_line.send({"prefix": job["prefix"], "code": job["code"], "names": wanted})
        space.pop(entry, None)
        space.update(remote.names(wanted))
        _run(program, space, entry)
        if not remote.used:  # whatever they expected: without this, code that lacks the function could pass
            raise NameError("the tests reached nothing of the code")
        verdict = {"status": "passed" if all(counts.values()) else "failed", "passed": sum(counts.values()), "total": len(counts)}
    except BaseException as error:
        # Up to the start nothing has run but the tests and their prefix, so that the fault is theirs.
        status = {Broken: "broken", Ended: "ended"}.get(type(error), "failed") if started else "broken"
        if not started:
            parent.send("ready")
        why = str(error) if isinstance(error, (Broken, Ended)) else f"{type(error).__name__}: {error}"
        verdict = {"status": status, "passed": sum(counts.values()), "total": total, "why": why[:300]}
    parent.send(verdict)


def _parsed(tests: str) -> ast.Module:
    try:
        return ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise Broken(f"they are no Python: {error}") from None


def _run(program: Any, space: dict[str, Any], entry: str) -> None:
    """The tests' own lines, then ``check(entry_point)``, then every function ``test_*``."""
    exec(program, space)
    own = [value for value in space.values() if isinstance(value, FunctionType) and value.__code__.co_filename == "<tests>"]
    for function in own:
        if function.__name__ == "check" and entry and function.__code__.co_argcount == 1:
            if entry not in space:
                raise NameError(f"the code does not define {entry}")
            function(space[entry])
        elif function.__name__.startswith("test_") and not function.__code__.co_argcount:
            function()


# Both: limits first.


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


REFUSED = (
    *("socket.", "subprocess.", "ctypes.", "shutil.", "pty.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system"),
    *("os.kill", "os.chown", "os.mount", "os.setxattr", "os.removexattr", "signal.pthread_kill", "mmap.__new__"),
    *("resource.setrlimit", "resource.prlimit"),
)
WITHIN = {
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink"),
    *("os.chmod", "os.truncate", "os.utime", "os.listdir", "os.scandir"),
}
REMOVED = ("mkfifo", "mknod", "lchown", "pidfd_open", "setpriority", "sched_setaffinity")
"""Functions of ``os`` that no hook sees."""
UNSAFE = {
    *("ctypes", "_ctypes", "_posixsubprocess"),
    *("_testcapi", "_testinternalcapi", "_xxsubinterpreters", "_interpreters"),
}
"""Modules that reach behind the interpreter."""


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


def main(role: str, limits: dict[str, Any]) -> None:
    """Takes the channels from descriptors 0 and 1, closes them to everybody else, and plays the role."""
    channel, parent = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    confine(limits)
    if role == "worker":
        os.close(parent)
        worker(Line(channel), guard if limits["guard"] else lambda: None)
    else:
        if limits["guard"]:
            hide()
            guard()
        tester(Line(channel), Line(parent))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
