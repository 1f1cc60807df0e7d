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
from whet.errors import RecipeError, unknown
from whet.model import Model, quiet_transformers
from whet.recipe import build_step
from whet.recipe_steps import TrainStep

Data = Any
ModelLike = Model | str | Path


def load(reference: ModelLike, **settings: Any) -> Model:
    """Loads a model: a bundled one (``"nano"``), a local folder, a hub id, or ``RUN:STAGE``. Settings: ``dtype``, ``device``."""
    from whet.model import load_model
    from whet.run.models import open_model
    from whet.run.show import find_model_folder
    from whet.run.steps import MODEL

    if isinstance(reference, Model):
        return reference
    quiet_transformers()
    if ":" in str(reference) and not Path(reference).is_dir():
        reference = find_model_folder(str(reference)) / MODEL
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
    """The invariants on the recipe's or comparison's own models and data, and a forecast; see ``whet.run.check.check_recipe``."""
    from whet.run.check import check_recipe

    return check_recipe(recipe, overrides)


def compare(
    recipe: str | Path | Mapping[str, Any],
    vary: Mapping[str, Sequence[Any]] | None = None,
    overrides: Sequence[str] = (),
    *,
    on: str | None = None,
    out: str | Path | None = None,
    **asked: Any,
) -> Any:
    """Runs variants of a recipe under one budget and several seeds, and judges them; the result has ``print()`` and ``verdicts``.

    Args:
        recipe: a file, a bundled recipe's name, or a mapping; with or without a section ``compare``.
        vary: field -> its values, such as ``{"train.0.objective": ["sft", "masked-thought"]}``; the variants are the product.
        overrides: ``path=value`` each, for all variants.
        on: where variants are run, such as ``"processes:2"``; default here.
        out: a folder that also gets the page.
        asked: further fields of ``whet.run.compare.plan.Asked``: ``seeds``, ``budget``, ``variants``, ``target``, ``tune``, ...

    Raises:
        RecipeError: a comparison that cannot be carried out; nothing has run.
    """
    from whet.run.compare.command import compare_and_show

    if vary is not None:
        asked["vary"] = vary
    return compare_and_show(recipe, overrides, on=on, out=out, **asked)


def race(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    on: str | None = None,
    out: str | Path | None = None,
) -> Any:
    """Runs training algorithms to a target on several workloads; the result has ``print()``, ``scores``, ``standing`` and ``page``.

    Args:
        recipe: a file, a bundled recipe's name, or a mapping, with a section ``race``, see :mod:`whet.run.race.plan`.
        overrides: ``path=value`` each, such as ``race.trials=3``.
        on: where runs are carried out, such as ``"processes:2"``; default here.
        out: a folder that also gets the page.

    Raises:
        RecipeError: a race that cannot be carried out or would not be fair.
    """
    from whet.run.race.carry import race as carry_out

    return carry_out(recipe, overrides, on=on, out=out)


def train(
    model: ModelLike,
    data: Data,
    *,
    reference: ModelLike | None = None,
    budget: str | None = None,
    name: str = "trained",
    seed: int = 0,
    **fields: Any,
) -> Model:
    """Trains a copy of the model.

    Args:
        model: what to start from; it is left as it is.
        data: rows to train on.
        reference: the model that objectives hold it against; default the one to start from, for those that can do with it.
        budget: such as ``"2M tokens"`` or ``"300 steps"``; or give ``epochs`` or ``steps``.
        name: of the new model.
        seed: of the order and of every random draw.
        fields: the fields of a recipe's train step: ``objective``, ``adapter``, ``lr``, ``batch_size``, ...

    Raises:
        RecipeError: a wrong field or value, named with the nearest right one.
    """
    from whet.run.making import train_model

    start, rows = load(model), dataset(data)
    other = {} if reference is None else {"reference": "reference"}
    step: TrainStep = build_step(
        "train", TrainStep, {"name": name, "data": "data", **other, **_budget(budget), **fields}, "train"
    )
    made, receipt = train_model(step, start, rows, seed, None, None if reference is None else load(reference))
    return made.with_lineage({"section": "train", "receipt": receipt}, name, [start])


def edit(models: Sequence[ModelLike], method: Any, out: str | Path, **settings: Any) -> Model:
    """Merges or rescales weights, tensor by tensor, into the folder ``out``; settings as in ``whet.edit.run.run_edit``."""
    from whet.edit.run import run_edit

    folder, _ = run_edit(list(models), method, output=out, **settings)
    return load(folder)


