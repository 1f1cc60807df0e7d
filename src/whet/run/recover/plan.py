"""The recipe of a recovery: diagnosis, selection, repair and measurement as ordinary steps.

Written as a recipe, a recovery is resumed, reused and recorded like any run, and its user can go on from the file::

    model: the changed model             models: {reference: the model before the change}
    data:   pool -> diagnosis (label drift) -> repair (a selection of it); drift of the repaired model on what was not chosen
    train:  repaired, from the changed model
    measure: reference, base and repaired on the tasks; base against reference, repaired against base
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from whet.errors import RecipeError

REFERENCE, REPAIRED = "reference", "repaired"
POOL, DIAGNOSIS, REPAIR, AFTER = "pool", "diagnosis", "repair", "after"
HELD_OUT = 0.1
"""Share of a file's rows that measures, where the file has no test rows of its own."""


@dataclass(frozen=True)
class Recovery:
    """What is asked for.

    model: the changed model; reference: the model before the change; each a folder, hub id or bundled model.
    data: the pool that repairs: a data file, or a source in recipe form.
    budget: share of the pool to train on (0.04: 4%).  by: the column that names capabilities; default: clusters of the pool.
    select: the selection, by name or in recipe form; its share is the budget.
    objective, adapter, settings: of the train step; adapter default: ``scales`` for a quantized model, ``sparse`` for a pruned
    one, else ``full``.
    tasks: what proves it; default: held-out rows of the pool.
    """

    model: str
    reference: str
    data: Any
    budget: float = 0.04
    by: str | None = None
    select: Any = "paser"
    objective: Any = "sft"
    adapter: Any = None
    tasks: Sequence[Any] = ()
    settings: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 3, "batch_size": 16, "lr": 3e-4})
    seed: int = 0
    about: str = ""


def share_of(text: str) -> float:
    """``4%`` or ``0.04`` as a share in (0, 1].

    Raises:
        RecipeError: anything else.

    >>> share_of("4%"), share_of("0.2")
    (0.04, 0.2)
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise RecipeError(f"{text!r}: expected a share such as 4% or 0.04")
    return share


def recovery_document(asked: Recovery, adapter: Any) -> dict[str, Any]:
    """The recipe, with ``adapter`` where none was asked for.

    Raises:
        RecipeError: the data is neither a file nor a source.
    """
    source = pool_source(asked.data)
    groups = {"by": asked.by} if asked.by else {}
    both = {"model": "base", "reference": REFERENCE}
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
            {"name": REPAIR, "data": DIAGNOSIS, **both, "select": [selection(asked.select, asked.budget)]},
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
                "objective": asked.objective,
                "adapter": asked.adapter or adapter,
                **asked.settings,
            }
        ],
        "measure": [
            {
                "name": "proof",
                "tasks": list(asked.tasks) or [default_task(source)],
                "models": [REFERENCE, "base", REPAIRED],
                "against": {"base": REFERENCE, REPAIRED: "base"},
            }
        ],
    }


def pool_source(data: Any) -> dict[str, Any]:
    """The pool in recipe form; a file's rows are held out in part if it has no test rows."""
    if isinstance(data, Mapping):
        return dict(data)
    if isinstance(data, str) and data.lstrip().startswith("{"):
        return dict(yaml.safe_load(data))
    path = Path(data).expanduser()
    if path.is_dir():
        return {"name": "file", "path": str(path)}
    if path.suffix in (".jsonl", ".json", ".csv", ".tsv", ".parquet"):
        return {"name": "file", "path": str(path), "test": HELD_OUT}
    if not path.suffix and "/" not in str(data):
        return {"name": str(data)}
    raise RecipeError(
        f"data: expected a data file, a source's name or a source such as '{{name: nanoworld, rows: 4000}}', got {data!r}"
    )


def selection(select: Any, budget: float) -> dict[str, Any]:
    """The selection in recipe form with the budget as its share; PASER reads the diagnosis instead of computing it again."""
    part = {"name": select} if isinstance(select, str) else dict(select)
    columns = {"by": "group", "drift": "drift"} if part["name"] == "paser" else {}
    return {**columns, **part, **({} if "rows" in part else {"share": budget})}


def default_task(source: Mapping[str, Any]) -> dict[str, Any]:
    """How well the model predicts held-out replies of the pool."""
    return {"name": "replies", "data": dict(source)}


def adapter_for(model: Any) -> str:
    """The adapter that keeps what the change achieved: scales of a quantized model, the zeros of a pruned one.

    ``model``: a :class:`whet.model.Model`.
    """
    if model.quantized:
        return "scales"
    matrices = [p for p in model.network.parameters() if p.dim() == 2]
    return "sparse" if any(float((p == 0).float().mean()) >= 0.01 for p in matrices) else "full"
