"""Judges mathematical equality with math-verify in a process of its own, with limits on time and memory.

Limits inside the process (signals) do not stop an arithmetic operation of C code and do not work in threads; a process can
always be ended. It is started on first use, answers one question after the other, and is replaced when it had to be ended.
Run as ``python -m whet.generate.math_judge`` it is that process: one JSON list per line in, one JSON object per line out.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from typing import IO, Any

from whet.errors import WhetError

START_SECONDS = 120.0
"""How long the process may take to import math-verify and sympy."""
MEMORY = 4 * 2**30
"""Address space of the process in bytes."""


class JudgeTimeout(Exception):
    """The time limit was reached, or the process ran out of memory."""


def equal_mathematics(answer: str | None, completion: str, reference: str, seconds: float) -> bool:
    """Whether ``answer`` (or, if ``None``, what math-verify finds in ``completion``) equals ``reference``.

    Raises:
        JudgeTimeout: not decided within ``seconds``.
        WhetError: math-verify does not start.
        ValueError: math-verify cannot read one of the two.
    """
    given = completion if answer is None else f"\\boxed{{{answer}}}"
    with _LOCK:
        return _judge().ask([given, f"\\boxed{{{reference}}}"], seconds)


class _Judge:
    """The process with a thread that reads its answers."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "whet.generate.math_judge"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        try:
            self._next(START_SECONDS, "no answer")
        except JudgeTimeout as error:
            raise WhetError("reward math: math-verify could not be started. Way out: pip install math-verify") from error

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.answers.put(line)
        self.answers.put("")

    def _next(self, seconds: float, reason: str) -> dict[str, Any]:
        try:
            line = self.answers.get(timeout=seconds)
        except queue.Empty:
            line = ""
        if not line:
            self.process.kill()
            self.process.wait()
            raise JudgeTimeout(reason)
        return dict(json.loads(line))

    def ask(self, question: list[str], seconds: float) -> bool:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self._next(seconds, f"not decided within {seconds:g} s or {MEMORY >> 30} GiB")
        if "error" in answer:
            raise ValueError(answer["error"])
        return bool(answer["equal"])


_LOCK = threading.Lock()
_CURRENT: list[_Judge] = []


def _judge() -> _Judge:
    """The running process; a new one if it ended or belongs to the process that this one was forked from."""
    if not _CURRENT or _CURRENT[0].process.poll() is not None or _CURRENT[0].owner != os.getpid():
        _CURRENT[:] = [_Judge()]
    return _CURRENT[0]


def _serve() -> None:
    replies, sys.stdout = sys.stdout, sys.stderr
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        try:
            given, reference = json.loads(line)
            right = parse(reference, parsing_timeout=None, raise_on_error=True)
            found = parse(given, parsing_timeout=None, raise_on_error=True)
            reply: dict[str, Any] = {"equal": bool(verify(right, found, timeout_seconds=None, raise_on_error=True))}
        except Exception as error:  # its text is the reply: whoever asked raises it again
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    _serve()
