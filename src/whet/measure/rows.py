"""The rows that a task measures, and the worked examples shown before them: drawn from a source, counted, with stable ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.errors import DataError, RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]

GROUPS = ("skill", "difficulty", "style", "language", "steps")
"""Columns that become an outcome's labels where a row has them."""


@dataclass(frozen=True)
class Rows:
    """The chosen rows, their positions in the split, and what the choice left out.

    ``ids`` are the rows' own ``id`` cells where these are unique, else their positions.
    """

    rows: Sequence[Row]
    positions: Sequence[int]
    receipt: Mapping[str, Any]

    @property
    def ids(self) -> list[str]:
        own = [row.get("id") for row in self.rows]
        unique = None not in own and len(set(map(str, own))) == len(own)
        return [str(i) for i in (own if unique else self.positions)]


def draw_rows(source: Callable[[str], Dataset], split: str, limit: int | None, balance: str | None, seed: int) -> Rows:
    """The split's rows, or a seeded draw of ``limit`` of them without replacement, in the split's order.

    Args:
        source: gives a dataset for a split.
        split: ``train``, ``validation`` or ``test``.
        limit: how many rows; ``None`` for all.
        balance: a column of whose values equally many rows are drawn (as far as there are enough); ``None`` for a plain draw.
        seed: of the draw.

    Raises:
        DataError: the split is empty, or the column to balance by is missing.
    """
    data = source(split)
    size = len(data)
    if not size:
        raise DataError(f"the split {split!r} has no rows to measure")
    if balance and balance not in data.column_names:
        raise DataError(f"balance: no column {balance!r}; there are {', '.join(data.column_names)}")
    kept = range(size) if limit is None or limit >= size else _draw(data, limit, balance, seed)
    rows = [data[i] for i in kept]
    receipt = {"split": split, "rows": size, "measured": len(rows), "not drawn": size - len(rows)}
    return Rows(rows, kept, receipt)


def _draw(data: Dataset, limit: int, balance: str | None, seed: int) -> list[int]:
    order = np.random.default_rng(seed).permutation(len(data))
    if balance is None:
        return sorted(int(i) for i in order[:limit])
    values = data[balance]
    queues: dict[Any, list[int]] = {}
    for i in order:
        queues.setdefault(values[int(i)], []).append(int(i))
    turns = sorted((turn, str(value), i) for value, queue in queues.items() for turn, i in enumerate(queue))
    return sorted(i for _, _, i in turns[:limit])


def labels_of(row: Row) -> dict[str, str]:
    """The row's groups (``skill``, ``difficulty``, ...) as text, and its ``document`` where it has a ``document_id``."""
    labels = {name: str(row[name]) for name in GROUPS if row.get(name) is not None}
    return labels | ({"document": str(row["document_id"])} if row.get("document_id") is not None else {})


def draw_shots(source: Callable[[str], Dataset], split: str, count: int, measured: Sequence[Row], seed: int) -> list[Row]:
    """Worked examples for the prompt, the same for every measured row: ``count`` rows of ``split`` drawn by the seed.

    Raises:
        RecipeError: the split has too few rows.
        DataError: a drawn row is also measured (the answer would stand in the prompt).
    """
    if not count:
        return []
    data = source(split)
    if len(data) < count:
        raise RecipeError(f"few_shot: {count} rows wanted, but the split {split!r} has {len(data)}")
    chosen = [data[int(i)] for i in np.random.default_rng(seed).permutation(len(data))[:count]]
    asked = {str(row.get("prompt")) for row in measured}
    leaked = [row for row in chosen if str(row.get("prompt")) in asked]
    if leaked:
        shown = str(leaked[0].get("prompt"))[:80]
        raise DataError(f"few_shot: a worked example from {split!r} is also measured: {shown!r}; use another split")
    return chosen