def quantize(model: ModelLike, data: Data = None, *, name: str | None = None, seed: int = 0, **fields: Any) -> Model:
    """Quantizes a copy of the model.

    Args:
        model: left as it is; given by name or folder, it takes memory once, as an object twice.
        data: rows that calibrate, where a piece reads activations; default 512 rows of ``nanoworld`` for the bundled model.
        name: of the new model.
        seed: of the draws.
        fields: the fields of a recipe's quantize step: ``bits``, ``group_size``, ``transform``, ``compensate``, ...
    """
    from whet.recipe_steps import QuantizeStep
    from whet.run.making import quantize_model

    start = load(model)
    if data is None and start.name == "nano":
        data = {"name": "nanoworld", "rows": 512}
    step = build_step("quantize", QuantizeStep, {"name": name or f"{start.name}-w{fields.get('bits', 4)}", **fields}, "quantize")
    own = not isinstance(model, Model)
    made, receipt = quantize_model(step, start, None if data is None else dataset(data), seed, in_place=own)
    return made.with_lineage({"section": "quantize", "receipt": receipt}, step.name, [start])


def measure(models: ModelLike | Sequence[ModelLike], tasks: Any = "nanoworld") -> Any:
    """Measures models on tasks; the result's ``print()`` shows every figure with its interval."""
    from whet.measure.results import ResultTable

    several = [models] if isinstance(models, (Model, str, Path)) else list(models)
    built = [parts.build("task", t, f"tasks.{i}") for i, t in enumerate([tasks] if isinstance(tasks, (str, Mapping)) else tasks)]
    return ResultTable([task(load(model)) for task in built for model in several])


def recover(
    model: str | Path,
    reference: str | Path,
    data: Any,
    *,
    budget: str | float = "4%",
    within: str | float | None = None,
    max_negative_flips: str | float | None = None,
    out: str | Path | None = None,
    **fields: Any,
) -> Any:
    """Finds what a change of a model broke, chooses the data that repairs it, repairs it, and proves it.

    Args:
        model: the changed model: a folder, ``RUN:STAGE``, a bundled model or a hub id.
        reference: the model before the change.
        data: the pool that repairs: a data file, or a source in recipe form.
        budget: the share of the pool to train on.
        within: largest loss against the reference, as a share, that ``result.proof.met`` allows.
        max_negative_flips: largest share of examples that the reference solved and the repaired model does not.
        out: a folder for the page and the repaired model.
        fields: of ``whet.run.recover.plan.Recovery``: ``by``, ``select``, ``objective``, ``adapter``, ``flip_aware``, ``tasks``,
            ``settings`` (fields of the train step), ``seed``.

    Returns:
        ``whet.run.recover.command.Recovered``: ``proof``, ``model`` (a folder), ``page``, ``run``.

    Raises:
        RecipeError: a wrong field or value; nothing has been trained.
    """
    from whet.run.recover.command import recover as carry_out
    from whet.run.recover.command import recovery
    from whet.run.recover.plan import Recovery, share_of

    known = parts.settings_of(Recovery)
    for name in fields:
        if name not in known:
            raise RecipeError(f"recover: {unknown('field', name, known)}")
    asked = recovery(str(model), str(reference), str(data) if isinstance(data, Path) else data, budget, **fields)
    bounds = [
        None if bound is None else share_of(bound, name)
        for name, bound in (("within", within), ("max_negative_flips", max_negative_flips))
    ]
    return carry_out(asked, within=bounds[0], max_negative_flips=bounds[1], out=out)


def forecast(law: Any, observations: Any = None, *, at: Sequence[float] | float = (), **asked: Any) -> Any:
    """Fits a law to scores at several sizes and predicts others with intervals; the result has ``print()`` and ``predictions``.

    Args:
        law: a part of the kind ``forecast``: ``"posttrain-power-law"``, ``"learning-curve-trace"``, ``"curve-stop"``, ``"budget-split"``.
        observations: a CSV file or rows with the columns ``size``, ``score``, and where there are any ``seed`` and ``group``.
        at: the sizes asked about.
        asked: see :func:`whet.run.forecast_command.forecast`: ``comparison`` or ``run`` instead of observations, ``x``, ``group``,
            ``metric``, ``task``; ``model`` and ``data`` for the cold-start probe.

    Raises:
        RecipeError: a setting that is unknown or would not be read.
        DataError: observations that the law refuses: too few sizes, a span too narrow, sets that are not nested.
    """
    from whet.run.forecast_command import forecast as carry_out

    known = parts.settings_of(carry_out)
    for name in asked:
        if name not in known:
            raise RecipeError(f"forecast: {unknown('field', name, known)}")
    return carry_out(law, observations, at=at, **asked)


def export(model: ModelLike, out: str | Path, to: Any) -> dict[str, Any]:
    """Writes the model in a form that other software loads; returns the receipt with the comparison after an independent reload."""
    from whet.run.steps import without_weights

    return dict(parts.build("export", to, "to")(load(model), without_weights(Path(out))))


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
