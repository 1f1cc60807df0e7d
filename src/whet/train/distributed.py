"""The processes that train one model together: how many there are, what each does, and what they tell each other.

``torchrun`` starts them; each finds its number (*rank*) in the environment. All ranks know the same examples of a step, lay
them out in the same micro-batches, and each takes every ``size``-th: losses are divided by the counts of the whole step, so
sums over the ranks are what one process computes. One process is a world of size 1, for which nothing is imported or sent.

Ranks on several machines need the same files under the same paths: data, model, store and checkpoints. On CPUs they talk
through gloo. On CUDA tensors go through NCCL, each rank on the accelerator of its ``LOCAL_RANK``; that path has not been run yet.
"""

from __future__ import annotations

import atexit
import datetime as dt
import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from whet.errors import StoreError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets, and :func:`world` needs."""

TIMEOUT = dt.timedelta(hours=2)
"""How long a rank waits for others that are alive but not there yet: a slow reward may keep one that long. Ranks whose process
is gone are noticed at once."""

GLANCE = 0.2
"""Seconds between two looks for a message of rank 0."""


def rank() -> int:
    """This process's number among those that train together, from the environment alone; 0 for a single one."""
    return int(os.environ["RANK"]) if _several() else 0


def _several() -> bool:
    return all(name in os.environ for name in ENVIRONMENT) and int(os.environ["WORLD_SIZE"]) > 1


@dataclass
class World:
    """``rank`` of ``size`` processes; ``mesh`` (one axis over all ranks) and ``store`` (texts by key) where there are several.

    Every method that sends something must be called by all ranks in the same order.
    """

    rank: int = 0
    size: int = 1
    backend: str = "none"
    mesh: DeviceMesh | None = None
    store: Any = None
    failed: bool = field(default=False, init=False)
    _messages: int = field(default=0, init=False)

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks, on all of them."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sum(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Adds numbers up over the ranks by name, in the same order everywhere; names may be missing on some."""
        if self.size == 1:
            return dict(numbers)
        gathered = self.gather(dict(numbers))
        names = sorted({name for own in gathered for name in own})
        return {name: sum(own.get(name, 0.0) for own in gathered) for name in names}

    def portion(self, pieces: Sequence[T]) -> list[tuple[T, bool]]:
        """This rank's pieces of a step, as many on every rank, so that what they send in between matches.

        Pieces of falling size are dealt out to and fro, which balances them.

        Returns:
            (piece, whether it counts): where pieces run out the last one is repeated and must count nothing.
        """
        forth, back = self.rank, self.size - 1 - self.rank
        rounds = range(-(-len(pieces) // self.size))
        places = [r * self.size + (back if r % 2 else forth) for r in rounds]
        return [(pieces[min(place, len(pieces) - 1)], place < len(pieces)) for place in places]

    def attempt(self, what: str, action: Callable[[], Any]) -> None:
        """Does something on every rank; it has succeeded only if it has on all.

        Raises:
            StoreError: it failed on a rank, which is named; raised on all of them.
        """
        if self.size == 1:
            action()
            return
        trouble = None
        try:
            action()
        except Exception as error:
            # Whatever it is, the others wait for this rank's word.
            trouble = f"{type(error).__name__}: {error}"
        for number, text in enumerate(self.gather(trouble)):
            if text is not None:
                raise StoreError(f"rank {number} cannot {what}: {text}")

    def tell(self, message: Mapping[str, Any]) -> None:
        """Rank 0: leaves a message for the others, who may look for it at any time."""
        if self.size > 1:
            self._messages += 1
            self.store.set(f"message/{self._messages}", json.dumps(dict(message)))

    def hear(self) -> dict[str, Any]:
        """The other ranks: waits, however long, for the next message of rank 0.

        Raises:
            OtherRank: a rank failed meanwhile.
        """
        from whet.train.together import refuse_if_failed

        self._messages += 1
        key = f"message/{self._messages}"
        while not self.store.check([key]):
            refuse_if_failed(self)
            time.sleep(GLANCE)
        return dict(json.loads(self.store.get(key)))

    def together(self, where: Callable[[], str]) -> AbstractContextManager[None]:
        """A region that all ranks go through; the failure of one ends it on all, see :mod:`whet.train.together`."""
        if self.size == 1:
            return nullcontext()
        from whet.train.together import together

        return together(self, where)


@functools.cache
def world() -> World:
    """The world of this process: of those that torchrun started, else of itself alone. Started on the first call."""
    if not _several():
        return World()
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    accelerated = torch.cuda.is_available()
    if accelerated:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    backend = "cpu:gloo,cuda:nccl" if accelerated else "gloo"
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=TIMEOUT)
    size = dist.get_world_size()
    mesh = init_device_mesh("cuda" if accelerated else "cpu", (size,))
    store = dist.PrefixStore("whet", mesh.get_group().get_group_store())
    found = World(dist.get_rank(), size, backend, mesh, store)
    atexit.register(_end, found)
    return found


def _end(world: World) -> None:
    """Says goodbye to the other ranks, unless some of them are gone and could not answer."""
    import torch.distributed as dist

    if dist.is_initialized() and not world.failed:
        dist.destroy_process_group()
