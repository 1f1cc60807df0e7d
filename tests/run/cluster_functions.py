"""What the tests of pools carry out; a module of its own, since processes must be able to import it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from whet.errors import DataError


def uneven_square(number: int) -> int:
    """The square, after a time that differs from item to item."""
    time.sleep(random.Random(number).random() / 20)
    return number * number


def against(split: str) -> list[dict[str, str]]:
    """Rows that others must not repeat."""
    return [{"prompt": "five four 3"}, {"prompt": "three two 5 4"}, {"prompt": "four 1"}]


def plus(number: int, shared: list[int]) -> int:
    return number + shared[0]


def die_once(item: tuple[int, str]) -> int:
    """Kills its own process the first time that it gets item 3."""
    number, mark = item
    if number == 3 and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def slow_on_node(item: tuple[int, str]) -> int:
    """Leaves a mark with the name of its node when it begins."""
    import ray

    number, folder = item
    (Path(folder) / f"{number}-{ray.get_runtime_context().get_node_id()}").touch()
    time.sleep(1.5)
    return number * number


def refuse_two(item: tuple[int, str]) -> int:
    number, folder = item
    (Path(folder) / f"{number}-{time.monotonic_ns()}").touch()
    if number == 2:
        raise ValueError("no twos")
    return number


def fail_or_stay(item: tuple[int, str, bool]) -> int:
    """Item 0 fails when item 1 has begun; item 1 stays until it is ended, and if it is ``stubborn``, until it is killed."""
    number, folder, stubborn = item
    begun = Path(folder) / "begun"
    while number == 0 and not begun.exists():
        time.sleep(0.01)
    if number == 0:
        raise DataError("the row is empty")
    begun.write_text(str(os.getpid()))
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            if not stubborn:
                raise


def bad_row(number: int) -> int:
    if number == 1:
        raise DataError("the row has no prompt")
    return number


def threads(number: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def lengths(rows: Sequence[Mapping[str, Any]], keys: Sequence[int], folder: str) -> list[list[int]]:
    """Length of the prompt and number of each row; leaves a mark for each block. Where it is to fail, another was kept before."""
    (Path(folder) / f"{keys[0]}-{time.monotonic_ns()}").touch()
    if (Path(folder) / "broken").exists() and keys[0] >= 4:
        while not list((Path(folder).parent / "kept").rglob("*.json")):
            time.sleep(0.05)
        raise DataError("the disk is full")
    return [[len(row["prompt"]), key] for row, key in zip(rows, keys)]


def carry_out_job(job: Any, shared: tuple[str, str]) -> Any:
    """A variant of a comparison; the worker of variant b is killed once, after its third checkpoint."""
    from whet.run.compare.jobs import carry_out
    from whet.train import checkpoint

    store, mark = shared
    save = checkpoint.save

    def save_and_die(folder: Path, step: int, *rest: Any, **more: Any) -> Any:
        saved = save(folder, step, *rest, **more)
        if step >= 3:
            with suppress(FileExistsError):
                # Two seeds of the variant may be under way at once; only the first dies.
                Path(mark).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return saved

    if job.variant == "b":
        checkpoint.save = save_and_die
    try:
        return carry_out(job, store)
    finally:
        checkpoint.save = save
