"""Steps of a recipe on a pool: each step one item, independent steps side by side; the ledger stays with the driver."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whet.model import quiet_transformers
from whet.recipe import Recipe, read
from whet.recipe_order import references
from whet.recipe_steps import MODEL_SECTIONS, Step
from whet.run.artifact import make_artifact
from whet.run.steps import Inputs
from whet.run.store import Store
from whet.workers import Pool, using

if TYPE_CHECKING:
    from pathlib import Path

Entry = tuple[str, Step]


@dataclass(frozen=True)
class StepJob:
    """A step as a worker needs it: plain data. ``inputs``: step name -> identity of its artifact. ``nested``: see ``Pool``."""

    document: Mapping[str, Any]
    section: str
    name: str
    identity: str
    inputs: Mapping[str, str]
    stages: Sequence[str]
    store: str
    nested: Mapping[str, Any] | None
    cwd: str


def make_step(job: StepJob) -> bool:
    """Carries a step out on a worker; ``False`` if another run made its artifact meanwhile."""
    from whet.run.cluster import nested_pool

    # Paths in a recipe are relative to where the command was given.
    with suppress(OSError):
        os.chdir(job.cwd)
    quiet_transformers()
    recipe, store = read(job.document), Store.open(job.store)
    folders: dict[str, Path] = {name: store.get(identity) for name, identity in job.inputs.items()}
    with using(nested_pool(job.nested)):
        inputs = Inputs(recipe, folders, job.stages)
        return make_artifact(store, job.identity, job.section, recipe.step(job.name), inputs, job.name)


@dataclass(frozen=True)
class Work:
    """What the run does with a step: ``begin`` gives a job, or ``None`` if there is nothing left to do; ``here`` carries a begun
    step out in this process; ``end`` takes whether its artifact was made, or the error."""

    begin: Callable[[Entry], StepJob | None]
    here: Callable[[Entry], None]
    end: Callable[[Entry, bool | BaseException], None]


def side_by_side(recipe: Recipe, pool: Pool, work: Work) -> None:
    """Carries all steps out, each as soon as what it uses is there.

    A step that is alone runs in this process if the pool cannot be opened from within a step, so that its blocks are spread.
    """
    waiting, done = list(recipe.steps), set[str]()
    running: dict[Future[list[bool]], Entry] = {}
    threads = ThreadPoolExecutor(max_workers=max(1, len(waiting)))
    try:
        while waiting or running:
            ready = [entry for entry in waiting if _wanted(recipe, entry) <= done]
            jobs = []
            for entry in ready:
                waiting.remove(entry)
                job = work.begin(entry)
                if job is None:
                    done.add(entry[1].name)
                else:
                    jobs.append((entry, job))
            if len(jobs) == 1 and not running and pool.nested is None:
                entry, _ = jobs.pop()
                with using(pool):
                    work.here(entry)
                done.add(entry[1].name)
            running |= {threads.submit(_carry_out, pool, job): entry for entry, job in jobs}
            if running and len(jobs) == len(ready):
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    work.end(running[future], future.result()[0])
                    done.add(running.pop(future)[1].name)
    except BaseException as error:
        pool.close()
        for future, entry in running.items():
            its_own = future.done() and future.exception() is error
            work.end(entry, error if its_own else KeyboardInterrupt("another step failed, or the run was stopped"))
        raise
    finally:
        threads.shutdown()


def _carry_out(pool: Pool, job: StepJob) -> list[bool]:
    return pool.map(make_step, [job], accelerator=job.section not in ("edit", "export"), label=lambda _: f"step {job.name}")


def _wanted(recipe: Recipe, entry: Entry) -> set[str]:
    section, step = entry
    found = set(references(section, step).values())
    if section == "measure" and not getattr(step, "models", ()):
        found |= {s.name for kind, s in recipe.steps if kind in MODEL_SECTIONS}
    return found
