"""The process inside the sandbox that runs the code under test and answers calls.

Everything below the call of ``execute`` may be in the hands of that code: all it can do is to answer a call, rightly or wrongly.
What it raises is an answer as well, ``SystemExit`` and ``KeyboardInterrupt`` included: hence every ``except BaseException``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from whet.generate.sandbox_common import Line, execute, pack, unpack


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
