"""Reads cells of dataset rows, with errors that name the column."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from whet.errors import DataError


def missing_column(column: str, present: Iterable[str], target: str | None = None) -> str:
    """A sentence for a column that is not there: its name, the nearest right one, what there is, the way out.

    ``target``: whet's name for the column, where ``column`` is the file's name for it.
    """
    names = sorted(str(name) for name in present)
    near = get_close_matches(column, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    way_out = f"`columns: {{{target or column}: {near[0] if near else 'your_column'}}}` in the source"
    return f"no column {column!r}: {hint}There are: {', '.join(names) or 'none'}. Way out: {way_out}"


def text_cell(row: Mapping[str, Any], column: str) -> str:
    """The row's text in that column.

    Raises:
        DataError: the column is missing or empty (null), or holds something else than text.
    """
    value = row.get(column)
    if value is None:
        if column in row:
            raise DataError(f"column {column!r} is empty (null) in this row; fill it or remove the row")
        raise DataError(missing_column(column, row))
    if not isinstance(value, str):
        raise DataError(f"column {column!r}: expected text, got {type(value).__name__} {str(value)[:60]!r}")
    return value


def row_hash(row: Mapping[str, Any]) -> str:
    """sha256 (hex) of a row's content, independent of the order of its columns."""
    return hashlib.sha256(json.dumps(dict(row), sort_keys=True, default=str, ensure_ascii=True).encode()).hexdigest()


def split_key(row: Mapping[str, Any]) -> str:
    """The text that decides the split of a row: its prompt, else its text or messages, else the whole row.

    Rows that ask the same thing in the same words so fall in the same split.
    """
    for column in ("prompt", "text", "messages"):
        if row.get(column):
            return row[column] if isinstance(row[column], str) else json.dumps(row[column], sort_keys=True, default=str)
    return row_hash(row)
