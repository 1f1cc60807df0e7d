"""Rows that a recipe measures and trains on, which makes a score look better than the model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from whet import parts
from whet.recipe import Recipe

RowsOf = Callable[[str], Any]
"""The name of a data step -> its rows, ``None`` if they do not exist yet."""


def seen_in_training(recipe: Recipe, step: Any, rows_of: RowsOf) -> dict[str, str]:
    """What a measuring step's tasks on files share with the rows that the recipe trains on.

    Returns:
        Task -> a sentence, for the tasks that share prompts (or texts); rows are compared whatever their split is called.
    """
    from whet.data.rows import split_key

    sources = [(task, source) for task in _single(step.tasks) if (source := source_of(task)) is not None]
    trained = {data: set(map(split_key, rows)) for data, rows in _trained(recipe, rows_of)} if sources else {}
    found = {}
    for task, source in sources if trained else ():
        measured = [split_key(row) for row in source(task.split)]
        shared = {data: sum(key in keys for key in measured) for data, keys in trained.items()}
        if said := [f"{count:,} of {len(measured):,} are also in {data!r}" for data, count in shared.items() if count]:
            name = getattr(task, "title", None) or str(parts.effective(task)["name"])
            found[name] = f"measured on rows that were trained on: {'; '.join(said)}"
    return found


def seen_notes(recipe: Recipe, rows_of: RowsOf) -> list[str]:
    """The same of every measuring step, as lines."""
    found = ((step.name, seen_in_training(recipe, step, rows_of)) for step in recipe.section("measure"))
    return [f"{step}: {task}: {said}" for step, tasks in found for task, said in tasks.items()]


def _trained(recipe: Recipe, rows_of: RowsOf) -> Iterator[tuple[str, Any]]:
    for data in dict.fromkeys(step.data for step in recipe.section("train")):
        if data is not None and (rows := rows_of(data)) is not None:
            asking = [name for name in ("prompt", "text", "messages") if name in rows.column_names]
            yield data, rows.select_columns(asking) if asking else rows


def _single(tasks: Any) -> Iterator[Any]:
    for task in tasks:
        yield from getattr(task, "tasks", (task,))


def source_of(task: Any) -> Any:
    """The source of a task that reads files; ``None`` for rows that are made and cannot be wrong."""
    if hasattr(task, "path"):
        return parts.build("source", {"name": parts.effective(task)["name"], "path": str(task.path)})
    source = parts.build("source", task.data, "data") if getattr(task, "data", None) is not None else None
    return source if hasattr(source, "path") else None
