"""Which steps of a recipe a model is made from, which of them all variants share, and the recipe's document as that needs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from whet.recipe import Recipe
from whet.recipe_order import references
from whet.recipe_steps import SECTIONS

LENGTHS = ("steps", "epochs", "tokens", "budget")
"""The fields of a train step that say how long it trains."""


def ancestors(recipe: Recipe, name: str) -> set[str]:
    """The steps that a step is made from, itself included."""
    found, open_ = set(), [name, *([recipe.tokenizer_data] if recipe.tokenizer_data else [])]
    by_name = {step.name: (section, step) for section, step in recipe.steps}
    while open_:
        current = open_.pop()
        if current not in found and current in by_name:
            found.add(current)
            open_ += references(*by_name[current]).values()
    return found


def trains(recipe: Recipe, stage: str) -> list[str]:
    """The train steps that a stage is made by."""
    made_from = ancestors(recipe, stage)
    return [step.name for section, step in recipe.steps if section == "train" and step.name in made_from]


def step_of(path: str, recipe: Recipe) -> str:
    """The name of the step that a field belongs to: ``train.0.lr`` -> the first train step's."""
    section, _, rest = path.partition(".")
    key = rest.partition(".")[0]
    steps = named(recipe.document).get(section) or []
    return str(steps[int(key)]["name"]) if key.isdigit() and int(key) < len(steps) else key


def address(path: str, recipe: Recipe) -> str:
    """A field's path with its step's name, which is the same however the step was named: ``train.0.lr`` -> ``train.sft.lr``."""
    section, *rest = path.split(".")
    return ".".join([section, step_of(path, recipe), *rest[1:]]) if section in SECTIONS and rest else path


def made_of(recipe: Recipe, stage: str) -> dict[str, Any]:
    """All that a stage and its measuring are made from, as it is written; the seed is left out."""
    start = {key: recipe.document.get(key) for key in ("model", "models", "tokenizer_data")}
    return {"stage": stage, "start": start, "origins": _origins(recipe, stage), "measure": recipe.document.get("measure")}


def shared_steps(recipes: Sequence[Recipe], stages: Sequence[str], tuned: Collection[str]) -> frozenset[str]:
    """The steps that every variant's stage is made from in the same way; what is tuned is each variant's own."""
    made = [_origins(recipe, stage) for recipe, stage in zip(recipes, stages)]
    return frozenset(
        name
        for name, origin in made[0].items()
        if all(other.get(name) == origin for other in made) and not any(step in origin["steps"] for step in tuned)
    )


def _origins(recipe: Recipe, stage: str) -> dict[str, dict[str, Any]]:
    """Each step that a stage is made from -> all that it is made from, as it is written."""
    written = {entry["name"]: entry for section in SECTIONS for entry in named(recipe.document).get(section) or []}
    links = {step.name: references(section, step) for section, step in recipe.steps}
    start = {key: recipe.document.get(key) for key in ("model", "models", "tokenizer_data")}

    def origin(name: str) -> dict[str, Any]:
        return {"start": start, "steps": {step: (written[step], links[step]) for step in ancestors(recipe, name)}}

    return {name: origin(name) for name in ancestors(recipe, stage)}


def named(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the names that unnamed steps have by their position."""
    found = dict(document)
    for section in SECTIONS:
        if document.get(section):
            found[section] = [{"name": f"{section}-{index}", **entry} for index, entry in enumerate(document[section])]
    return found


def with_budget(document: Mapping[str, Any], step: str, budget: str) -> dict[str, Any]:
    """The recipe with a budget in place of the step's own length."""
    changed = dict(document)
    changed["train"] = [
        {**{k: v for k, v in entry.items() if k not in LENGTHS}, "budget": budget} if entry["name"] == step else entry
        for entry in named(document)["train"]
    ]
    return changed


def with_lengths(document: Mapping[str, Any], budget: str) -> Mapping[str, Any]:
    """The recipe, readable although train steps say nothing of their length: these have the budget."""
    entries = document.get("train")
    if not isinstance(entries, list):
        return document
    return {**document, "train": [_with_length(entry, budget) for entry in entries]}


def _with_length(entry: Any, budget: str) -> Any:
    return entry if not isinstance(entry, Mapping) or any(name in entry for name in LENGTHS) else {**entry, "budget": budget}
