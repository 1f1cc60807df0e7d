"""The recipe of a recovery: diagnosis, selection, repair and measurement as ordinary steps.

Written as a recipe, a recovery is resumed, reused and recorded like any run, and its user can go on from the file::

    model: the changed model             models: {reference: the model before the change}
    data:   pool -> diagnosis (label drift) -> repair (a selection of it); after: the drift of the repaired model on the whole pool
    train:  repaired, from the changed model
    measure: reference, base and repaired on the tasks; base against reference, repaired against both
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from whet import parts
from whet.data.tables import SUFFIXES
from whet.errors import DataError, RecipeError, unknown
from whet.recipe import objectives

REFERENCE, REPAIRED = "reference", "repaired"
POOL, DIAGNOSIS, REPAIR, AFTER = "pool", "diagnosis", "repair", "after"
EVERY_EPOCH = "rs2"
"""Not a selection but a schedule: a new draw in every epoch."""
COLUMNS = {"paser": {"by": "group", "drift": "drift"}, "skill-it": {"by": "group"}}
"""The columns of the diagnosis that a selection reads."""
FLIP_WEIGHT = 0.5
"""Weight of the flip-aware term beside the objective's 1."""
ANSWERS, REPLIES = "held-out answers", "held-out replies"
HELD_OUT = 0.1
"""Share of a file's rows that measures, where the file has no test rows of its own."""
DECIDED = {
    "name": "the train step is always called 'repaired'",
    "data": "what is trained on is what `select` chooses",
    "model": "the repair starts from the changed model",
    "reference": "the model before the change is the recovery's `reference`",
    "objective": "give the recovery's own `objective`",
    "adapter": "give the recovery's own `adapter`",
}
"""Fields of the train step that a recovery fills in itself: set otherwise, its page and its proof would speak of another repair."""


@dataclass(frozen=True)
class Recovery:
    """What is asked for.

    model: the changed model; reference: the model before the change; each a folder, hub id or bundled model.
    data: the pool that repairs: a data file, or a source in recipe form.
    budget: share of the pool to train on (0.04: 4%).  by: the column that names capabilities; default: clusters of the pool.
    select: the selection, by name or in recipe form; its share is the budget. ``rs2`` draws that share of the pool anew in every epoch.
    objective, adapter, settings: of the train step; adapter default: ``scales`` for a quantized model, ``sparse`` for a pruned
    one, else ``full``.  flip_aware: add the objective ``compat-distill`` against the reference.
    tasks: what proves it, one or several; default: held-out rows of the pool, see :func:`default_tasks`.
    """

    model: str
    reference: str
    data: Any
    budget: float = 0.04
    by: str | None = None
    select: Any = "paser"
    objective: Any = "sft"
    adapter: Any = None
    flip_aware: bool = False
    tasks: Any = ()
    settings: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 3, "batch_size": 16, "lr": 3e-4})
    seed: int = 0
    about: str = ""


def share_of(share: str | float, where: str = "share") -> float:
    """``4%`` or ``0.04`` as a share in (0, 1].

    Raises:
        RecipeError: anything else.

    >>> share_of("4%"), share_of("0.2"), share_of(0.5)
    (0.04, 0.2, 0.5)
    """
    text = str(share)
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise RecipeError(f"{where}: expected a share such as 4% or 0.04, at most 100%, got {text!r}")
    return found


def recovery_document(asked: Recovery, adapter: Any) -> dict[str, Any]:
    """The recipe, with ``adapter`` where none was asked for.

    Raises:
        RecipeError: the data is neither a file nor a source, or a setting that is not free.
    """
    source = pool_source(asked.data)
    tasks = [asked.tasks] if isinstance(asked.tasks, (str, Mapping)) else list(asked.tasks)
    groups = {"by": asked.by} if asked.by else {}
    both = {"model": "base", "reference": REFERENCE}
    chosen = selection(asked.select, asked.budget)
    again = chosen["name"] == EVERY_EPOCH
    _refuse_decided(asked.settings, again)
    selected = {} if again else {**both, "select": [chosen]}
    schedule = {"schedule": {**_without(chosen, "share"), "ratio": asked.budget}} if again else {}
    return {
        "whet": 1,
        "name": "recover",
        "about": asked.about or f"What the change from {asked.reference} to {asked.model} broke, and its repair.",
        "seed": asked.seed,
        "model": asked.model,
        "models": {REFERENCE: asked.reference},
        "data": [
            {"name": POOL, "source": source},
            {"name": DIAGNOSIS, "data": POOL, **both, "label": [{"name": "drift", **groups}]},
            {"name": REPAIR, "data": DIAGNOSIS, **selected},
            {
                "name": AFTER,
                "data": DIAGNOSIS,
                "model": REPAIRED,
                "reference": REFERENCE,
                "label": [{"name": "drift", "by": "group"}],
            },
        ],
        "train": [
            {
                "name": REPAIRED,
                "data": REPAIR,
                "model": "base",
                **repair_objective(asked.objective, asked.flip_aware),
                "adapter": asked.adapter or adapter,
                **schedule,
                **asked.settings,
            }
        ],
        "measure": [
            {
                "name": "proof",
                "tasks": tasks or default_tasks(source),
                "models": [REFERENCE, "base", REPAIRED],
                "against": {"base": REFERENCE, REPAIRED: ["base", REFERENCE]},
            }
        ],
    }


