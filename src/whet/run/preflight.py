"""What would go wrong later and can be known now: looked at once the rows are there and before anything is computed.

Every train, quantize and measure step is tried on a few of its rows (spread over them, and those with empty cells) with the
model's tokenizer and the shapes of its network; the weights themselves are not read. Rows that a model makes are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from whet import parts
from whet.errors import DataError, RecipeError, WhetError
from whet.model import Model, checked_template
from whet.recipe import Recipe, objectives, rollout_settings
from whet.recipe_steps import TrainStep
from whet.run.seen import RowsOf, source_of

TRIED = 32
"""Rows that are tried of each step, and again as many of those with empty cells."""
SCORED = 2
"""Rows whose reference completion the reward is tried on."""


def preflight(recipe: Recipe, model: Model, rows_of: RowsOf) -> None:
    """Refuses a recipe that would fail after compute was spent.

    Args:
        recipe: what will run.
        model: its starting model; only the tokenizer, the configuration and the shapes are used.
        rows_of: see :data:`whet.run.seen.RowsOf`.

    Raises:
        RecipeError, DataError, ModelError: names the step, and the row or setting.
    """
    for section, step in recipe.steps:
        trial = _TRIALS.get(section)
        if trial is not None:
            with _named(f"{section} step {step.name!r}"):
                trial(recipe, step, model, rows_of)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Puts ``where`` in front of what is raised inside."""
    try:
        yield
    except WhetError as error:
        raise type(error)(f"{where}: {error}") from error


def _train(recipe: Recipe, step: TrainStep, model: Model, rows_of: RowsOf) -> None:
    longest, context = step.settings.get("max_length"), model.context
    if longest and context and int(longest) > context:
        raise RecipeError(f"max_length: {longest} is more than the model's context of {context} tokens")
    rows = rows_of(step.data)
    if rows is None:
        return
    needs = frozenset().union(*(objective.needs for _, objective in objectives(step.objective)))
    if "rollouts" in needs:
        _rollouts(step, rows, model)
        return
    from whet.data.prepare import examples_of

    form = step.format or parts.build("format", "preference" if "pairs" in needs else "chat")
    for number in _sample(rows):
        examples_of(form, rows[number], model.tokenizer, number, model.vocabulary)
    if hasattr(step.schedule, "weights"):
        with _named("schedule"):
            _mixed(step.schedule, rows)


def _mixed(schedule: Any, rows: Any) -> None:
    """Asks a reacting schedule for its first mixture: it names skills that the rows do not have."""
    from whet.data.mixture import History, skill_of

    skill_of(rows[0], schedule.by)
    skills = Counter(skill_of({schedule.by: cell}, schedule.by) for cell in rows[schedule.by])
    if schedule.validation is None:
        schedule.weights(History(skills, list(skills)))


def _rollouts(step: TrainStep, rows: Any, model: Model) -> None:
    from whet.data.chat import prompt_ids
    from whet.train.combine import combine
    from whet.train.rollouts import RolloutProvider

    settings, pairs = rollout_settings(step.rollouts), objectives(step.objective)
    learner: Any = combine(pairs[0][1] if len(pairs) == 1 and pairs[0][0] == 1.0 else pairs)
    reward: Any = step.reward
    RolloutProvider(rows, reward, learner, settings, schedule=step.schedule)
    for number in _sample(rows):
        with _named(f"row {number}"):
            prompt_ids(rows[number], model.tokenizer, system=settings.system)
    _scored(reward, rows)


