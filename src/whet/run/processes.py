"""A pool of processes on this machine: each with a pipe of its own, so that it is known which item a dead one had."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from whet.workers import Call, Failure, Pool, Success, attempt

_SPAWN = multiprocessing.get_context("spawn")
_TOKENS = itertools.count(1)


class Processes(Pool):
    """``count`` processes with ``cpus`` threads each; they start when first needed and end with this one."""

    def __init__(self, count: int, cpus: int = 1) -> None:
        super().__init__(f"processes:{count}", count)
        self._free: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._all = [_Worker(cpus) for _ in range(count)]
        for worker in self._all:
            self._free.put(worker)

    def _carry_out(self, call: Call) -> None:
        parcel = _Parcel(call.function, call.shared)
        hands = self._take(len(call.items))
        try:
            while call.waiting or any(worker.item is not None for worker in hands):
                self._refuse_closed()
                for worker in hands:
                    if worker.item is None and call.waiting:
                        number = call.next()
                        worker.send(number, call.items[number], parcel)
                for worker in _heard(hands):
                    number, outcome = worker.receive()
                    if outcome is not None:
                        call.keep(number, outcome)
                    else:
                        self._refuse_closed()
                        call.lost(number, worker.end(), ". Killed by signal 9 often means: out of memory")
        finally:
            self._give_back(hands)

    def _end(self) -> None:
        for worker in self._all:
            worker.stop()
        self._wait_for_calls()
        for worker in self._all:
            worker.end()

    def _refuse_closed(self) -> None:
        if self.closed:
            raise KeyboardInterrupt

    def _take(self, wanted: int) -> list[_Worker]:
        """At least one worker, more if they are free: several threads may map at once."""
        hands = [self._free.get()] if wanted else []
        while len(hands) < wanted:
            try:
                hands.append(self._free.get_nowait())
            except queue.Empty:
                break
        return hands

    def _give_back(self, hands: Sequence[_Worker]) -> None:
        for worker in hands:
            if worker.item is not None:
                worker.end()
            self._free.put(worker)


def _heard(hands: Sequence[_Worker]) -> list[_Worker]:
    busy: dict[Any, _Worker] = {worker.pipe: worker for worker in hands if worker.item is not None}
    return [busy[pipe] for pipe in wait(list(busy))]


class _Parcel:
    """What all items of one call have in common, pickled once."""

    def __init__(self, function: Callable[..., Any], shared: Any) -> None:
        self.token = next(_TOKENS)
        self.content = pickle.dumps((function, shared), protocol=5)


class _Worker:
    """One process, or the place for one that has not started or is dead."""

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.item: int | None = None
        self.pipe: Connection | None = None
        self.process: Any = None
        self._parcel = 0

    def send(self, number: int, item: Any, parcel: _Parcel) -> None:
        if self.pipe is None:
            self._start()
        assert self.pipe is not None
        content = b"" if self._parcel == parcel.token else parcel.content
        self.item, self._parcel = number, parcel.token
        message = pickle.dumps(item, protocol=5)
        try:
            self.pipe.send_bytes(content)
            self.pipe.send_bytes(message)
        except OSError:
            # It is dead; receiving will say so.
            return

    def receive(self) -> tuple[int, Success | Failure | None]:
        """The item's number and outcome; no outcome if the process has died."""
        assert self.pipe is not None and self.item is not None
        number = self.item
        try:
            outcome = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            return number, None
        self.item = None
        return number, outcome

    def stop(self) -> None:
        """Lets an idle process end; kills a busy one, and who waits for it hears of it."""
        if self.process is None or self.pipe is None:
            return
        if self.item is not None:
            self.process.kill()
        else:
            self.pipe.close()
            self.process.join(5)

    def end(self) -> str:
        """Ends the process; says how it ended."""
        if self.process is None:
            return "its worker never started"
        assert self.pipe is not None
        self.process.join(0.2 if self.item is not None else 0)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self.pipe.close()
        self.process = self.pipe = self.item = None
        self._parcel = 0
        return f"its worker was killed by signal {-code}" if code < 0 else f"its worker ended with exit status {code}"

    def _start(self) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, self.cpus, os.getpid()), name="whet-worker")
        self.process.start()
        # Its end must not stay open here, else its death would go unheard.
        theirs.close()


def _serve(pipe: Connection, cpus: int, parent: int) -> None:
    """The life of a worker: an item, its outcome, the next item."""
    os.environ["OMP_NUM_THREADS"] = str(cpus)
    # The terminal's Ctrl-C is for the parent, which then ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    parcel = b""
    function, shared = None, None
    while True:
        try:
            content, message = pipe.recv_bytes(), pipe.recv_bytes()
        except EOFError:
            return
        if content:
            parcel, function = content, None
        try:
            if function is None:
                function, shared = pickle.loads(parcel)
            outcome = attempt(function, pickle.loads(message), shared)
        except Exception as error:
            outcome = attempt(_raise, error, None)
        pipe.send_bytes(_portable(outcome))


def _raise(error: Exception) -> None:
    raise error


def _portable(outcome: Success | Failure) -> bytes:
    try:
        return pickle.dumps(outcome if isinstance(outcome, Success) else replace(outcome, cause=None), protocol=5)
    except Exception as error:
        failed = Failure(TypeError, f"the outcome cannot be sent between processes: {error}", "")
        return pickle.dumps(failed, protocol=5)


def _leave_with(parent: int) -> None:
    """Ends this process when its parent is gone, however that went."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