def pool_source(data: Any) -> dict[str, Any]:
    """The pool in recipe form; a file's rows are held out in part if it has no test rows. Its path is written in full: the recipe
    lies beside the page, wherever that is.
    """
    if isinstance(data, Mapping):
        return dict(data)
    if isinstance(data, str) and data.lstrip().startswith("{"):
        return _source_of(data)
    path = Path(data).expanduser().absolute()
    if path.is_dir():
        return {"name": "file", "path": str(path)}
    if path.name.removesuffix(".gz").endswith(SUFFIXES):
        return {"name": "file", "path": str(path), "test": HELD_OUT}
    if not path.suffix and "/" not in str(data):
        return {"name": str(data)}
    raise RecipeError(
        f"data: expected a data file, a source's name or a source such as '{{name: nanoworld, rows: 4000}}', got {data!r}"
    )


def _source_of(text: str) -> dict[str, Any]:
    """A source in recipe form, from YAML.

    Raises:
        RecipeError: no mapping.
    """
    try:
        return dict(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RecipeError(f"data {text!r} is no source such as '{{name: nanoworld, rows: 4000}}': {error}") from None


def _refuse_decided(settings: Mapping[str, Any], again: bool) -> None:
    decided = {**DECIDED, **({"schedule": f"{EVERY_EPOCH} is the schedule"} if again else {})}
    for name in settings:
        if name in decided:
            raise RecipeError(f"settings: {name!r} cannot be set in a recovery: {decided[name]}")


def selection(select: Any, budget: float) -> dict[str, Any]:
    """The selection in recipe form with the budget as its share; some read the diagnosis instead of computing it again.

    Raises:
        RecipeError: no such selection; the message gives the nearest right name.
    """
    part = {"name": select} if isinstance(select, str) else dict(select)
    known = {*parts.parts("select"), EVERY_EPOCH}
    if part.get("name") not in known:
        raise RecipeError(f"select: {unknown('selection', str(part.get('name')), known)}")
    columns = COLUMNS.get(part["name"], {})
    return {**columns, **part, **({} if "rows" in part else {"share": budget})}


def repair_objective(objective: Any, flip_aware: bool) -> dict[str, Any]:
    """The train step's ``objective``, with the flip-aware term if asked for, and its ``reference`` if it reads one."""
    if flip_aware:
        given = list(objective) if isinstance(objective, list) else [objective]
        objective = [*given, {"name": "compat-distill", "weight": FLIP_WEIGHT}]
    needs = frozenset().union(*(part.needs for _, part in objectives(objective)))
    return {"objective": objective, **({"reference": REFERENCE} if "reference_logits" in needs else {})}


def _without(mapping: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


def default_tasks(source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How well held-out replies of the pool are predicted; and, where its rows have an ``answer``, how many prompts are answered right.

    Raises:
        DataError: the pool holds out less than two rows.
    """
    rows = parts.build("source", source, "data")("test")
    if len(rows) < 2:
        raise DataError(f"data: only {len(rows)} row is held out to measure on; give more rows, or name a task")
    replies = {"name": "replies", "data": dict(source), "title": REPLIES, "limit": 2000}
    checkable = {"prompt", "answer"} <= set(rows.column_names) and any(rows["answer"])
    answers = {"name": "answers", "data": dict(source), "title": ANSWERS, "limit": 500}
    return [answers, replies] if checkable else [replies]


def adapter_for(model: Any) -> str:
    """The adapter that keeps what the change achieved: scales of a quantized model, the zeros of a pruned one.

    ``model``: a :class:`whet.model.Model`.
    """
    if model.quantized:
        return "scales"
    matrices = [p for p in model.network.parameters() if p.dim() >= 2]
    return "sparse" if any(float((p == 0).float().mean()) >= 0.01 for p in matrices) else "full"
