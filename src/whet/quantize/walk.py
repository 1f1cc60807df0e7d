"""A forward pass that can be stopped inside a block, and gone on with after layers behind the stop were changed.

Each pass runs in a thread of its own, and only one thread runs at any time: the caller's while passes are stopped, a pass's while
it is resumed. So a block's layers can be coded group by group, each on inputs made by the coded ones before it, in one pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from torch import Tensor


class Leave(Exception):
    """Ends a forward pass early."""


class Walk:
    """One pass: ``run`` is called in a thread; where it calls :meth:`stop` it waits for the next :meth:`resume`."""

    def __init__(self, run: Callable[[], Tensor]) -> None:
        self._run = run
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._walk, daemon=True)
        self._error: BaseException | None = None
        self._cancelled = self._ended = False
        self._output: Tensor | None = None
        self._thread.start()

    def resume(self) -> bool:
        """Goes on to the next stop, or to the end; returns whether it stopped. Raises what the pass raised."""
        if self._ended:
            return False
        self._go.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error
        return not self._ended

    def finish(self) -> Tensor:
        """Goes on to the end, past every stop; returns what ``run`` returned."""
        while self.resume():
            pass
        assert self._output is not None
        return self._output

    def cancel(self) -> None:
        """Ends the pass where it stands."""
        self._cancelled = True
        self._go.release()
        self._thread.join()

    def stop(self) -> None:
        """Called inside the pass: waits to be resumed."""
        self._stopped.release()
        self._go.acquire()
        if self._cancelled:
            raise Leave

    def _walk(self) -> None:
        self._go.acquire()
        try:
            if not self._cancelled:
                self._output = self._run()
        except BaseException as error:  # raised again by resume
            self._error = error
        self._ended = True
        self._stopped.release()
