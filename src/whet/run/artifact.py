"""A step's artifact: what the step makes, and beside it the receipt with what it took."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from whet.run.machine import peak_memory_mib
from whet.run.ranks import call_others
from whet.run.steps import Inputs, carry_out, make_base
from whet.run.store import Store
from whet.train.distributed import world
from whet.workers import Local, Tally, current

RECEIPT = "receipt.json"


def make_artifact(store: Store, identity: str, section: str, step: Any, inputs: Inputs, name: str) -> bool:
    """Carries a step out into the store; ``False`` if another run, which was at it already, made the artifact."""
    here = False
    started = time.perf_counter()

    def write(folder: Path) -> None:
        nonlocal here
        here = True
        before = replace(current().tally, lost=list(current().tally.lost))
        if section == "train":
            call_others(world(), step.name, inputs.folders, store.checkpoints(identity))
        if section == "base":
            receipt = make_base(inputs.recipe, inputs, folder)
        else:
            receipt = carry_out(section, step, inputs, folder, store.checkpoints(identity))
        seconds = round(time.perf_counter() - started, 2)
        spent = {"seconds": seconds, "peak_memory_mib": peak_memory_mib(), **receipt.pop("cost", {}), **_workers(before)}
        (folder / RECEIPT).write_text(json.dumps({"receipt": receipt, "cost": spent, "step": name}, indent=1, default=str))

    store.put(identity, write)
    return here


def _workers(before: Tally) -> dict[str, Any]:
    """For the cost: what the workers of the pool in use have done since ``before``; nothing if there are none."""
    pool = current()
    if isinstance(pool, Local) or pool.tally.items == before.items:
        return {}
    since = Tally(pool.tally.items - before.items, pool.tally.lost[len(before.lost) :])
    return {"workers": {"on": pool.name, **since.summary()}}
