"""What a comparison is asked to do, read and checked before anything runs.

A comparison is a recipe and what varies in it. In the recipe's file it is a section ``compare``::

    compare:
      vary: {train.0.objective: [sft, masked-thought], train.0.adapter: [full, lora]}   # the product of all
      seeds: 5
      budget: 2M tokens

or ``variants: {plain: {train.0.objective: sft}, ...}`` where the variants are listed one by one. The command line says the
same: ``--vary train.0.objective=sft,masked-thought --seeds 5 --budget 2M-tokens``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from whet import parts
from whet.budget import Budget
from whet.errors import RecipeError, unknown
from whet.recipe import Recipe, read
from whet.recipe_steps import BASE, MODEL_SECTIONS
from whet.recipe_text import apply_override, read_yaml, set_field
from whet.run.bundled import find_recipe
from whet.run.compare.graph import address, made_of, shared_steps, step_of, trains, with_budget, with_lengths
from whet.run.compare.tuning import Range
from whet.run.compare.variants import Variant, make_variants

SECTION = "compare"
VALIDATION = "validation"
"""The measure step that trials are chosen on."""


@dataclass(frozen=True)
class Asked:
    """The fields of the section ``compare``.

    vary: field -> its values; the variants are the product.  variants: name -> fields to set, instead of ``vary``.
    seeds: how many, or which.  budget: the same for every variant, such as ``2M tokens``; default: none, and what each
    spent is shown.
    budget_step: the train step that uses up what the others leave of the budget; default the last one that varies, else the last.
    stage: the model that is judged, or for each variant its own; default the last.  tasks: by their names; default all that the recipe measures.
    target: a quality whose cost is compared, such as ``accuracy=0.6``; it is watched for on the step's ``validate`` task.
    tune: fields to tune, each with its range, such as ``train.0.lr: 1e-4..1e-2``; ``trials`` points are tried for every
    variant, chosen by the measure step ``validation``.
    studies: every seed is a study, with ``trials`` points of its own; its result is the trial that reaches ``target`` first.
    alpha: level of the verdicts.  margin: a difference too small to matter, for the test of equality.
    stop_lost: leave a variant out of later seeds once it has lost to another at a level that keeps ``alpha``.
    """

    vary: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Any] = field(default_factory=dict)
    seeds: Any = 3
    budget: str | None = None
    budget_step: str | None = None
    stage: Any = None
    tasks: tuple[str, ...] = ()
    target: str | None = None
    tune: Mapping[str, str] = field(default_factory=dict)
    trials: Annotated[int, Gt(0)] = 5
    studies: bool = False
    alpha: Annotated[float, Gt(0), Lt(1)] = 0.05
    margin: Annotated[float, Ge(0)] = 0.01
    stop_lost: bool = False


@dataclass(frozen=True)
class Plan:
    """A comparison, read and checked. ``budget_step`` and what ``stages`` gives for each variant are names of steps."""

    name: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    stages: Mapping[str, str]
    asked: Asked
    budget: Budget | None
    budget_step: str | None
    ranges: tuple[Range, ...]
    target: tuple[str, float] | None
    shared: frozenset[str]
    """Names of the steps that are the same in every variant; they are made once and count for none."""
    document: Mapping[str, Any]
    """The recipe and the section ``compare`` as they would be written into one file."""


def make_plan(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), **asked: Any) -> Plan:
    """Reads a comparison.

    Args:
        recipe: a file, a bundled recipe's name, or a mapping; with or without a section ``compare``.
        overrides: ``path=value`` each, for all variants.
        asked: fields of :class:`Asked`; they win over the section's.

    Raises:
        RecipeError: a field, variant, seed, range or budget that cannot be carried out; nothing has run.
    """
    document = dict(recipe) if isinstance(recipe, Mapping) else read_yaml(find_recipe(recipe), {})
    for override in overrides:
        document = apply_override(document, override)
    settings = _settings(document.pop(SECTION, None) or {}, asked)
    budget = Budget.parse(settings.budget, where=f"{SECTION}.budget") if settings.budget else None
    variants = tuple(make_variants(document, settings.vary, settings.variants))
    recipes = [_read(v, with_lengths(v.document, settings.budget) if settings.budget else v.document) for v in variants]
    stages = dict(zip([v.name for v in variants], _stages(variants, recipes, settings.stage)))
    step = _budget_step(recipes, variants, stages, settings.budget_step) if budget else None
    if settings.budget and step:
        variants = tuple(replace(v, document=with_budget(v.document, step, settings.budget)) for v in variants)
        recipes = [_read(v, v.document) for v in variants]
    ranges = tuple(Range.parse(_full(path, recipes[0], stages[variants[0].name]), text) for path, text in settings.tune.items())
    plan = Plan(
        name=str(document.get("name", "comparison")),
        variants=variants,
        seeds=_seeds(settings.seeds),
        stages=stages,
        asked=settings,
        budget=budget,
        budget_step=step,
        ranges=ranges,
        target=_target(settings.target),
        shared=shared_steps(recipes, list(stages.values()), {step_of(r.path, recipes[0]) for r in ranges}),
        document={**document, SECTION: _given(settings)},
    )
    _check(plan, recipes)
    return plan


def _settings(section: Any, asked: Mapping[str, Any]) -> Asked:
    """The section's fields, those that are asked in their place; one way of naming the variants replaces the other."""
    if not isinstance(section, Mapping):
        raise RecipeError(f"{SECTION}: expected a mapping with 'vary' or 'variants', got {section!r}")
    replaced = {"vary", "variants"} if asked.get("vary") or asked.get("variants") else set()
    given = {**{k: v for k, v in section.items() if k not in replaced}, **asked}
    return parts.construct(Asked, parts.validate(parts.settings_of(Asked), given, SECTION, "a comparison"), SECTION)


