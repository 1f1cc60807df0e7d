"""A pool on a Ray cluster: its own on this machine, or one that runs already. Ray is loaded only here."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from whet import workers
from whet.errors import RecipeError
from whet.workers import Calls, Failure, Success, Tally, WorkerError, WorkersLost, attempt, named

PACKAGE = Path(__file__).parents[1]
AHEAD = 2
"""Items sent per worker, so that it finds the next one when it is done."""
STALL = 60.0
"""Seconds without a result after which a step on a worker does an item itself: every machine may be waiting for another."""


class RayPool:
    """Items as Ray tasks; ``nested`` is what :meth:`inside` needs to open the same pool from within a task."""

    def __init__(self, ray: Any, name: str, cpus: int, gpus: int | None, *, owned: bool, within: bool = False) -> None:
        self.name, self.tally = name, Tally()
        self._ray, self._cpus, self._owned, self._within = ray, cpus, owned, within
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        accelerators = max((int(node.get("GPU", 0)) for node in nodes), default=0)
        self._gpus = min(1, accelerators) if gpus is None else gpus
        self._refuse_too_small(nodes)
        self.workers = sum(int(node.get("CPU", 0)) // cpus for node in nodes)
        self.nested = {"name": name, "cpus": cpus, "gpus": self._gpus}
        self._calls = Calls()

    @classmethod
    def connect(cls, target: str | None, cpus: int, gpus: int | None) -> RayPool:
        """Starts a local Ray (no target) or connects to the cluster at ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.

        Raises:
            RecipeError: Ray is not installed, the cluster does not answer, or no machine of it is large enough.
        """
        ray = _import()
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        passed = {name: os.environ[name] for name in ("WHET_HOME", "WHET_LEDGER") if name in os.environ}
        settings["runtime_env"] = {"env_vars": {"OMP_NUM_THREADS": str(cpus), **passed}}
        if target is None:
            settings |= {"num_cpus": max(os.cpu_count() or 1, cpus), "include_dashboard": False}
        else:
            # The code of this whet goes with the work, so that every machine runs the same.
            settings["runtime_env"]["py_modules"] = [str(PACKAGE)]
            settings["address"] = target
        owned = not ray.is_initialized()
        if owned:
            try:
                ray.init(**settings)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
                raise RecipeError(f"--on: no Ray cluster at {target or 'this machine'}: {error}") from error
        try:
            return cls(ray, f"ray:{target}" if target else "ray", cpus, gpus, owned=owned)
        except RecipeError:
            if owned:
                ray.shutdown()
            raise

    @classmethod
    def inside(cls, name: str, cpus: int, gpus: int) -> RayPool:
        """The pool of the task that this is called in."""
        return cls(_import(), name, cpus, gpus, owned=False, within=True)

    def map(
        self,
        function: Callable[..., Any],
        items: Sequence[Any],
        *,
        shared: Any = None,
        accelerator: bool = False,
        label: workers.Label | None = None,
        on_result: workers.OnResult | None = None,
    ) -> list[Any]:
        """See :class:`whet.workers.Pool`."""
        with self._calls.one():
            return self._map(self._task(accelerator), function, items, shared, label, on_result)

    def _map(
        self,
        task: Any,
        function: Callable[..., Any],
        items: Sequence[Any],
        shared: Any,
        label: workers.Label | None,
        on_result: workers.OnResult | None,
    ) -> list[Any]:
        ray = self._ray
        function_ref = ray.put(function)
        shared_ref = None if shared is None else ray.put(shared)
        results: list[Any] = [None] * len(items)
        tries: Counter[int] = Counter()
        waiting, running = deque(range(len(items))), dict[Any, int]()

        def keep(number: int, outcome: Success | Failure) -> None:
            if isinstance(outcome, Failure):
                raise outcome.error(named(label, number, items[number])) from outcome.cause
            results[number] = outcome.value
            self.tally.items += 1
            if on_result is not None:
                on_result(number, outcome.value)

        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * self.workers:
                    number = waiting.popleft()
                    tries[number] += 1
                    running[task.remote(function_ref, items[number], shared_ref)] = number
                ready = self._ready(list(running))
                if not ready:
                    reference, number = running.popitem()
                    ray.cancel(reference, force=True)
                    keep(number, attempt(function, items[number], shared))
                for reference in ready:
                    number = running.pop(reference)
                    try:
                        keep(number, ray.get(reference))
                    except _lost_errors(ray) as error:
                        self._lost(error, tries[number], named(label, number, items[number]))
                        waiting.appendleft(number)
                    except ray.exceptions.RayError as error:
                        raise WorkerError(f"{named(label, number, items[number])}: {error}") from error
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
        return results

    def _ready(self, references: list[Any]) -> list[Any]:
        """The first result; none if this is a task itself and :data:`STALL` seconds have passed."""
        patience = STALL if self._within else float("inf")
        started = time.monotonic()
        while time.monotonic() - started < patience:
            if self._calls.closed:
                raise KeyboardInterrupt
            ready, _ = self._ray.wait(references, num_returns=1, timeout=1.0)
            if ready:
                return list(ready)
        return []

    def close(self) -> None:
        """Ends the tasks, and the connection or the Ray that this pool has opened."""
        self._calls.closed = True
        self._calls.ended()
        if self._owned:
            self._ray.shutdown()

    def on_every_node(self, function: Callable[[Any], Any], item: Any) -> list[tuple[str, Any]]:
        """``(host, function(item))`` of every machine."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        tasks = [self._ray.remote(_at_home).options(num_cpus=0, max_retries=0, scheduling_strategy=s) for s in strategies]
        found = []
        for reference in [task.remote(function, item) for task in tasks]:
            # A machine that has just gone is still listed for a while; it gets no items either.
            with suppress(*_lost_errors(self._ray), self._ray.exceptions.TaskUnschedulableError):
                found.append(self._ray.get(reference))
        return found

    def _task(self, accelerator: bool) -> Any:
        # Ray's own retries would not be seen, and would repeat what the function did wrong.
        gpus = self._gpus if accelerator else 0
        options = {"num_cpus": self._cpus, "num_gpus": gpus, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        return self._ray.remote(_carry_out).options(**options)

    def _lost(self, error: Exception, tries: int, label: str) -> None:
        why = f"{label}: {type(error).__name__}"
        self.tally.lost.append(why)
        if tries >= workers.TRIES:
            raise WorkersLost(f"{why}; {tries} workers died over it: {error}") from error

    def _refuse_too_small(self, nodes: Sequence[dict[str, Any]]) -> None:
        for resource, wanted in (("CPU", self._cpus), ("GPU", self._gpus)):
            largest = max((int(node.get(resource, 0)) for node in nodes), default=0)
            if largest < wanted:
                name = f"{resource.lower()}s"
                raise RecipeError(
                    f"--on: {name}={wanted} is more than any machine of the cluster has ({largest}); set ?{name}={largest}"
                )


def _import() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise RecipeError("--on: a cluster needs Ray: pip install 'whet[ray]'") from error
    return ray


def _lost_errors(ray: Any) -> tuple[type[Exception], ...]:
    """How Ray says that a worker or its machine is gone, or the result with it."""
    e = ray.exceptions
    return (
        e.WorkerCrashedError,
        e.OutOfMemoryError,
        e.NodeDiedError,
        e.LocalRayletDiedError,
        e.ObjectLostError,
    )


def _carry_out(function: Callable[..., Any], item: Any, shared: Any) -> Success | Failure:
    outcome = attempt(function, item, shared)
    return outcome if isinstance(outcome, Success) else replace(outcome, cause=None)


def _at_home(function: Callable[[Any], Any], item: Any) -> tuple[str, Any]:
    return socket.gethostname(), function(item)
