"""What a race is asked to do, read and checked before anything runs.

A race is a file with a section ``race``::

    name: optimizers
    race:
      algorithms:                          # name -> fields of the workloads' train step
        adamw: {optimizer: adamw}
        nesterov: {optimizer: nesterov, lr_schedule: linear}
      tune: {lr: 1e-4..1}                  # one search space, the same for all algorithms and workloads
      trials: 5
      studies: 3
      workloads:
        chains:
          recipe: chains.yaml              # a file, or the recipe itself; one train step with ``validate``
          target: perplexity=3.2           # fixed beforehand; or ``perplexity``, and reference optimizers set it
          variants: {deep: {model.layers: 4}}

or, by the other ruleset, without anybody's tuning::

      ruleset: self-tuning
      algorithms:
        adamw: {optimizer: adamw, lr: 3e-3}                       # one fixed setting
        nesterov: {optimizer: nesterov, tune: {lr: 1e-2..1}}      # tunes itself, on the clock: ``trials`` points in turn
      references: {tune: {lr: 1e-4..1}}                           # where targets are still to be set

An algorithm may change how the train step trains, not what: neither model, rows, objective nor evaluation. A variant is the same
workload with a changed network; it has a target of its own.

Paper: algoperf — Benchmarking Neural Network Training Algorithms
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, unknown
from whet.recipe import Recipe, read
from whet.recipe_order import check_name
from whet.recipe_steps import TrainStep
from whet.recipe_text import apply_override, read_yaml, set_field
from whet.run.bundled import find_recipe
from whet.run.compare.graph import named
from whet.run.compare.plan import SECTION as COMPARE
from whet.run.race.asked import (
    FIELDS,
    MORE_TIME,
    SECTION,
    Asked,
    AskedWorkload,
    References,
    check_rules,
    entries_of,
    lengthened,
    read_fields,
)


@dataclass(frozen=True)
class Workload:
    """A recipe to be trained until ``metric`` reaches the target; ``target`` is ``None`` if it is still to be set.

    ``step`` is the train step. ``variant_of`` names the workload that this is a variant of.
    """

    name: str
    document: Mapping[str, Any]
    step: str
    metric: str
    target: float | None
    variant_of: str = ""


@dataclass(frozen=True)
class Plan:
    """A race, read and checked. ``entries``: algorithm -> what it tries in turn, each with its fields of the train step (one,
    of its own name, unless it tunes itself).  ``left_out``: workload -> why it does not take part.
    """

    name: str
    asked: Asked
    entries: Mapping[str, Mapping[str, Mapping[str, Any]]]
    workloads: tuple[Workload, ...]
    references: References
    reference: str
    left_out: Mapping[str, str]
    document: Mapping[str, Any]

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each study."""
        return tuple(range(self.asked.seed, self.asked.seed + self.asked.studies))

    def variants(self, workload: Workload) -> dict[str, dict[str, Any]]:
        """The variants of a workload's comparison: the fields that each sets, by the entries of all algorithms.

        Raises:
            RecipeError: an attempt would have less than a step.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, tried in self.entries.items():
            longer: Mapping[str, Any] = {}
            if self.asked.self_tuning:
                where = f"{SECTION}.algorithms.{name}: workload {workload.name!r}"
                longer = lengthened(workload.document["train"][0], MORE_TIME / len(tried), where)
            for entry, changes in tried.items():
                found[entry] = {f"train.{workload.step}.{path}": value for path, value in {**changes, **longer}.items()}
        return found


def make_plan(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Plan:
    """Reads a race.

    Args:
        recipe: a file, a bundled recipe's name, or a mapping, with a section ``race``.
        overrides: ``path=value`` each, such as ``race.trials=3``.

    Raises:
        RecipeError: what cannot be carried out or would not be fair; nothing has run.
    """
    document = dict(recipe) if isinstance(recipe, Mapping) else read_yaml(find_recipe(recipe), {})
    for override in overrides:
        document = apply_override(document, override)
    for key in document:
        if key not in ("whet", "name", "about", SECTION):
            raise RecipeError(f"{key}: {unknown('field of a race', str(key), ['name', 'about', SECTION])}")
    check_name(str(document.get("name", "race")), "name", "a race")
    asked: Asked = read_fields(Asked, document.get(SECTION), SECTION, "a race")
    references: References = read_fields(References, asked.references, f"{SECTION}.references", "a race's references")
    check_rules(asked, references)
    entries = {name: entries_of(asked, str(name), changes) for name, changes in asked.algorithms.items()}
    several = [_workloads(str(name), entry) for name, entry in asked.workloads.items()]
    left_out = {name: found for name, found in zip(asked.workloads, several) if isinstance(found, str)}
    workloads = tuple(workload for found in several if not isinstance(found, str) for workload in found)
    if not workloads:
        raise RecipeError(f"{SECTION}.workloads: none is left to race on. {'; '.join(left_out.values())}")
    if asked.self_tuning and not references.tune and any(workload.target is None for workload in workloads):
        raise RecipeError(
            f"{SECTION}.references.tune: targets are to be set, so give the reference optimizers a search space, such as "
            "{lr: 1e-4..1}, or give every workload and variant a target"
        )
    plan = Plan(
        name=str(document.get("name", "race")),
        asked=asked,
        entries=entries,
        workloads=workloads,
        references=references if references.tune else replace(references, tune=asked.tune),
        reference=_reference(asked),
        left_out=left_out,
        document=document,
    )
    for workload in workloads:
        plan.variants(workload)
    if asked.self_tuning:
        _check_one_setting(plan)
    return plan


def _check_one_setting(plan: Plan) -> None:
    """Refuses an algorithm that would take what it does not set from workloads that set it differently."""
    steps = [workload.document["train"][0] for workload in plan.workloads]
    for name, tried in plan.entries.items():
        for path in (path for path in FIELDS if path != "batch_size"):
            if any(path not in changes for changes in tried.values()) and any(s.get(path) != steps[0].get(path) for s in steps):
                raise RecipeError(
                    f"{SECTION}.algorithms.{name}: the workloads' train steps differ in {path!r}, and under the self-tuning ruleset an "
                    f"algorithm has one setting for all of them; give it {path!r}, or take it out of the workloads"
                )


def _reference(asked: Asked) -> str:
    if asked.reference is None:
        return str(next(iter(asked.algorithms)))
    if asked.reference not in asked.algorithms:
        raise RecipeError(f"{SECTION}.reference: {unknown('algorithm', asked.reference, list(asked.algorithms))}")
    return asked.reference


def _workloads(name: str, entry: Any) -> list[Workload] | str:
    """A workload and its variants; if it is optional and a file of it is missing, what is missing."""
    where = f"{SECTION}.workloads.{name}"
    if isinstance(entry, Mapping) and "tune" in entry:
        raise RecipeError(f"{where}.tune: a search space for one workload would not be fair; write it once, as {SECTION}.tune")
    asked: AskedWorkload = read_fields(AskedWorkload, entry, where, "a workload")
    document = dict(asked.recipe) if isinstance(asked.recipe, Mapping) else read_yaml(find_recipe(asked.recipe), {})
    if COMPARE in document:
        raise RecipeError(f"{where}.recipe: it has a section {COMPARE!r}; what varies, is tuned and aimed at is said by the race")
    if asked.optional and (missing := _missing(document)):
        return missing
    return list(_with_variants(name, {"name": name, **document}, asked, where))


def _missing(document: Mapping[str, Any]) -> str:
    """Which data file of a recipe is not there."""
    for number, entry in enumerate(document.get("data") or ()):
        source = entry.get("source") if isinstance(entry, Mapping) else None
        path = source.get("path") if isinstance(source, Mapping) else None
        if path is not None and not Path(str(path)).expanduser().exists():
            return f"data.{number}.source.path: {path} is not there"
    return ""


def _with_variants(name: str, document: Mapping[str, Any], asked: AskedWorkload, where: str) -> Iterator[Workload]:
    yield _workload(name, document, asked.target, where)
    for variant, changes in asked.variants.items():
        inner = f"{where}.variants.{variant}"
        if not isinstance(changes, Mapping) or not set(changes) - {"target"}:
            raise RecipeError(f"{inner}: expected fields of the model to change, such as model.layers: 4, got {changes!r}")
        changed: dict[str, Any] = dict(document)
        for path, value in changes.items():
            if path != "target" and not path.startswith("model."):
                raise RecipeError(
                    f"{inner}.{path}: a variant is the same workload with another network; set fields of it, such as "
                    "model.hidden_size, model.layers, model.activation, model.normalization or model.embedding_scale"
                )
            changed = changed if path == "target" else set_field(changed, path, value)
        target = changes.get("target", asked.target.partition("=")[0])
        yield _workload(f"{name}, {variant}", changed, str(target), inner, variant_of=name)


def _workload(name: str, document: Mapping[str, Any], target: str, where: str, variant_of: str = "") -> Workload:
    try:
        recipe = read(document)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None
    metric, equals, number = target.partition("=")
    try:
        value = float(number) if equals else None
    except ValueError:
        raise RecipeError(f"{where}.target: write metric=value as in perplexity=3.2, or a metric alone, got {target!r}") from None
    return Workload(name, named(document), _step(recipe, where), metric, value, variant_of)


def _step(recipe: Recipe, where: str) -> str:
    """The one train step of a workload."""
    steps: list[TrainStep] = recipe.section("train")
    if len(steps) != 1 or recipe.section("edit") or recipe.section("quantize"):
        raise RecipeError(f"{where}.recipe: a workload is one train step, and nothing else that makes a model")
    if steps[0].validate is None:
        raise RecipeError(f"{where}.recipe: its train step {steps[0].name!r} needs 'validate', a task on a validation split")
    return steps[0].name
