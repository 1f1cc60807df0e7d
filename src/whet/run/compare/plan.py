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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Ge, Gt, Lt

from whet import parts
from whet.budget import Budget
from whet.errors import RecipeError, unknown
from whet.recipe import BASE, MODEL_SECTIONS, Recipe, read, references
from whet.recipe_text import apply_override, read_yaml, set_field
from whet.run.bundled import find_recipe
from whet.run.compare.tuning import Range

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
    alpha: Annotated[float, Gt(0), Lt(1)] = 0.05
    margin: Annotated[float, Ge(0)] = 0.01
    stop_lost: bool = False


@dataclass(frozen=True)
class Variant:
    """A recipe that takes part: its name, the fields that make it what it is, and the document with them set."""

    name: str
    changes: Mapping[str, Any]
    document: Mapping[str, Any]


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
    section = document.pop(SECTION, None) or {}
    if not isinstance(section, Mapping):
        raise RecipeError(f"{SECTION}: expected a mapping with 'vary' or 'variants', got {section!r}")
    values = parts.validate(parts.settings_of(Asked), {**section, **asked}, SECTION, "a comparison")
    settings = parts.construct(Asked, values, SECTION)
    for override in overrides:
        document = apply_override(document, override)
    variants = tuple(_variants(document, settings))
    budget = Budget.parse(settings.budget, where=f"{SECTION}.budget") if settings.budget else None
    recipes = [_read(variant, SECTION) for variant in variants]
    stages = {v.name: stage for v, stage in zip(variants, _stages(variants, recipes, settings.stage))}
    plan = Plan(
        name=str(document.get("name", "comparison")),
        variants=variants,
        seeds=_seeds(settings.seeds),
        stages=stages,
        asked=settings,
        budget=budget,
        budget_step=_budget_step(recipes, variants, stages, settings.budget_step) if budget else None,
        ranges=tuple(
            Range.parse(_full(path, recipes[0], stages[variants[0].name]), text) for path, text in settings.tune.items()
        ),
        target=_target(settings.target),
        document={**document, SECTION: _given(settings)},
    )
    _check(plan, recipes)
    return plan


def vary_argument(text: str) -> tuple[str, list[Any]]:
    """``path=a,b`` as the field and its values, each read as YAML.

    >>> vary_argument("train.0.objective=sft,{name: dpo, beta: 0.3}")
    ('train.0.objective', ['sft', {'name': 'dpo', 'beta': 0.3}])
    """
    path, equals, values = text.partition("=")
    try:
        found = yaml.safe_load(f"[{values}]") if equals and path else None
    except yaml.YAMLError as error:
        raise RecipeError(f"--vary {text!r}: the values are not readable as YAML: {error}") from None
    if not found:
        raise RecipeError(f"--vary {text!r}: write path=value,value as in train.0.objective=sft,masked-thought")
    return path, [_number(value) for value in found]


def ancestors(recipe: Recipe, name: str) -> set[str]:
    """The steps that a step is made from, itself included."""
    found, open_ = set(), [name]
    by_name = {step.name: (section, step) for section, step in recipe.steps}
    while open_:
        current = open_.pop()
        if current in found or current not in by_name:
            continue
        found.add(current)
        open_ += references(*by_name[current]).values()
    if recipe.tokenizer_data:
        found.add(recipe.tokenizer_data)
    return found


