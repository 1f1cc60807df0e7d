"""One variant at one seed: the recipe that it stands for, run, and what came out of it.

A variant's recipe is cut down to the steps that its judged stage is made from and the tasks that judge it, so that nothing is
made or measured that the comparison does not read. A job is plain data and a plain function: it runs here, in a process beside,
or on a cluster, with the same result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.errors import WhetError
from whet.recipe import Recipe, read
from whet.recipe_steps import BASE, SECTIONS
from whet.run.compare.graph import ancestors, named
from whet.run.compare.plan import VALIDATION
from whet.run.compare.spending import StepCost, step_cost
from whet.run.store import Store


@dataclass(frozen=True)
class Job:
    """A recipe to be run for a variant at a seed; ``values`` are the tuned fields that it has, ``part_of`` the id of the
    comparison or race.
    """

    variant: str
    seed: int
    document: Mapping[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    part_of: str = ""

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}" + "".join(f", {name} = {value:g}" for name, value in self.values.items())


@dataclass(frozen=True)
class Done:
    """What a job gave: its run, the cost of its steps, the artifacts of its measure steps by step name, and the curves of its
    train steps (validation included). ``error``: why there is no result.
    """

    job: Job
    run: str = ""
    steps: Sequence[StepCost] = ()
    measured: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str = ""


def carry_out(job: Job, store: str, cwd: str = ".") -> Done:
    """Runs the job's recipe against the store at an address, in the folder that its paths start from; steps that are finished
    are reused.
    """
    from whet.run.runner import run_recipe

    # A worker on another machine may have no such folder, and a recipe no such paths.
    with suppress(OSError):
        os.chdir(cwd)
    try:
        result = run_recipe(job.document, store=Store.open(store), quiet=True, part_of=job.part_of)
    except WhetError as error:
        return Done(job, error=str(error))
    steps = result.run.steps
    return Done(
        job=job,
        run=result.run.id,
        steps=[step_cost(s.name, s.section, s.identity, s.receipt, s.cost) for s in steps],
        measured={s.name: s.identity for s in steps if s.section == "measure"},
        curves={
            s.name: {"curve": s.receipt.get("curve", []), "validation": s.receipt.get("validation", [])}
            for s in steps
            if s.section == "train"
        },
    )


def read_results(done: Done, store: Store, step: str | None = None) -> dict[str, Any]:
    """Task -> result, of one measure step, or of all but the validation."""
    from whet.measure.results import read_result
    from whet.run.comparisons import RESULTS

    found: dict[str, Any] = {}
    # A reference for flips is measured too, and is not what is judged.
    judged = {entry["name"]: entry["models"][0] for entry in done.job.document["measure"]}
    for name, identity in done.measured.items():
        if (name == VALIDATION) == (step == VALIDATION):
            folder = store.get(identity)
            for entry in _listing(folder / RESULTS):
                if entry["stage"] == judged[name]:
                    found[entry["task"]] = read_result(folder / entry["file"])
    return found


def document_for(document: Mapping[str, Any], stage: str, seed: int, name: str, *, validation: bool = False) -> dict[str, Any]:
    """The recipe of one job: only what ``stage``, and a reference that it is measured against, is made from, at this seed.

    Args:
        document: the variant's recipe.
        stage: the model that is wanted.
        seed: of the whole recipe.
        name: of the recipe.
        validation: measure on the validation step instead of the test's.
    """
    whole = named(document)
    recipe = read(whole)
    measured = [entry for entry in whole.get("measure", []) if (entry["name"] == VALIDATION) == validation]
    wanted = ancestors(recipe, stage).union(*(ancestors(recipe, e["reference"]) for e in measured if e.get("reference")))
    cut: dict[str, Any] = {**whole, "name": name, "seed": seed}
    for section in SECTIONS:
        cut[section] = [_explicit(entry, recipe) for entry in whole.get(section, []) if entry["name"] in wanted]
    cut["export"] = []
    cut["measure"] = [{k: v for k, v in entry.items() if k != "against"} | {"models": [stage]} for entry in measured]
    return {key: value for key, value in cut.items() if value not in ([], None)}


def before(document: Mapping[str, Any], step: str) -> set[str]:
    """The steps that a step is made from, itself left out."""
    return ancestors(read(named(document)), step) - {step}


def spends_before(document: Mapping[str, Any], step: str, shared: Collection[str]) -> bool:
    """Whether a step is made from others, not ``shared``, that train, quantize, merge or read rows with a model."""
    own = before(document, step) - set(shared)
    passes = ("synthesize", "label", "select")
    entries = [(section, entry) for section in SECTIONS for entry in document.get(section, []) if entry["name"] in own]
    return any(section != "data" or any(entry.get(name) for name in passes) for section, entry in entries)


def _explicit(entry: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A step with the model that it starts from written out, since the step before it may be left out."""
    step = recipe.step(entry["name"])
    model = getattr(step, "model", None)
    return {**entry, "model": model} if model not in (None, BASE) else dict(entry)


def _listing(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text()))
