"""The functions behind ``whet.load``, ``whet.train`` and the rest: the same words as recipes and the command line.

Models go in and come out in memory; nothing is written to the store. Data may be a dataset, a list of rows, a source's name
or its recipe form, or a JSONL file's path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whet import parts
from whet.budget import Budget
from whet.errors import RecipeError
from whet.model import Model, quiet_transformers
from whet.recipe import TrainStep, build_step

Data = Any
ModelLike = Model | str | Path


def load(reference: ModelLike, **settings: Any) -> Model:
    """Loads a model: a bundled one (``"nano"``), a local folder, or a hub id. Settings: ``dtype``, ``device``."""
    from whet.model import load_model
    from whet.run.models import open_model

    if isinstance(reference, Model):
        return reference
    quiet_transformers()
    return load_model(reference, **settings) if settings else open_model(reference)


def run(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    on: str | None = None,
) -> Any:
    """Carries a recipe out; see ``whet.run.runner.run_recipe``."""
    from whet.run.runner import run_recipe

    return run_recipe(recipe, overrides, out=out, on=on)


def check(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
    """The invariants on the recipe's own model and data, and a forecast; see ``whet.run.check.check_recipe``."""
    from whet.run.check import check_recipe

    return check_recipe(recipe, overrides)


def train(
    model: ModelLike, data: Data, *, budget: str | None = None, name: str = "trained", seed: int = 0, **fields: Any
) -> Model:
    """Trains a copy of the model.

    Args:
        model: what to start from; it is left as it is.
        data: rows to train on.
        budget: such as ``"2M tokens"`` or ``"300 steps"``; or give ``epochs`` or ``steps``.
        name: of the new model.
        seed: of the order and of every random draw.
        fields: the fields of a recipe's train step: ``objective``, ``adapter``, ``lr``, ``batch_size``, ...

    Raises:
        RecipeError: a wrong field or value, named with the nearest right one.
    """
    from whet.run.steps import train_model

    start, rows = load(model), dataset(data)
    step: TrainStep = build_step("train", TrainStep, {"name": name, "data": "data", **_budget(budget), **fields}, "train")
    made, receipt = train_model(step, start, rows, seed, None)
    return made.with_lineage({"section": "train", "receipt": receipt}, name, [start])


def edit(models: Sequence[ModelLike], method: Any, out: str | Path, **settings: Any) -> Model:
    """Merges or rescales weights, tensor by tensor, into the folder ``out``; settings as in ``whet.edit.run.run_edit``."""
    from whet.edit.run import run_edit

    folder, _ = run_edit(list(models), method, output=out, **settings)
    return load(folder)


def quantize(model: ModelLike, data: Data = None, *, name: str | None = None, seed: int = 0, **fields: Any) -> Model:
    """Quantizes a copy of the model.

    Args:
        model: left as it is.
        data: rows that calibrate, where a piece reads activations; default 512 rows of ``nanoworld`` for the bundled model.
        name: of the new model.
        seed: of the draws.
        fields: the fields of a recipe's quantize step: ``bits``, ``group_size``, ``transform``, ``compensate``, ...
    """
    from whet.recipe import QuantizeStep
    from whet.run.steps import quantize_model

    start = load(model)
    if data is None and start.name == "nano":
        data = {"name": "nanoworld", "rows": 512}
    step = build_step("quantize", QuantizeStep, {"name": name or f"{start.name}-w{fields.get('bits', 4)}", **fields}, "quantize")
    made, receipt = quantize_model(step, start, None if data is None else dataset(data), seed)
    return made.with_lineage({"section": "quantize", "receipt": receipt}, step.name, [start])


def measure(models: ModelLike | Sequence[ModelLike], tasks: Any = "nanoworld") -> Any:
    """Measures models on tasks; the result's ``print()`` shows every figure with its interval."""
    from whet.measure.results import ResultTable

    several = [models] if isinstance(models, (Model, str, Path)) else list(models)
    built = [parts.build("task", t, f"tasks.{i}") for i, t in enumerate([tasks] if isinstance(tasks, (str, Mapping)) else tasks)]
    return ResultTable([task(load(model)) for task in built for model in several])


def export(model: ModelLike, out: str | Path, to: Any) -> dict[str, Any]:
    """Writes the model in a form that other software loads; returns the receipt with the comparison after an independent reload."""
    return dict(parts.build("export", to, "to")(load(model), Path(out)))


def dataset(data: Data, split: str = "train") -> Any:
    """Rows as a ``datasets.Dataset``: from a dataset, rows, a source (name or recipe form), or a data file's path."""
    from datasets import Dataset

    if isinstance(data, Dataset):
        return data
    if isinstance(data, (str, Path)) and Path(data).suffix in (".jsonl", ".json", ".csv", ".parquet"):
        data = {"name": "file", "path": str(data)}
    if isinstance(data, (str, Mapping)):
        return parts.build("source", data, "data")(split)
    if isinstance(data, Sequence):
        return Dataset.from_list([dict(row) for row in data])
    raise RecipeError(f"data: expected a dataset, rows, a source or a data file, got {type(data).__name__}")


def _budget(budget: str | None) -> dict[str, Any]:
    """``"2M tokens"`` or ``"300 steps"`` as the train step's field."""
    if budget is None:
        return {}
    asked = Budget.parse(budget, ("tokens", "steps", "examples", "flops", "seconds"))
    return {"steps": int(asked.amount)} if asked.unit == "steps" else {"budget": budget}
