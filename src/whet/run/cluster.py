"""Pools beyond this process: local processes, and a Ray cluster. See :mod:`whet.workers` for what a pool promises.

A worker that dies (killed, out of memory, its machine gone) costs the item that it had: the item is begun again elsewhere, at
most ``whet.workers.TRIES`` times, and counted. An exception of the function is no such case: it comes back with the item's name.

Every worker computes with ``cpus`` threads, whose number decides the last bits of sums on a CPU; so that is 1, or
``$OMP_NUM_THREADS``, or what the address says (``ray?cpus=4``), and never follows from how many workers there are.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet import workers
from whet.errors import RecipeError, StoreError, unknown
from whet.run.cluster_ray import RayPool
from whet.run.processes import Processes
from whet.run.store import Store
from whet.workers import Pool

FORMS = ("local", "processes:N", "ray", "ray:auto", "ray:HOST:PORT", "ray://HOST:PORT")


def open_pool(address: str | None) -> Pool:
    """Opens the pool at an address; close it after use (``contextlib.closing``).

    Args:
        address: ``local`` (the default); ``processes:N``, N processes of this machine; ``ray``, a Ray of this machine's own that
            ends with the pool; ``ray:auto`` the cluster that this machine belongs to (or ``$RAY_ADDRESS``); ``ray:HOST:PORT`` a
            cluster whose network this machine is in; ``ray://HOST:PORT`` one reached through Ray's client server. An ending
            ``?cpus=4`` gives each item four cores and threads (default 1), ``?gpus=1`` as many accelerators (default 1 for
            items that run a model, where the cluster has any).

    Raises:
        RecipeError: an unknown address or option, Ray is not installed, the cluster does not answer or is too small.
    """
    place, _, query = (address or "local").partition("?")
    options = _options(query, str(address))
    cpus = options.get("cpus") or int(os.environ.get("OMP_NUM_THREADS") or 1)
    if place == "local":
        return workers.Local()
    kind, _, where = place.partition(":")
    if kind == "processes" and where.isdigit() and int(where) > 0:
        return Processes(int(where), cpus)
    if (kind == "ray" and where) or place == "ray":
        target = place if place.startswith("ray://") else where or None
        return RayPool.connect(target, cpus, options.get("gpus"))
    raise RecipeError(f"--on: {unknown('place', place, FORMS)}")


def _options(query: str, address: str) -> dict[str, int]:
    found = {}
    for entry in filter(None, query.split("&")):
        name, _, value = entry.partition("=")
        if name not in ("cpus", "gpus") or not value.isdigit() or (name == "cpus" and int(value) < 1):
            raise RecipeError(f"--on {address}: {entry!r} is no option; there are cpus=N (at least 1) and gpus=N")
        found[name] = int(value)
    return found


def check_reach(pool: Pool, store: Store, *, whole_recipes: bool = False) -> None:
    """Makes sure that the workers on every machine see the store; with ``whole_recipes`` also that they can share the ledger.

    Raises:
        StoreError: one does not; names the machine and the way out.
    """
    if not isinstance(pool, RayPool):
        return
    mark = store.scratch.absolute() / "locks" / f"reach-{os.getpid()}"
    mark.touch()
    try:
        for host, problem in pool.on_every_node(_sees, (store.address, str(mark))):
            if whole_recipes and host != socket.gethostname() and os.environ.get("WHET_LEDGER", "sqlite").startswith("sqlite"):
                raise StoreError(
                    f"{host} and this machine cannot both write a ledger in SQLite; set WHET_LEDGER to PostgreSQL's URL"
                )
            if problem:
                raise StoreError(
                    f"the store {store.address} cannot be used from {host}: {problem}. Every machine of the cluster must see it: "
                    "set WHET_HOME to a folder that all of them share, or to object storage (s3://...)"
                )
    finally:
        mark.unlink(missing_ok=True)


def _sees(target: tuple[str, str]) -> str:
    """Why this machine cannot use the store; empty if it can."""
    address, mark = target
    if "://" not in address:
        return "" if Path(mark).is_file() else "the folder there is another one, or there is none"
    try:
        Store.open(address).has("0" * 20)
    except (OSError, ImportError, ValueError, StoreError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def nested_pool(settings: Mapping[str, Any] | None) -> Pool:
    """The pool that a step uses which itself runs on a worker: the same cluster, from there."""
    return workers.Local() if settings is None else RayPool.inside(**settings)