def _seeds(asked: Any) -> tuple[int, ...]:
    seeds = tuple(range(asked)) if isinstance(asked, int) and not isinstance(asked, bool) else asked
    if not isinstance(seeds, (list, tuple)) or not all(isinstance(s, int) and s >= 0 for s in seeds) or not seeds:
        raise RecipeError(f"{SECTION}.seeds: expected how many (1 or more), or a list of them, got {asked!r}")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"{SECTION}.seeds: a seed comes twice in {list(seeds)}; the same run again is no new evidence")
    return tuple(seeds)


def _read(variant: Variant, document: Mapping[str, Any]) -> Recipe:
    try:
        return read(document)
    except RecipeError as error:
        raise RecipeError(f"{SECTION}: variant {variant.name!r}: {error}") from None


def _stages(variants: Sequence[Variant], recipes: Sequence[Recipe], asked: Any) -> Iterator[str]:
    """The stage of each variant that is judged."""
    if isinstance(asked, Mapping):
        for name in asked:
            if name not in [v.name for v in variants]:
                raise RecipeError(f"{SECTION}.stage: {unknown('variant', str(name), [v.name for v in variants])}")
    for variant, recipe in zip(variants, recipes):
        stages = [BASE, *(step.name for section, step in recipe.steps if section in MODEL_SECTIONS)]
        wanted = asked.get(variant.name) if isinstance(asked, Mapping) else asked
        if wanted is not None and wanted not in stages:
            raise RecipeError(f"{SECTION}.stage: {unknown('stage', str(wanted), stages)}")
        yield str(wanted or stages[-1])


def _budget_step(
    recipes: Sequence[Recipe], variants: Sequence[Variant], stages: Mapping[str, str], asked: str | None
) -> str | None:
    """The train step whose length the budget decides."""
    several = [trains(recipe, stages[variant.name]) for recipe, variant in zip(recipes, variants)]
    common = [name for name in several[0] if all(name in names for names in several)]
    if asked is not None:
        if asked not in common:
            raise RecipeError(f"{SECTION}.budget_step: {unknown('train step of all variants', asked, common)}")
        return asked
    varied = {step_of(path, recipes[0]) for variant in variants for path in variant.changes if path.startswith("train.")}
    candidates = [name for name in common if name in varied] or common
    return candidates[-1] if candidates else None


def _full(path: str, recipe: Recipe, stage: str) -> str:
    """A field to tune with its step: a bare ``lr`` belongs to the last train step before the stage that is judged."""
    if "." in path:
        return path
    names = trains(recipe, stage)
    if not names:
        raise RecipeError(
            f"{SECTION}.tune.{path}: the variants train nothing; write the field with its section, as quantize.0.{path}"
        )
    return f"train.{names[-1]}.{path}"


