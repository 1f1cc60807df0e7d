"""Where work is carried out: in this process, in others, or on a cluster; what comes out is the same everywhere.

A *pool* maps a function over items and gives the results in the order of the items. Code that has many independent items (blocks
of rows, of prompts) asks for the pool in use, :func:`current`, and need not know which it is. The pools that reach beyond this
process are opened by ``whet.run.cluster.open_pool``. A result must depend on its item alone, never on the worker or on what
else runs; so whoever splits work into blocks splits it in the same way whatever the pool, see :func:`blocks`.
"""

from __future__ import annotations

import threading
import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from whet.errors import WhetError

TRIES = 4
"""How often an item is begun before its workers' deaths are taken for its own fault."""
SHOWN = 5


class WorkerError(RuntimeError):
    """A function failed on an item, by an error that is not the user's to put right; carries the worker's traceback."""


class WorkersLost(WhetError):
    """The workers that had an item died, again and again."""


@dataclass
class Tally:
    """What a pool did: items finished, and for each lost worker which item it had (it was begun again) and what became of it."""

    items: int = 0
    lost: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The tally as a receipt shows it."""
        return {"items": self.items, "begun_again": len(self.lost), "lost": self.lost[:SHOWN]}


@dataclass(frozen=True)
class Success:
    """What a function gave."""

    value: Any


@dataclass(frozen=True)
class Failure:
    """What a function raised: the exception's class and text, its traceback as text, and here the exception itself."""

    kind: type[BaseException]
    text: str
    trace: str
    cause: BaseException | None = None

    def error(self, label: str) -> Exception:
        """The exception for the caller; ``label`` stands in front unless it is empty."""
        prefix = f"{label}: " if label else ""
        if issubclass(self.kind, WhetError):
            return self.kind(f"{prefix}{self.text}")
        return WorkerError(f"{prefix}{self.kind.__name__}: {self.text}\n{self.trace}")


Label = Callable[[Any], str]
OnResult = Callable[[int, Any], None]


@dataclass
class Call:
    """A call of :meth:`Pool.map` under way: the numbers of the items that wait, and the results so far."""

    function: Callable[..., Any]
    items: Sequence[Any]
    shared: Any
    accelerator: bool
    label: Label | None
    on_result: OnResult | None
    tally: Tally

    def __post_init__(self) -> None:
        self.results: list[Any] = [None] * len(self.items)
        self.waiting = deque(range(len(self.items)))
        self._tries: Counter[int] = Counter()

    def next(self) -> int:
        """Takes an item that waits, to begin it."""
        number = self.waiting.popleft()
        self._tries[number] += 1
        return number

    def name(self, number: int) -> str:
        """What an item is called in messages."""
        return self.label(self.items[number]) if self.label else f"item {number}"

    def keep(self, number: int, outcome: Success | Failure) -> None:
        """Keeps what the function gave, or raises what it raised."""
        if isinstance(outcome, Failure):
            raise outcome.error(self.name(number)) from outcome.cause
        self.results[number] = outcome.value
        self.tally.items += 1
        if self.on_result is not None:
            self.on_result(number, outcome.value)

    def lost(self, number: int, why: str, hint: str) -> None:
        """The worker that had the item died: it waits again.

        Raises:
            WorkersLost: it has been begun :data:`TRIES` times; ``hint`` stands at the message's end.
        """
        said = f"{self.name(number)}: {why}"
        self.tally.lost.append(said)
        if self._tries[number] >= TRIES:
            raise WorkersLost(f"{said}; {self._tries[number]} workers died over it{hint}")
        self.waiting.appendleft(number)


class Pool(ABC):
    """Carries functions out. ``name`` is how the user calls it, ``workers`` how many items it has in hand at once, ``nested``
    what opens the same pool from within an item (``None``: that cannot be done).
    """

    nested: Mapping[str, Any] | None = None

    def __init__(self, name: str, workers: int) -> None:
        self.name, self.workers, self.tally = name, workers, Tally()
        self.closed = False
        self._calls = 0
        self._changed = threading.Condition()

    def map(
        self,
        function: Callable[..., Any],
        items: Sequence[Any],
        *,
        shared: Any = None,
        accelerator: bool = False,
        label: Label | None = None,
        on_result: OnResult | None = None,
    ) -> list[Any]:
        """``[function(item), ...]`` in the order of the items.

        Args:
            function: picklable: a function or method of an importable module.
            items: picklable.
            shared: sent once to each worker instead of with each item; the function is then called ``function(item, shared)``.
            accelerator: an item needs an accelerator where there are any.
            label: what an item is called in messages; default its number.
            on_result: called here with number and result as soon as an item is finished, in any order.

        Raises:
            WhetError: what the function raised for the user, of the same class, with the item's label in front.
            WorkerError: any other exception of the function; it is not tried again.
            WorkersLost: the workers of an item died :data:`TRIES` times.
        """
        call = Call(function, items, shared, accelerator, label, on_result, self.tally)
        with self._under_way():
            self._carry_out(call)
        return call.results

    def close(self) -> None:
        """Ends its workers, whatever they are at, and waits until the calls in other threads have let go of them."""
        self.closed = True
        self._end()

    @abstractmethod
    def _carry_out(self, call: Call) -> None:
        """Has every item of the call that waits carried out, and its outcome kept."""

    @abstractmethod
    def _end(self) -> None:
        """Ends the workers."""

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        with self._changed:
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _wait_for_calls(self, seconds: float = 10.0) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._calls, seconds)


class Local(Pool):
    """One item after the other, in this process."""

    def __init__(self) -> None:
        super().__init__("local", 1)

    def _carry_out(self, call: Call) -> None:
        while call.waiting:
            number = call.next()
            call.keep(number, attempt(call.function, call.items[number], call.shared))

    def _end(self) -> None:
        """There is nothing to end."""


def attempt(function: Callable[..., Any], item: Any, shared: Any) -> Success | Failure:
    """Carries an item out; an exception of the function becomes a :class:`Failure`."""
    try:
        return Success(function(item) if shared is None else function(item, shared))
    except Exception as error:
        return Failure(type(error), str(error), traceback.format_exc(), error)


def blocks(count: int, size: int) -> list[range]:
    """``count`` rows in blocks of ``size``, the last one shorter. It depends on nothing else, so that the arithmetic of a block
    is the same wherever it is done."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


_CURRENT: ContextVar[Pool] = ContextVar("pool")
_HERE = Local()


def current() -> Pool:
    """The pool in use; :class:`Local` unless :func:`using` says otherwise."""
    return _CURRENT.get(_HERE)


@contextmanager
def using(pool: Pool) -> Iterator[Pool]:
    """Makes a pool the one in use."""
    token = _CURRENT.set(pool)
    try:
        yield pool
    finally:
        _CURRENT.reset(token)
