"""What each kind of step does: from inputs to a folder and a receipt."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet import parts
from whet.errors import RecipeError
from whet.model import Model
from whet.recipe import Recipe
from whet.recipe_steps import BASE, DataStep, EditStep, ExportStep, MeasureStep, QuantizeStep, TrainStep
from whet.run.comparisons import compare_stages, measure_stages
from whet.run.making import Receipt, make_data, quantize_model, reading, train_model
from whet.run.models import open_model, save_model
from whet.run.seen import seen_in_training

if TYPE_CHECKING:
    from datasets import Dataset

    from whet.measure.outcome import TaskResult

MODEL, ROWS, ADAPTER = "model", "rows", "adapter"
TOO_LONG = ("prompts over the context", "rows over the context", "contexts cut at the left")
"""Counts in the tasks' receipts of what did not fit the model's context."""


@dataclass(frozen=True)
class Inputs:
    """What a step may read: the recipe and the artifacts of the steps before it; ``stages`` for a measuring step."""

    recipe: Recipe
    folders: Mapping[str, Path]
    stages: Sequence[str] = ()

    def model_folder(self, stage: str | None) -> Path | str:
        """A stage's model folder; for a model that no step made, what the recipe names."""
        stage = stage or BASE
        if stage == BASE and isinstance(self.recipe.model, str):
            return self.recipe.model
        if stage in self.recipe.models:
            return self.recipe.models[stage]
        return self.folders[stage] / MODEL

    def model(self, stage: str | None) -> Model:
        """A stage's model, named as the stage."""
        return dataclasses.replace(open_model(self.model_folder(stage)), name=stage or BASE)

    def dataset(self, name: str) -> Dataset:
        """The rows of a data step."""
        from datasets import load_from_disk

        return load_from_disk(str(self.folders[name] / ROWS))


def carry_out(section: str, step: Any, inputs: Inputs, folder: Path, checkpoint: Path) -> Receipt:
    """Carries one step out into an empty folder and returns its receipt; ``cost`` in it holds tokens and FLOPs."""
    return _SECTIONS[section](step, inputs, folder, checkpoint)


def make_base(recipe: Recipe, inputs: Inputs, folder: Path) -> Receipt:
    """Makes the recipe's model from scratch; its tokenizer is trained on ``tokenizer_data``.

    Raises:
        RecipeError: an architecture without ``tokenizer_data``.
    """
    if recipe.tokenizer_data is None:
        raise RecipeError("tokenizer_data: a model from scratch needs the data step whose text its tokenizer is trained on")
    rows = inputs.dataset(recipe.tokenizer_data)
    if "text" not in rows.column_names:
        raise RecipeError(
            f"tokenizer_data: the rows of {recipe.tokenizer_data!r} have no 'text' column; they have {rows.column_names}"
        )
    model = recipe.model(list(rows["text"]), recipe.seed)
    save_model(model, folder / MODEL)
    return {"weights": model.parameters, "vocabulary": len(model.tokenizer), "dtype": str(model.network.dtype)}


def _data_step(step: DataStep, inputs: Inputs, folder: Path, checkpoint: Path) -> Receipt:
    from whet.generate.kept import kept_in

    rows = inputs.dataset(step.data) if step.data else None
    with kept_in(checkpoint):
        data, receipt = make_data(step, rows, inputs.model, inputs.recipe.seed)
    data.save_to_disk(str(folder / ROWS))
    return receipt


def _train_step(step: TrainStep, inputs: Inputs, folder: Path, checkpoint: Path) -> Receipt:
    model, rows = inputs.model(step.model), inputs.dataset(step.data)
    reference = inputs.model(step.reference) if step.reference else None
    made, receipt = train_model(step, model, rows, inputs.recipe.seed, checkpoint, reference)
    if "adapter_folder" in receipt:
        shutil.copytree(receipt["adapter_folder"], folder / ADAPTER)
        receipt["adapter_folder"] = ADAPTER
    _save("train", step.name, inputs, folder, model, made, receipt)
    return receipt


def _quantize_step(step: QuantizeStep, inputs: Inputs, folder: Path, checkpoint: Path) -> Receipt:
    model = inputs.model(step.model)
    rows = inputs.dataset(step.data) if step.data else None
    made, receipt = quantize_model(step, model, rows, inputs.recipe.seed, checkpoint, in_place=True)
    _save("quantize", step.name, inputs, folder, model, made, receipt)
    return receipt


def _save(section: str, name: str, inputs: Inputs, folder: Path, parent: Model, made: Model, receipt: Receipt) -> None:
    """Writes a step's model; its lineage holds the receipt without the curve, which is long and lies beside it anyway."""
    kept = {k: v for k, v in receipt.items() if k != "curve"}
    lineage = {"section": section, "recipe": inputs.recipe.name, "receipt": kept}
    save_model(made.with_lineage(lineage, name, [parent]), folder / MODEL)


