"""How the steps of a recipe refer to each other: names, references, and the order that follows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from whet.errors import RecipeError, unknown
from whet.recipe_steps import BASE, MODEL_SECTIONS, SECTIONS, MeasureStep, Step

LONGEST_NAME = 80
"""Characters of a recipe's or step's name."""


def references(section: str, step: Step) -> dict[str, str]:
    """Field -> the step that it refers to (data steps and stages alike), the recipe's own model left out."""
    found: dict[str, str | None] = {}
    for name in ("data", "model", "reference", "base"):
        found[name] = getattr(step, name, None)
    for index, name in enumerate(getattr(step, "models", ())):
        found[f"models.{index}"] = name
    for stage, names in getattr(step, "rivals", {}).items():
        found |= {f"against.{stage}" + (f".{i}" if len(names) > 1 else ""): name for i, name in enumerate(names)}
    return {k: v for k, v in found.items() if v is not None and v != BASE}


def check_references(steps: list[tuple[str, Step]], tokenizer_data: str | None, others: Mapping[str, str]) -> None:
    """Refuses a recipe whose steps have unfit or equal names, or refer to what is not there.

    Raises:
        RecipeError: names the field, and the nearest right name.
    """
    names: dict[str, str] = dict.fromkeys(others, "models")
    for where, section, step in _numbered(steps):
        if step.name in names or step.name == BASE:
            raise RecipeError(
                f"{where}.name: two steps are called {step.name!r}; names must differ ('{BASE}' is the recipe's model)"
            )
        check_name(step.name, f"{where}.name", "a step")
        names[step.name] = section
    data = [n for n, s in names.items() if s == "data"]
    stages = [BASE, *(n for n, s in names.items() if s in (*MODEL_SECTIONS, "models"))]
    for where, section, step in _numbered(steps):
        for name, target in references(section, step).items():
            allowed = data if name == "data" else stages
            if target not in allowed:
                raise RecipeError(f"{where}.{name}: {unknown('data step' if name == 'data' else 'stage', target, allowed)}")
            if names[target] == "quantize" and (section == "quantize" or (name.startswith("models.") and section == "edit")):
                raise RecipeError(
                    f"{where}.{name}: stage {target!r} is quantized, and codes can be neither merged nor quantized again; take "
                    "the stage that it was made from"
                )
        for stage in getattr(step, "against", {}):
            if stage not in stages:
                raise RecipeError(f"{where}.against: {unknown('stage', str(stage), stages)}")
    if tokenizer_data is not None and tokenizer_data not in data:
        raise RecipeError(f"tokenizer_data: {unknown('data step', tokenizer_data, data)}")


def _numbered(steps: list[tuple[str, Step]]) -> Iterator[tuple[str, str, Step]]:
    """(place in the recipe, section, step) of each step."""
    counts = dict.fromkeys(SECTIONS, 0)
    for section, step in steps:
        yield f"{section}.{counts[section]}", section, step
        counts[section] += 1


def check_name(name: str, where: str, what: str) -> None:
    """Refuses names that could not stand in a path, in ``RUN:STAGE`` or in an override."""
    problem = _problem(name)
    if problem:
        raise RecipeError(f"{where}: the name {name[:80]!r} of {what} {problem}; take letters, digits, '-' and '_'")


def _problem(name: str) -> str | None:
    if not name.strip():
        return "is empty"
    wrong = sorted({c for c in name if c in "/\\:" or not c.isprintable()})
    if wrong:
        return f"holds {' and '.join(map(repr, wrong))}"
    if name[0] in ".-":
        return "begins with '.' or '-'"
    if len(name) > LONGEST_NAME:
        return f"has {len(name)} characters, more than {LONGEST_NAME}"
    return "is a number, as positions in the recipe are" if name.isdigit() else None


def ordered(steps: list[tuple[str, Step]], others: Collection[str]) -> list[tuple[str, Step]]:
    """Topological order that keeps the written order where it can."""
    done: set[str] = set()
    order: list[tuple[str, Step]] = []
    remaining = list(steps)
    every_model = {s.name for section, s in steps if section in MODEL_SECTIONS}
    while remaining:
        for entry in remaining:
            section, step = entry
            wanted = set(references(section, step).values())
            if isinstance(step, MeasureStep) and not step.models:
                wanted |= every_model
            if wanted <= done | set(others):
                break
        else:
            circle = ", ".join(step.name for _, step in remaining)
            raise RecipeError(
                f"{remaining[0][0]}: the steps {circle} wait for each other; a step may only use what comes before it"
            )
        remaining.remove(entry)
        order.append(entry)
        done.add(step.name)
    return order
