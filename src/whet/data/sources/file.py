"""Rows of a local file: JSONL, JSON, CSV, TSV or Parquet, with columns renamed to whet's names.

``path`` is the training file, or a folder with ``train.*``, ``validation.*`` and ``test.*``. ``validation`` and ``test`` are
files of their own, or shares of the training rows that are held out by the hash of the row's text. ``columns`` maps whet's
names to the file's: ``{prompt: question, completion: solution, answer: result}``; other columns keep their names. Nothing is
skipped: a damaged line, a missing column, or a cell that is no text stops with the file and the line.

Defaults: no renaming, no held-out rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whet.data.rows import split_key
from whet.data.splits import shares, split_file
from whet.data.tables import SUFFIXES, map_columns, read_rows, to_dataset
from whet.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class File:
    """``columns``: whet's name -> the file's. ``numbers_as_text``: numbers in text columns are used as text, not refused."""

    path: str
    columns: Mapping[str, str] | None = None
    validation: str | float | None = None
    test: str | float | None = None
    numbers_as_text: bool = False

    def __call__(self, split: str) -> Dataset:
        parts = {"validation": self.validation, "test": self.test}
        held_out = shares(parts)
        file, shared = split_file(Path(self.path).expanduser(), split, parts, SUFFIXES)
        rows = map_columns(read_rows(file), self.columns, str(file), numbers_as_text=self.numbers_as_text)
        kept = [row for _, row in rows if not shared or held_out.split_of(split_key(row)) == split]
        if not kept:
            raise DataError(
                f"{file}: none of its {len(rows)} rows falls into the {split} split, with shares held out of {parts}; change the "
                "shares, or give the split a file of its own"
            )
        return to_dataset(kept, f"{file} ({split})")
