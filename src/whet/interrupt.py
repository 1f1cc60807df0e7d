"""Stopping on request: Ctrl-C, or the SIGTERM that a scheduler sends.

Work that keeps checkpoints runs inside :func:`deferred`: a first signal is only noted, the work comes to the end of what it is
at (a training step, a block), saves, and calls :func:`stop_if_asked`. Everywhere else, and at a second signal, it stops at
once; artifacts appear whole or not at all, so there is nothing to save. Processes that train together stop after the same step.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""The signals that ask to stop, with the handler that each has in a program that set none of its own."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop by ``signal`` and did; what ran can be continued."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class _State:
    """What is noted in this process: the signal received, and how many regions are open that will look at it."""

    received: int | None = None
    regions: int = 0


@contextmanager
def graceful() -> Iterator[None]:
    """Turns the signals into orderly stops while inside. Handlers that the program set itself stay."""
    replaced: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number, default in SIGNALS.items():
            if signal.getsignal(number) == default:
                replaced[number] = signal.signal(number, _received)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            if signal.getsignal(number) is _received:
                signal.signal(number, handler)
            _State.received = None


@contextmanager
def deferred() -> Iterator[None]:
    """A region whose work looks at :func:`asked` often, and stops by :func:`stop_if_asked` when it has saved; else at its end."""
    _State.regions += 1
    try:
        yield
    finally:
        _State.regions -= 1
    stop_if_asked()


def asked() -> int | None:
    """The signal by which a stop was asked for that is still due."""
    return _State.received


def join(number: int) -> None:
    """Takes the signal that another process was asked to stop by as received here too."""
    _State.received = number


def stop_if_asked() -> None:
    """Raises :class:`Stopped` if a stop was asked for."""
    if _State.received is not None:
        raise Stopped(_State.received)


def _received(number: int, frame: FrameType | None) -> None:
    again, _State.received = _State.received is not None, number
    if again or not _State.regions:
        raise Stopped(number)
    if os.environ.get("RANK", "0") == "0":
        print("\nwhet: stopping after this step and saving; once more stops at once", file=sys.stderr, flush=True)
