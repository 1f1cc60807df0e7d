"""A pool on a Ray cluster: its own on this machine, or one that runs already. Ray is loaded only here."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from whet.errors import RecipeError
from whet.workers import Call, Failure, Pool, Success, WorkerError, attempt

PACKAGE = Path(__file__).parents[1]
AHEAD = 2
"""Items sent per worker, so that it finds the next one when it is done."""
STALL = 60.0
"""Seconds without a result after which a step on a worker does an item itself: every machine may be waiting for another."""

GRACE = 5.0
"""Seconds that an item has to end by itself when its result is no longer wanted."""


class RayPool(Pool):
    """Items as Ray tasks; ``nested`` is what :meth:`inside` needs to open the same pool from within a task."""

    def __init__(self, ray: Any, name: str, cpus: int, gpus: int | None, *, owned: bool, within: bool = False) -> None:
        self._ray, self._cpus, self._owned, self._within = ray, cpus, owned, within
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        accelerators = max((int(node.get("GPU", 0)) for node in nodes), default=0)
        self._gpus = min(1, accelerators) if gpus is None else gpus
        self._refuse_too_small(nodes)
        super().__init__(name, sum(int(node.get("CPU", 0)) // cpus for node in nodes))
        self.nested = {"name": name, "cpus": cpus, "gpus": self._gpus}

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

    def _carry_out(self, call: Call) -> None:
        ray, task = self._ray, self._task(call.accelerator)
        function, shared = ray.put(call.function), None if call.shared is None else ray.put(call.shared)
        running: dict[Any, int] = {}
        try:
            while call.waiting or running:
                while call.waiting and len(running) < AHEAD * self.workers:
                    number = call.next()
                    running[task.remote(function, call.items[number], shared)] = number
                ready = self._ready(list(running))
                if not ready:
                    reference, number = running.popitem()
                    self._stop([reference])
                    call.keep(number, attempt(call.function, call.items[number], call.shared))
                for reference in ready:
                    self._take(call, running.pop(reference), reference)
        finally:
            self._stop(list(running))

    def _stop(self, references: list[Any]) -> None:
        """Ends items. By a kill only those that do not end when interrupted: it goes to the worker, which may have another
        item by the time that it arrives, and that item would be lost."""
        for reference in references:
            self._ray.cancel(reference)
        unfinished = self._ray.wait(references, num_returns=len(references), timeout=GRACE)[1] if references else []
        for reference in unfinished:
            self._ray.cancel(reference, force=True)

    def _take(self, call: Call, number: int, reference: Any) -> None:
        try:
            call.keep(number, self._ray.get(reference))
        except _lost_errors(self._ray) as error:
            call.lost(number, type(error).__name__, f": {error}")
        except self._ray.exceptions.RayError as error:
            raise WorkerError(f"{call.name(number)}: {error}") from error

    def _ready(self, references: list[Any]) -> list[Any]:
        """The first result; none if this is a task itself and :data:`STALL` seconds have passed."""
        patience = STALL if self._within else float("inf")
        started = time.monotonic()
        while time.monotonic() - started < patience:
            if self.closed:
                raise KeyboardInterrupt
            ready, _ = self._ray.wait(references, num_returns=1, timeout=1.0)
            if ready:
                return list(ready)
        return []

    def _end(self) -> None:
        self._wait_for_calls()
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
