"""What both processes inside the sandbox share: plain data over a line, and running source.

Given as text to a bare interpreter (:mod:`whet.generate.sandbox_child`), it imports only the standard library.
"""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

LONGEST = 16 * 2**20
"""Longest line in bytes that either side reads; what is longer ends the run."""
_TAGS: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "iterator": iter}


class Ended(BaseException):
    """The worker is gone or speaks no sense; no ``except Exception`` of a test may take it for an answer."""


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
