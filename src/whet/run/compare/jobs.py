"""One variant at one seed: the recipe that it stands for, run, and what came out of it.

A variant's recipe is cut down to the steps that its judged stage is made from and the tasks that judge it, so that nothing is
made or measured that the comparison does not read. A job is plain data and a plain function: it runs here, in a process beside,
or on a cluster, with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.errors import WhetError
from whet.recipe import BASE, SECTIONS, Recipe, read
from whet.run.compare.plan import VALIDATION, ancestors
from whet.run.compare.spending import StepCost, step_cost
from whet.run.store import Store

LENGTHS = ("steps", "epochs", "tokens", "budget")
"""The fields of a train step that say how long it trains."""


@dataclass(frozen=True)
class Job:
    """A recipe to be run for a variant at a seed; ``values`` are the tuned fields that it has."""

    variant: str
    seed: int
    document: Mapping[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)


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


def carry_out(job: Job, store: str) -> Done:
    """Runs the job's recipe against the store at an address; steps that are finished are reused."""
    from whet.run.runner import run_recipe

    try:
        result = run_recipe(job.document, store=Store.open(store), quiet=True)
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
    for name, identity in done.measured.items():
        if (name == VALIDATION) == (step == VALIDATION):
            folder = store.get(identity)
            found |= {entry["task"]: read_result(folder / entry["file"]) for entry in _listing(folder / RESULTS)}
    return found


def document_for(
    document: Mapping[str, Any], stage: str, seed: int, name: str, *, validation: bool = False, tasks: bool = True
) -> dict[str, Any]:
    """The recipe of one job: only what ``stage`` is made from, at this seed.

    Args:
        document: the variant's recipe.
        stage: the model that is wanted.
        seed: of the whole recipe.
        name: of the recipe.
        validation: measure on the validation step instead of the test's.
        tasks: whether to measure at all.
    """
    named = _named(document)
    recipe = read(named)
    wanted = ancestors(recipe, stage)
    cut: dict[str, Any] = {**named, "name": name, "seed": seed}
    for section in SECTIONS:
        cut[section] = [_explicit(entry, recipe) for entry in named.get(section, []) if entry["name"] in wanted]
    cut["export"] = []
    cut["measure"] = [
        {k: v for k, v in entry.items() if k != "against"} | {"models": [stage]}
        for entry in named.get("measure", [])
        if tasks and (entry["name"] == VALIDATION) == validation
    ]
    return {key: value for key, value in cut.items() if value not in ([], None)}


def before(document: Mapping[str, Any], step: str) -> set[str]:
    """The steps that a step is made from, itself left out."""
    return ancestors(read(_named(document)), step) - {step}


def with_budget(document: Mapping[str, Any], step: str, budget: str) -> dict[str, Any]:
    """The recipe with a budget in place of the step's own length."""
    changed = dict(document)
    changed["train"] = [
        {**{k: v for k, v in entry.items() if k not in LENGTHS}, "budget": budget} if entry["name"] == step else entry
        for entry in _named(document)["train"]
    ]
    return changed


def _named(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the names that unnamed steps have by their position."""
    named = dict(document)
    for section in SECTIONS:
        if document.get(section):
            named[section] = [{"name": f"{section}-{index}", **entry} for index, entry in enumerate(document[section])]
    return named


def _explicit(entry: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A step with the model that it starts from written out, since the step before it may be left out."""
    step = recipe.step(entry["name"])
    model = getattr(step, "model", None)
    return {**entry, "model": model} if model not in (None, BASE) else dict(entry)


def _listing(path: Path) -> list[dict[str, Any]]:
    import json

    return list(json.loads(path.read_text()))