def _number(value: Any) -> Any:
    """``1e-3`` is text to YAML 1.1; here it is a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _variants(document: Mapping[str, Any], asked: Asked) -> Iterator[Variant]:
    if bool(asked.vary) == bool(asked.variants):
        raise RecipeError(
            f"{SECTION}: give either 'vary' (fields and their values) or 'variants' (name and fields), not both or none"
        )
    changes = dict(_listed(asked.variants)) if asked.variants else dict(_product(asked.vary))
    if len(changes) < 2:
        raise RecipeError(f"{SECTION}: {len(changes)} variant; a comparison needs at least two")
    for name, fields_ in changes.items():
        changed: Any = document
        for path, value in fields_.items():
            changed = set_field(changed, path, value)
        yield Variant(name, fields_, changed)


def _listed(variants: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, changes in variants.items():
        if not isinstance(changes, Mapping):
            raise RecipeError(f"{SECTION}.variants.{name}: expected a mapping of fields to values, got {changes!r}")
        yield str(name), changes


def _product(vary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, values in vary.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise RecipeError(f"{SECTION}.vary.{path}: expected a list of values, got {values!r}")
    seen: set[str] = set()
    for combination in itertools.product(*vary.values()):
        changes = dict(zip(vary, combination))
        name = ", ".join(_label(path, value, vary[path]) for path, value in changes.items())
        if name in seen:
            raise RecipeError(f"{SECTION}.vary: two variants are {name!r}; list them under 'variants' with names of their own")
        seen.add(name)
        yield name, changes


def _label(path: str, value: Any, values: Sequence[Any]) -> str:
    """A value's short name: a part's name with the settings in which it differs from others of that name."""
    if isinstance(value, Mapping) and "name" in value:
        rivals = [
            v
            for v in values
            if v is not value and (v == value["name"] or (isinstance(v, Mapping) and v.get("name") == value["name"]))
        ]
        own = [f"{k}={v}" for k, v in value.items() if k != "name"]
        return f"{value['name']}({', '.join(own)})" if rivals and own else str(value["name"])
    field_name = path.rpartition(".")[2]
    return value if isinstance(value, str) else f"{field_name}={value:g}" if isinstance(value, float) else f"{field_name}={value}"


def _seeds(asked: Any) -> tuple[int, ...]:
    seeds = tuple(range(asked)) if isinstance(asked, int) and not isinstance(asked, bool) else asked
    if not isinstance(seeds, (list, tuple)) or not all(isinstance(s, int) and s >= 0 for s in seeds) or not seeds:
        raise RecipeError(f"{SECTION}.seeds: expected how many (1 or more), or a list of them, got {asked!r}")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"{SECTION}.seeds: a seed comes twice in {list(seeds)}; the same run again is no new evidence")
    return tuple(seeds)


def _read(variant: Variant, where: str) -> Recipe:
    try:
        return read(variant.document)
    except RecipeError as error:
        raise RecipeError(f"{where}: variant {variant.name!r}: {error}") from None


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
    trains = [_trains(recipe, stages[variant.name]) for recipe, variant in zip(recipes, variants)]
    common = [name for name in trains[0] if all(name in names for names in trains)]
    if asked is not None:
        if asked not in common:
            raise RecipeError(f"{SECTION}.budget_step: {unknown('train step of all variants', asked, common)}")
        return asked
    varied = {_step_of(path, recipes[0]) for variant in variants for path in variant.changes if path.startswith("train.")}
    candidates = [name for name in common if name in varied] or common
    return candidates[-1] if candidates else None


def _step_of(path: str, recipe: Recipe) -> str:
    """The name of the step that a field belongs to: ``train.0.lr`` -> the first train step's."""
    section, _, rest = path.partition(".")
    key = rest.partition(".")[0]
    steps = recipe.document.get(section) or []
    return str(steps[int(key)].get("name", f"{section}-{key}")) if key.isdigit() and int(key) < len(steps) else key


def _trains(recipe: Recipe, stage: str) -> list[str]:
    """The train steps that a stage is made by."""
    made_from = ancestors(recipe, stage)
    return [step.name for section, step in recipe.steps if section == "train" and step.name in made_from]


def _full(path: str, recipe: Recipe, stage: str) -> str:
    """A field to tune with its step: a bare ``lr`` belongs to the last train step before the stage that is judged."""
    if "." in path:
        return path
    trains = _trains(recipe, stage)
    if not trains:
        raise RecipeError(
            f"{SECTION}.tune.{path}: the variants train nothing; write the field with its section, as quantize.0.{path}"
        )
    return f"train.{trains[-1]}.{path}"


def _target(asked: str | None) -> tuple[str, float] | None:
    if asked is None:
        return None
    metric, _, number = asked.partition("=")
    try:
        return metric, float(number)
    except ValueError:
        raise RecipeError(f"{SECTION}.target: write metric=value, as in accuracy=0.6, got {asked!r}") from None


def _given(asked: Asked) -> dict[str, Any]:
    """The fields that differ from their defaults, as they are written."""
    blank = Asked()
    return {f.name: _plain(getattr(asked, f.name)) for f in fields(Asked) if getattr(asked, f.name) != getattr(blank, f.name)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _check(plan: Plan, recipes: Sequence[Recipe]) -> None:
    """What can be known to be wrong before anything runs."""
    for variant, recipe in zip(plan.variants, recipes):
        measures = [step.name for step in recipe.section("measure") if step.name != VALIDATION]
        if not measures:
            raise RecipeError(f"variant {variant.name!r}: measure: nothing is measured; a comparison needs a task to judge by")
        if plan.ranges and VALIDATION not in {step.name for step in recipe.section("measure")}:
            raise RecipeError(
                f"{SECTION}.tune: trials are chosen on other rows than the test's; add a measure step named {VALIDATION!r} whose "
                "task reads a validation split"
            )
    if plan.budget and plan.budget_step is None and any(r.section("train") for r in recipes):
        raise RecipeError(f"{SECTION}.budget_step: no train step is part of every variant; say which step the budget limits")
