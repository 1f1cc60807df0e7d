"""What a test says, and the checks that every paired input goes through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whet.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TestResult:
    """One test: its statistic, its two-sided p, and the effect with its interval.

    ``effect`` is the first arm minus the second wherever there are two arms; ``low`` and ``high`` bound it at 95% unless
    ``note`` names another level; all three are ``None`` where the test has no effect size. ``n`` counts the units (items,
    groups, seeds, folds, data sets) that the test rests on. ``note`` says how p was found and what limits it.
    """

    name: str
    statistic: float
    p: float
    effect: float | None
    low: float | None
    high: float | None
    n: int
    note: str = ""


def vector(values: ArrayLike, what: str, least: int = 1) -> Floats:
    """Values as a finite float64 vector [n].

    Raises:
        DataError: not one-dimensional, fewer than ``least``, or a value is NaN or infinite; names its index.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"{what}: expected a list of numbers, got an array of shape {array.shape}")
    if len(array) < least:
        raise DataError(f"{what}: needs at least {least} values, got {len(array)}")
    if not np.isfinite(array).all():
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"{what}: value {at} is {array[at]}; drop or repair it in both arms before testing")
    return array


def pair(first: ArrayLike, second: ArrayLike, what: str, least: int = 1) -> tuple[Floats, Floats]:
    """Two vectors of the same length: entry i of both belongs to the same unit.

    Raises:
        DataError: the lengths differ, or a vector is refused.
    """
    a, b = vector(first, f"{what}, first arm", least), vector(second, f"{what}, second arm", least)
    if len(a) != len(b):
        raise DataError(
            f"{what} is paired: the first arm has {len(a)} units, the second {len(b)}; measure both on the same units"
        )
    return a, b


def table(rows: ArrayLike, what: str) -> Floats:
    """A finite float64 table [rows, columns].

    Raises:
        DataError: not rectangular, or a value is NaN or infinite.
    """
    try:
        array = np.asarray(rows, dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{what}: the rows have different lengths; every row needs the same units") from error
    if array.ndim != 2:
        raise DataError(f"{what}: expected rows of numbers, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{what}: holds NaN or infinite values")
    return array


def right_or_wrong(values: Floats, what: str) -> NDArray[np.bool_]:
    """0/1 values as booleans.

    Raises:
        DataError: a value is neither 0 nor 1.
    """
    odd = values[(values != 0) & (values != 1)]
    if len(odd):
        raise DataError(f"{what}: expected 0 or 1 for every item, got {odd[0]:g}; use paired_permutation for real-valued scores")
    return values.astype(bool)


def group_ids(groups: Sequence[object] | None, n: int, what: str) -> NDArray[np.int64]:
    """Each item's group as a number in [0, G); without groups every item is its own.

    Raises:
        DataError: the number of labels is not ``n``.
    """
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise DataError(f"{what}: {n} items but {len(groups)} group labels")
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(g, len(numbers)) for g in groups], dtype=np.int64)


def quantile_z(confidence: float) -> float:
    """Two-sided standard normal quantile: 1.96 for 0.95.

    Raises:
        DataError: the confidence is outside (0, 1).
    """
    from scipy import special

    if not 0 < confidence < 1:
        raise DataError(f"confidence {confidence}: expected a number between 0 and 1, such as 0.95")
    return float(special.ndtri(0.5 + confidence / 2))


def probability(p: float) -> float:
    """p clipped into [0, 1]; NaN (0/0 in a test without variation) becomes 1."""
    return 1.0 if math.isnan(p) else min(1.0, max(0.0, float(p)))