def _scored(reward: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Tries a reward on reference completions: it names a column that it needs and the rows lack."""
    from whet.generate.scoring import score

    few = [rows[i] for i in range(min(SCORED, len(rows)))]
    score(reward, few, [str(row.get("completion") or "") for row in few])


def _quantize(recipe: Recipe, step: Any, model: Model, rows_of: RowsOf) -> None:
    from whet.quantize.calibration import refuse_small
    from whet.quantize.settings import read_settings
    from whet.run.making import token_rows

    settings = read_settings(step.settings)
    names = widths(model)
    for pattern in settings.skip:
        if not any(fnmatchcase(name, pattern) for name in names) and not settings.lm_head:
            raise RecipeError(f"skip: no layer matches {pattern!r}; layers look like {next(iter(names))!r}")
    needs = any(
        "calibration" in getattr(getattr(settings, kind), "needs", ()) for kind in ("transform", "compensate", "rounding")
    )
    if step.data is None:
        if needs:
            raise RecipeError(
                f"data: {parts.effective(settings.compensate)['name']!r} calibrates on rows; name the data step that has them, "
                "or set compensate: none"
            )
        return
    rows = rows_of(step.data)
    if needs and rows is not None:
        chosen = settings.calibrate(model, token_rows(model, rows, settings.rows), seed=recipe.seed)
        refuse_small(chosen, names)


def widths(model: Model) -> dict[str, int]:
    """Inputs of each layer that quantization codes, by name."""
    from whet.quantize.blocks import find_blocks, linears, weight_of

    layers = {name: layer for prefix, block in find_blocks(model.network) for name, layer in linears(block, prefix).items()}
    return {name: int(weight_of(layer).shape[1]) for name, layer in layers.items()}


def _export(recipe: Recipe, step: Any, model: Model, rows_of: RowsOf) -> None:
    made = next((s for s in recipe.section("quantize") if s.name == step.model), None)
    if made is None or parts.effective(step.to)["name"] != "compressed-tensors":
        return
    from whet.quantize.exports.compressed_tensors import uneven
    from whet.quantize.settings import read_settings

    size = read_settings(made.settings).group_size
    for name, columns in widths(model).items():
        if problem := uneven(columns, size):
            raise RecipeError(f"compressed-tensors cannot hold layer {name!r}: {problem}; or use export packed")


def _measure(recipe: Recipe, step: Any, model: Model, rows_of: RowsOf) -> None:
    for task in step.tasks:
        with _named(getattr(task, "title", None) or str(parts.effective(task)["name"])):
            for inner in getattr(task, "tasks", (task,)):
                _task(inner, model)


def _task(task: Any, model: Model) -> None:
    from whet.data.chat import encode, messages_of, prompt_ids
    from whet.data.rows import text_cell
    from whet.measure.rows import draw_rows, draw_shots

    chats = getattr(task, "form", "") == "chat" or hasattr(task, "train_on")
    if chats:
        checked_template(model, task.other_template)
        prompt_ids({"prompt": "?"}, model.tokenizer)
    if hasattr(task, "lengths"):
        task.lengths(model)
    source = source_of(task)
    if source is None:
        return
    rows = source(task.split)
    drawn = draw_rows(lambda split: rows, task.split, task.limit, task.balance, task.seed)
    if getattr(task, "few_shot", 0):
        draw_shots(source, task.few_shot_split, task.few_shot, drawn.rows, task.seed)
    for number in _sample(rows):
        with _named(f"row {number}"):
            if hasattr(task, "train_on"):
                encode(messages_of(rows[number]), model.tokenizer, train_on=task.train_on)
            elif chats:
                prompt_ids(rows[number], model.tokenizer)
            else:
                text_cell(rows[number], getattr(task, "column", "prompt"))
    if hasattr(task, "reward"):
        _scored(parts.build("reward", task.reward, "reward"), rows)


def _sample(rows: Any) -> list[int]:
    """Numbers of the rows to try: some spread evenly from the first to the last, and the first with an empty cell."""
    size = len(rows)
    if not size:
        raise DataError("the data has no rows")
    spread = {i * (size - 1) // max(1, TRIED - 1) for i in range(min(TRIED, size))} | {size - 1}
    return sorted(spread | set(_with_gaps(rows)[:TRIED]))


def _with_gaps(rows: Any) -> list[int]:
    import pyarrow.compute as compute

    if getattr(rows, "_indices", None) is not None or not hasattr(rows, "data"):
        return []
    table = rows.data.table
    gaps = [name for name in table.column_names if table.column(name).null_count]
    found: set[int] = set()
    for name in gaps:
        found.update(compute.indices_nonzero(compute.is_null(table.column(name))).to_pylist()[:TRIED])
    return sorted(found)


_TRIALS: dict[str, Callable[[Recipe, Any, Model, RowsOf], None]] = {
    "train": _train,
    "quantize": _quantize,
    "measure": _measure,
    "export": _export,
}
