"""The recipes that take part in a comparison: a product of what varies, or a list."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from whet.errors import RecipeError
from whet.recipe_text import set_field


@dataclass(frozen=True)
class Variant:
    """A recipe that takes part: its name, the fields that make it what it is, and the document with them set."""

    name: str
    changes: Mapping[str, Any]
    document: Mapping[str, Any]


def make_variants(document: Mapping[str, Any], vary: Mapping[str, Any], listed: Mapping[str, Any]) -> Iterator[Variant]:
    """The variants of a recipe: the product of ``vary`` (field -> values), or those ``listed`` (name -> fields to set).

    Raises:
        RecipeError: both or neither are given, fewer than two variants, values that are no list, a field that cannot be set.
    """
    if bool(vary) == bool(listed):
        raise RecipeError(
            "compare: give either 'vary' (fields and their values) or 'variants' (name and fields), not both or none"
        )
    changes = dict(_listed(listed)) if listed else dict(_product(vary))
    if len(changes) < 2:
        raise RecipeError(f"compare: {len(changes)} variant; a comparison needs at least two")
    for name, fields in changes.items():
        changed: Any = document
        for path, value in fields.items():
            changed = set_field(changed, path, value)
        yield Variant(name, fields, changed)


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


def _number(value: Any) -> Any:
    """``1e-3`` is text to YAML 1.1; here it is a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _listed(variants: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, changes in variants.items():
        if not isinstance(changes, Mapping):
            raise RecipeError(f"compare.variants.{name}: expected a mapping of fields to values, got {changes!r}")
        yield str(name), changes


def _product(vary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, values in vary.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise RecipeError(f"compare.vary.{path}: expected a list of values, got {values!r}")
    seen: set[str] = set()
    for combination in itertools.product(*vary.values()):
        changes = dict(zip(vary, combination))
        name = ", ".join(_label(path, value, vary[path]) for path, value in changes.items())
        if name in seen:
            raise RecipeError(f"compare.vary: two variants are {name!r}; list them under 'variants' with names of their own")
        seen.add(name)
        yield name, changes


def _label(path: str, value: Any, values: Sequence[Any]) -> str:
    """A value's short name: a part's name, with its settings where another of that name takes part."""
    if isinstance(value, Mapping) and "name" in value:
        rivals = [v for v in values if v is not value and _name(v) == value["name"]]
        own = [f"{k}={v}" for k, v in value.items() if k != "name"]
        return f"{value['name']}({', '.join(own)})" if rivals and own else str(value["name"])
    field = path.rpartition(".")[2]
    return value if isinstance(value, str) else f"{field}={value:g}" if isinstance(value, float) else f"{field}={value}"


def _name(value: Any) -> Any:
    return value.get("name") if isinstance(value, Mapping) else value
