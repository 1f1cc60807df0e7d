"""Keeps a uniformly random part of the rows: the baseline of every selection.

With ``by``, each group of that column keeps the same share (largest remainders), so that no group is lost by chance. A row's
chance does not depend on its neighbours; the draw comes from the step's seed alone. The rows' order stays.

Without ``by`` the chosen rows are the beginning of one shuffled order: at one seed a smaller selection lies inside a larger one,
and with ``skip`` further steps take rows that an earlier one did not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from whet.data.amount import kept_rows, largest_remainders, refuse_unclear
from whet.data.context import Context
from whet.data.rows import missing_column
from whet.errors import DataError, RecipeError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Random:
    """``share`` of the rows, or a number of ``rows``; ``by``: a column whose groups keep equal shares; ``skip``: rows at the
    beginning of the shuffled order that are passed over."""

    share: Annotated[float, Gt(0), Le(1)] | None = None
    rows: Annotated[int, Gt(0)] | None = None
    by: str | None = None
    skip: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        refuse_unclear("random", self.share, self.rows)
        if self.skip and self.by is not None:
            raise RecipeError(
                f"random.skip: {self.skip} rows of one order cannot be passed over in every group of 'by'; remove one"
            )

    def __call__(self, data: Dataset, context: Context) -> Dataset:
        count = kept_rows("random", len(data), self.share, self.rows)
        order = np.random.default_rng(context.seed).permutation(len(data))
        if self.by is None:
            chosen = order[self.skip : self.skip + count]
            if len(chosen) < count:
                raise RecipeError(f"random.skip: {self.skip} and {count} more are over the {len(data)} rows; ask for fewer")
        else:
            if self.by not in data.column_names:
                raise DataError(f"random: by: {missing_column(self.by, data.column_names)}")
            groups = [str(value) for value in data[self.by]]
            quota = largest_remainders([groups.count(g) for g in sorted(set(groups))], count)
            left = dict(zip(sorted(set(groups)), quota))
            chosen = np.array([i for i in order if _take(left, groups[i])])
        context.receipt.update(rows_in=len(data), rows_out=len(chosen))
        return data.select(sorted(chosen.tolist()))


def _take(left: dict[str, int], group: str) -> bool:
    left[group] -= 1
    return left[group] >= 0