def _edit_step(step: EditStep, inputs: Inputs, folder: Path, checkpoint: Path) -> Receipt:
    from whet.edit.run import run_edit
    from whet.measure.estimates import is_better_high
    from whet.quantize.packed import is_packed

    for name in step.models:
        if is_packed(inputs.model_folder(name)):
            raise RecipeError(
                f"edit step {step.name!r}: stage {name!r} is quantized; merge the unquantized stages, then quantize"
            )
    scorer, cost = None, {"tokens": 0.0, "flops": 0.0}
    if step.score is not None:
        task = step.score

        def scorer(candidate: Path) -> float:
            model = open_model(candidate)
            result = task(model)
            for unit, amount in reading(model.parameters, _tokens(result)).items():
                cost[unit] += amount
            value = result.estimates[result.metric].value
            return value if is_better_high(result.metric) else -value

    with _stage_folders(inputs, step.models, folder / "inputs") as named:
        base = inputs.model_folder(step.base)
        _, receipt = run_edit(named, step.method, output=folder / MODEL, base=base, scorer=scorer)
    return {**receipt, "cost": {"tokens": int(cost["tokens"]), "flops": cost["flops"]}} if step.score is not None else receipt


def _tokens(result: TaskResult) -> int:
    """What a task's model read and wrote."""
    if "prompt_tokens" in result.receipt:
        return int(result.receipt["prompt_tokens"]) + int(result.receipt.get("generated_tokens", 0))
    return int(sum(outcome.scores.get("tokens", 0.0) for outcome in result.outcomes))


@contextmanager
def _stage_folders(inputs: Inputs, stages: Sequence[str], links: Path) -> Iterator[list[Path | str]]:
    """Links to the stages' model folders under the stages' names, so that receipts and formulas speak of stages."""
    links.mkdir()
    try:
        found: list[Path | str] = []
        for stage in stages:
            target = inputs.model_folder(stage)
            if isinstance(target, Path):
                (links / stage).symlink_to(target.resolve())
                target = links / stage
            found.append(target)
        yield found
    finally:
        shutil.rmtree(links)


def _measure_step(step: MeasureStep, inputs: Inputs, folder: Path, checkpoint: Path) -> Receipt:
    results, _ = measure_stages(step.tasks, inputs.stages, inputs.model, folder, checkpoint, step.reference)
    found = compare_stages(results, {**parents(inputs.recipe), **step.rivals}, folder)
    written = sum(_tokens(r) for rs in results.values() for r in rs)
    scores = {
        task: {r.model: f"{e.value:.4g} [{e.low:.4g}, {e.high:.4g}]" for r in rs for e in [r.estimates[r.metric]]}
        for task, rs in results.items()
    }
    verdicts = [f"{c.second} against {c.first} on {c.task}: {c.verdict}" for c in found]
    ended = {r.model: r.receipt["ended"] for rs in results.values() for r in rs if "ended" in r.receipt}
    too_long = {
        f"{r.model}, {key}": r.receipt[key] for rs in results.values() for r in rs for key in TOO_LONG if r.receipt.get(key)
    }
    judged = ((task, r.model, r.receipt.get("calibration")) for task, rs in results.items() for r in rs)
    calibrated = {f"{model}, {task}": found["says"] for task, model, found in judged if found}
    seen = seen_in_training(inputs.recipe, step, lambda name: inputs.dataset(name) if name in inputs.folders else None)
    return {
        **({"not_held_out": seen} if seen else {}),
        **scores,
        **({"too_long": too_long} if too_long else {}),
        **({"calibration": calibrated} if calibrated else {}),
        "verdicts": verdicts,
        "ended_by_themselves": ended,
        "cost": {"tokens": written},
    }


def parents(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Stage -> the stage that it is judged against: what it was made from (for a merge, its first ingredient)."""
    found: dict[str, tuple[str, ...]] = {}
    for _, step in recipe.steps:
        if isinstance(step, (TrainStep, QuantizeStep)):
            found[step.name] = (step.model or BASE,)
        elif isinstance(step, EditStep):
            found[step.name] = (step.models[0],)
    return found


def _export_step(step: ExportStep, inputs: Inputs, folder: Path, checkpoint: Path) -> Receipt:
    receipt = step.to(inputs.model(step.model), folder / MODEL)
    return dict(receipt)


_SECTIONS: dict[str, Callable[[Any, Inputs, Path, Path], Receipt]] = {
    "data": _data_step,
    "train": _train_step,
    "edit": _edit_step,
    "quantize": _quantize_step,
    "measure": _measure_step,
    "export": _export_step,
}


def export_folder(model: Path | str, to: str, out: str | Path) -> Receipt:
    """Exports a model folder; the command ``whet export``. ``to`` is a format's name, or a mapping in YAML with its settings.

    Raises:
        RecipeError: unknown format, or one that cannot say what the model holds, or a folder with other weights.
    """
    import yaml

    try:
        part = parts.build("export", yaml.safe_load(to), "to")
    except yaml.YAMLError as error:
        raise RecipeError(f"to: {to!r} is neither a format nor a mapping such as '{{name: packed}}': {error}") from error
    inner = Path(model) / MODEL
    return dict(part(open_model(inner if inner.is_dir() else model), without_weights(Path(out))))


def without_weights(out: Path) -> Path:
    """The folder that an export may be written to.

    Raises:
        RecipeError: it holds weights, which beside the new ones would leave to chance what a reader loads.
    """
    if found := sorted(path.name for path in out.glob("*.safetensors")):
        raise RecipeError(f"{out}: this folder holds weights already ({found[0]}); remove them, or name another folder")
    return out
