"""What happens when one of several processes fails: all end, and one of them says why.

The first rank that fails leaves its reason in the shared store; the others, whose sending and receiving then breaks, find it
there and end without a word. Where there is no reason (a process was killed) a survivor says which ranks are gone, where that
was, and how to go on. ``torchrun`` ends the others by SIGTERM as soon as one has ended, so that signal is treated the same.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from whet.errors import OtherRank, WhetError

if TYPE_CHECKING:
    from whet.train.distributed import World

ROLL_CALL = 3.0
"""Seconds that survivors wait for each other's sign of life; at most."""
PATIENCE = 0.5
"""Seconds after which all ranks but one are taken for all that still live."""
FAREWELL = 2.0
"""Seconds that the first rank waits for the others to have read the reason; at most."""
REASON, STOPPED = "failed", "stopped"
BROKEN = re.compile(r"gloo|nccl|connection|socket|broken pipe|store|timed? ?out", re.IGNORECASE)
"""What messages say when another process is gone."""


class _Ended(BaseException):
    """SIGTERM, most likely because another rank has ended."""


@contextmanager
def together(world: World, where: Callable[[], str]) -> Iterator[None]:
    """A region that all ranks go through; regions may lie in each other, the innermost explains.

    Args:
        world: of more than one process.
        where: tells, when something fails, where that was and how to go on; part of the message.

    Raises:
        OtherRank: another rank failed and says why.
        WhetError: this rank failed, with its number before the message; or other ranks are gone.
    """
    before = _on_termination(_raise_ended) if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else None
    try:
        yield
    except BaseException as error:
        told = error if world.failed else _explained(world, error, where)
        if told is error:
            raise
        raise told from error
    finally:
        if before is not None and not world.failed:
            signal.signal(signal.SIGTERM, before)


def refuse_if_failed(world: World) -> None:
    """Raises OtherRank if some rank has left its reason for failing."""
    if world.store.check([REASON]):
        raise OtherRank(world.store.get(REASON).decode())


def _raise_ended(number: int, frame: Any) -> None:
    raise _Ended


def _on_termination(handler: Any) -> Any:
    """Sets the handler of SIGTERM; gives the one before, ``None`` in a thread that may not set one."""
    in_main = threading.current_thread() is threading.main_thread()
    return signal.signal(signal.SIGTERM, handler) if in_main else None


def _explained(world: World, error: BaseException, where: Callable[[], str]) -> BaseException:
    """The exception that this rank ends with: the first reason of all ranks stands, the others only refer to it."""
    world.failed = True
    _on_termination(signal.SIG_IGN)
    if isinstance(error, OtherRank):
        return error
    broken = isinstance(error, _Ended) or (isinstance(error, (RuntimeError, OSError)) and bool(BROKEN.search(str(error))))
    try:
        text = f"{_lost(world, error)} {where()}" if broken else f"rank {world.rank}: {_described(error)}"
        if isinstance(error, KeyboardInterrupt):
            # All were asked to stop, and each does; this is no failure of one that the others have to be told.
            text = STOPPED
        first = world.store.compare_set(REASON, "", text).decode()
        _stay(world)
    except RuntimeError:
        text = first = f"the connection to the other processes broke: rank 0, which holds it, is gone {where()}"
    if first != text:
        return OtherRank(first)
    if isinstance(error, WhetError):
        error.args = (text,)
        return error
    return WhetError(text) if broken else error


def _stay(world: World) -> None:
    """Lets the others read the reason before this process ends, if the store is in it and not in torchrun's."""
    world.store.set(f"told/{world.rank}", "1")
    others = [f"told/{rank}" for rank in range(1, world.size)]
    until = time.monotonic() + FAREWELL
    while world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and time.monotonic() < until:
        if world.store.check(others):
            break
        time.sleep(0.05)


def _described(error: BaseException) -> str:
    return str(error) if isinstance(error, WhetError) else f"{type(error).__name__}: {error}"


def _lost(world: World, error: BaseException) -> str:
    """Which ranks give no sign of life; a reason that one has left meanwhile makes the answer unneeded."""
    world.store.set(f"alive/{world.rank}", "1")
    started = time.monotonic()
    while (waited := time.monotonic() - started) < ROLL_CALL and not world.store.check([REASON]):
        silent = [r for r in range(world.size) if not world.store.check([f"alive/{r}"])]
        if not silent or (len(silent) == 1 and waited > PATIENCE):
            break
        time.sleep(0.05)
    silent = [r for r in range(world.size) if not world.store.check([f"alive/{r}"])]
    if not silent:
        what = "stopped by SIGTERM" if isinstance(error, _Ended) else f"the connection between the processes broke ({error})"
        return f"rank {world.rank}: {what}"
    names, verb = " and ".join(map(str, silent)), "is" if len(silent) == 1 else "are"
    if isinstance(error, _Ended):
        return f"rank {world.rank}: ended by SIGTERM, as after the end of another process; no sign of life of rank {names}"
    return f"rank {names} of {world.size} {verb} gone (killed, or out of memory, or its machine is)"
