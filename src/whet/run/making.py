"""What steps make, in memory: rows, and trained and quantized models. Used by the steps of a recipe and by the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet import parts
from whet.data.tables import TEXT_COLUMNS
from whet.errors import RecipeError
from whet.model import Model
from whet.recipe import objectives
from whet.recipe_steps import DataStep, QuantizeStep, TrainStep
from whet.run.progress import ProgressFile

if TYPE_CHECKING:
    from datasets import Dataset

Receipt = dict[str, Any]


def make_data(step: DataStep, rows: Dataset | None, stage: Callable[[str | None], Model], seed: int) -> tuple[Dataset, Receipt]:
    """The rows of a data step: drawn from its source (or given), then synthesized, labelled and selected.

    ``stage`` opens the model of a stage, the recipe's own for ``None``. The receipt's ``cost`` counts the models' passes.
    """
    from whet.data.context import Context

    source = step.source
    data = source(step.split) if source is not None else rows
    assert data is not None
    receipt: Receipt = {"rows_in": len(data)}
    passes = (*step.synthesize, *step.label, *step.select)
    working = stage(step.model) if passes else None
    reference = stage(step.reference) if passes and step.reference else None
    cost: dict[str, float] = {}
    for part in passes:
        context, before = Context(working, seed, reference=reference, trainer=_train_briefly), data
        data = part(data, context)
        if part in step.select and len(data) == len(before):
            idle = f"select {parts.effective(part)['name']}: left out none of {len(data)} rows"
            receipt["without_effect"] = [*receipt.get("without_effect", ()), idle]
        receipt[parts.effective(part)["name"]] = {**context.receipt, "rows": len(data)}
        cost |= {key: cost.get(key, 0) + value for key, value in context.cost.items()}
    if "group" in data.column_names:
        receipt["counts"] = {"group": dict(Counter(map(str, data["group"])))}
    if cost:
        receipt["cost"] = cost
    if empty := _empty_cells(data):
        receipt["empty_cells"] = empty
    receipt |= {"rows_out": len(data), "columns": list(data.column_names), "source": getattr(source, "receipt", {})}
    if not len(data):
        raise RecipeError(f"data step {step.name!r} ends with no rows; its receipt: {receipt}")
    return data, receipt


def _train_briefly(model: Model, rows: Any, settings: Mapping[str, Any], seed: int) -> tuple[Model, Mapping[str, float]]:
    """A model fine-tuned for a data step's part, and what it took."""
    from whet.train.run import train

    made, receipt = train(model, rows, objective=objectives("sft"), settings=settings, seed=seed)
    return made, {unit: float(receipt["cost"][unit]) for unit in ("tokens", "flops", "examples")}


def _empty_cells(data: Dataset) -> dict[str, int]:
    """How many cells of each text column are null or blank, or chats with such a reply, for the columns that have any."""
    counts = {name: sum(map(_is_empty, data[name])) for name in data.column_names if name in (*TEXT_COLUMNS, "messages")}
    return {name: count for name, count in counts.items() if count}


def _is_empty(cell: Any) -> bool:
    if isinstance(cell, (list, tuple)):
        replies = [m for m in cell if isinstance(m, Mapping) and m.get("role", m.get("from")) in ("assistant", "gpt")]
        return any(_is_empty(m.get("content", m.get("value"))) and not m.get("tool_calls") for m in replies)
    return cell is None or (isinstance(cell, str) and not cell.strip())


def train_model(
    step: TrainStep, model: Model, rows: Any, seed: int, checkpoint: Path | None, reference: Model | None = None
) -> tuple[Model, Receipt]:
    """Trains a model on rows as the step says; ``reference``: the model of the step's ``reference``.

    Beside the checkpoints, where there are any, lies how far it is, see :mod:`whet.run.progress`.
    """
    from whet.train.distributed import world
    from whet.train.run import train

    with world().together(lambda: f"in step {step.name!r}; the same command goes on from its last checkpoint"):
        return train(
            model,
            rows,
            objective=objectives(step.objective),
            format=step.format,
            adapter=step.adapter,
            optimizer=step.optimizer,
            schedule=step.schedule,
            reward=step.reward,
            rollouts=step.rollouts,
            settings=step.settings,
            seed=seed,
            checkpoint=checkpoint,
            on_step=ProgressFile(checkpoint) if checkpoint is not None and not world().rank else None,
            validate=step.validate,
            validations=step.validations,
            reference=reference,
        )


def quantize_model(
    step: QuantizeStep, model: Model, rows: Any, seed: int, checkpoint: Path | None = None, *, in_place: bool = False
) -> tuple[Model, Receipt]:
    """Quantizes a model; the step's rows calibrate. ``in_place`` gives up the model's own weights."""
    from whet.quantize.pipeline import quantize
    from whet.quantize.settings import read_settings

    settings = read_settings(step.settings)
    calibration = token_rows(model, rows, settings.rows) if rows is not None else ()
    cost = reading(model.parameters, sum(map(len, calibration)))
    made, receipt = quantize(
        model, calibration, seed=seed, name=step.name, checkpoint=checkpoint, in_place=in_place, **step.settings
    )
    return made, {**receipt, "cost": {**cost, **receipt.get("cost", {})}}


def reading(weights: int, tokens: int) -> dict[str, float]:
    """The cost of a model's reading or writing so many tokens."""
    return {"tokens": tokens, "flops": 2.0 * weights * tokens}


def token_rows(model: Model, rows: Any, count: int) -> list[list[int]]:
    """The first ``count`` rows as token ids: chats through the template, documents as text."""
    from whet.data.prepare import prepare

    columns = set(rows.column_names)
    kind = (
        "chat" if columns & {"completion", "messages"} and not columns & {"chosen"} and model.tokenizer.chat_template else "plain"
    )
    taken = rows.select(range(min(count, len(rows))))
    units, _ = prepare(taken, parts.build("format", kind), model.tokenizer, max_length=model.context or 2048, overlong="chunk")
    return [list(example.input_ids) for unit in units for example in unit]