def _target(asked: str | None) -> tuple[str, float] | None:
    if asked is None:
        return None
    metric, _, number = asked.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RecipeError(f"{SECTION}.target: write metric=value, as in accuracy=0.6, got {asked!r}")
    return metric, value


def _given(asked: Asked) -> dict[str, Any]:
    """The fields that differ from their defaults, as they are written."""
    blank = Asked()
    return {f.name: _plain(getattr(asked, f.name)) for f in fields(Asked) if getattr(asked, f.name) != getattr(blank, f.name)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _check(plan: Plan, recipes: Sequence[Recipe]) -> None:
    """What can be known to be wrong before anything runs."""
    _check_alike(plan, recipes)
    for variant, tuned in itertools.product(plan.variants, plan.ranges):
        _read(variant, set_field(variant.document, tuned.path, tuned.at(0.5)))
    for name in plan.asked.tasks:
        if name not in (known := tasks_of(recipes)):
            raise RecipeError(f"{SECTION}.tasks: {unknown('task', name, known)}")
    for variant, recipe in zip(plan.variants, recipes):
        measures = {step.name for step in recipe.section("measure")}
        if not measures - {VALIDATION}:
            raise RecipeError(f"variant {variant.name!r}: measure: nothing is measured; a comparison needs a task to judge by")
        if plan.ranges and not plan.asked.studies and VALIDATION not in measures:
            raise RecipeError(
                f"{SECTION}.tune: trials are chosen on other rows than the test's; add a measure step named {VALIDATION!r} whose "
                "task reads a validation split"
            )
        steps = [recipe.step(name) for name in trains(recipe, plan.stages[variant.name])]
        if plan.target:
            _check_target(plan.target[0], variant, [step for step in steps if getattr(step, "validate", None)])
    if plan.asked.studies and not (plan.ranges and plan.target):
        missing = "target" if plan.ranges else "tune"
        raise RecipeError(f"{SECTION}.studies: a study tunes to reach a target soon; give {missing!r} too, or leave studies out")
    if plan.budget and plan.budget_step is None and any(r.section("train") for r in recipes):
        raise RecipeError(f"{SECTION}.budget_step: no train step is part of every variant; say which step the budget limits")


def tasks_of(recipes: Sequence[Recipe]) -> list[str]:
    """The names of all results: the tasks, and their negative flips; not the task that trials are chosen on."""
    from whet.measure.metrics.flips import flip_title

    measures = [step for recipe in recipes for step in recipe.section("measure") if step.name != VALIDATION]
    names = [task.title for step in measures for task in step.tasks]
    names += [flip_title(task.title) for step in measures if step.reference for task in step.tasks]
    return list(dict.fromkeys(names))


def _check_alike(plan: Plan, recipes: Sequence[Recipe]) -> None:
    """Whether a field is set in two ways, of which one is void, and whether two variants are one."""
    for variant, recipe in zip(plan.variants, recipes):
        for path, other in itertools.combinations([*variant.changes, *(r.path for r in plan.ranges)], 2):
            if address(path, recipe) == address(other, recipe):
                raise RecipeError(
                    f"{SECTION}: variant {variant.name!r}: {other} is set twice (as {path} too); vary or tune it once"
                )
    made = {variant.name: made_of(recipe, plan.stages[variant.name]) for variant, recipe in zip(plan.variants, recipes)}
    for name, other in itertools.combinations(made, 2):
        if made[name] == made[other]:
            seeds = "; for more seeds there is 'seeds'" if any("seed" in v.changes for v in plan.variants) else ""
            raise RecipeError(f"{SECTION}: variants {name!r} and {other!r} are the same recipe; leave one of them out{seeds}")


def _check_target(metric: str, variant: Variant, watched: Sequence[Any]) -> None:
    """Whether the last step that is watched while it trains is watched for this metric."""
    if not watched:
        raise RecipeError(
            f"{SECTION}.target: variant {variant.name!r} is not watched while it trains; give its train step 'validate', a "
            "task on a validation split"
        )
    step = watched[-1]
    known = getattr(step.validate, "metrics", (metric,))
    if metric not in known:
        raise RecipeError(f"{SECTION}.target: {unknown('metric', metric, known)} (the task that {step.name!r} is watched by)")
