"""Rows of a dataset on the Hugging Face hub (or a local folder in its layout), with columns renamed to whet's names.

``validation`` and ``test`` are the hub's names of these splits (``validation``, ``test[:500]``), or shares of the training
rows that are held out by the hash of the row's text; by default the splits of the same names. Only data files are read;
a dataset that needs code to be loaded is refused. Pin ``revision`` to a commit for a result that can be repeated.

Defaults: the hub's split ``train``, newest revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whet.data.rows import split_key
from whet.data.splits import check_split, no_split, shares
from whet.data.tables import map_columns, to_dataset
from whet.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Hub:
    """``id``: owner/name. ``config``: the dataset's configuration, if it has several. ``columns``: whet's name -> the hub's."""

    id: str
    config: str | None = None
    columns: Mapping[str, str] | None = None
    train: str = "train"
    validation: str | float | None = "validation"
    test: str | float | None = "test"
    revision: str | None = None
    numbers_as_text: bool = False

    def __call__(self, split: str) -> Dataset:
        check_split(split)
        parts = {"validation": self.validation, "test": self.test}
        own = {"train": self.train, **parts}[split]
        if own is None:
            raise no_split(self.id, split)
        shared = not isinstance(own, str) or split == "train"
        data = self._load(own if isinstance(own, str) else self.train)
        rows = map_columns(
            [(f"row {number}", row) for number, row in enumerate(data, 1)],
            self.columns,
            self.id,
            numbers_as_text=self.numbers_as_text,
        )
        held_out = shares(parts)
        kept = [row for _, row in rows if not shared or held_out.split_of(split_key(row)) == split]
        return to_dataset(kept, f"{self.id} ({split})")

    def _load(self, split: str) -> Dataset:
        from datasets import load_dataset

        try:
            return load_dataset(self.id, self.config, split=split, revision=self.revision)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"cannot load split {split!r} of dataset {self.id!r}: {error}. "
                "If it is on this machine, use the source `file` with its path"
            ) from error
