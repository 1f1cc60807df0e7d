"""The process inside the sandbox that runs the tests; it calls the worker's functions and alone writes the verdict."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from whet.generate.sandbox_common import Ended, Line, execute, pack, unpack


class Broken(BaseException):
    """The tests themselves are at fault, whatever the code under test does."""


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
            # The code under test may have written the reply, in any form.
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
