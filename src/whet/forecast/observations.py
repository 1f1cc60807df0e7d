"""What a law is fitted to: scores at several sizes, at several seeds, of several groups (learners, shares of a budget)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.data.rows import missing_column
from whet.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """One score: of a model trained with ``size`` (rows, tokens, a share: one unit throughout) at a ``seed``, in a ``group``."""

    size: float
    score: float
    seed: int = 0
    group: str = ""


@dataclass(frozen=True)
class Observed:
    """Observations of one ``metric``; ``lower`` says that less of it is better. ``notes`` say what their reader found out."""

    rows: tuple[Observation, ...]
    metric: str = "score"
    lower: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """One group's observations. ``sizes``: [n], rising. ``scores``: [seeds, n]; NaN where a seed has no score at a size."""

    group: str
    sizes: Floats
    scores: Floats

    @property
    def means(self) -> Floats:
        """The mean over seeds at each size: [n]."""
        return np.asarray(np.nanmean(self.scores, axis=0))

    @property
    def last(self) -> tuple[float, float]:
        """The largest size and the mean score there: what one who fits nothing would go on with."""
        return float(self.sizes[-1]), float(self.means[-1])


def series_of(observed: Observed, law: str, *, least: int, span: float = 1.0) -> list[Series]:
    """The groups' observations, checked.

    Args:
        observed: at least one observation.
        law: who asks, for messages.
        least: sizes that each group needs.
        span: factor that the largest size must be of the smallest.

    Raises:
        DataError: a size that is not positive, a score that is not finite, two scores of one seed at one size, too few sizes or
            too narrow a span.
    """
    if not observed.rows:
        raise DataError(f"{law}: there are no observations; name a comparison, or a CSV file with the columns size and score")
    groups: dict[str, list[Observation]] = {}
    for row in observed.rows:
        _check(row, law)
        groups.setdefault(row.group, []).append(row)
    found = [_series(name, rows, law) for name, rows in groups.items()]
    for series in found:
        where = f"{law}{f', group {series.group!r}' if series.group else ''}"
        if len(series.sizes) < least:
            shown = ", ".join(f"{size:g}" for size in series.sizes)
            raise DataError(f"{where}: needs at least {least} sizes, got {len(series.sizes)} ({shown}); observe more")
        if series.sizes[-1] < span * series.sizes[0]:
            raise DataError(
                f"{where}: the sizes span a factor of {series.sizes[-1] / series.sizes[0]:.3g}, from {series.sizes[0]:g} to "
                f"{series.sizes[-1]:g}; it takes at least {span:g} to tell a law from noise"
            )
    return found


def _check(row: Observation, law: str) -> None:
    if not (math.isfinite(row.size) and row.size > 0):
        raise DataError(f"{law}: size {row.size:g} (score {row.score:g}): sizes are positive; leave the untrained model out")
    if not math.isfinite(row.score):
        raise DataError(f"{law}: the score at size {row.size:g} is {row.score}; leave it out or measure it again")


def _series(group: str, rows: Sequence[Observation], law: str) -> Series:
    sizes, seeds = sorted({row.size for row in rows}), sorted({row.seed for row in rows})
    scores = np.full((len(seeds), len(sizes)), np.nan)
    for row in rows:
        at = seeds.index(row.seed), sizes.index(row.size)
        if not np.isnan(scores[at]):
            raise DataError(
                f"{law}: two scores at size {row.size:g}, seed {row.seed}, group {row.group!r}; give them seeds of their own"
            )
        scores[at] = row.score
    return Series(group, np.array(sizes), scores)


def read_observations(
    path: str | Path, *, x: str = "size", metric: str = "score", group: str | None = None
) -> tuple[Observation, ...]:
    """Observations from a CSV file with a header.

    Args:
        path: the file.
        x: the column of sizes.
        metric: the column of scores.
        group: the column of groups; default ``group`` if there is one. A column ``seed`` is read if there is one.

    Raises:
        DataError: no such file or column, or a cell that is no number; names file, line and column.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from None
    return observations_of(rows, x=x, metric=metric, group=group, source=str(path))


def observations_of(
    rows: Iterable[Mapping[str, Any]],
    *,
    x: str = "size",
    metric: str = "score",
    group: str | None = None,
    source: str = "observations",
) -> tuple[Observation, ...]:
    """Observations from mappings; see :func:`read_observations`."""
    found = []
    for number, row in enumerate(rows, start=2):
        where = f"{source}, line {number}" if source != "observations" else f"observation {number - 2}"
        for column in (x, metric, *([group] if group else [])):
            if column not in row:
                raise DataError(
                    f"{where}: {missing_column(column, row).partition(' Way out')[0]}; name the columns with x, metric, group"
                )
        seed = int(_number(row.get("seed") or 0, where, "seed"))
        name = row.get(group or "group")
        found.append(
            Observation(_number(row[x], where, x), _number(row[metric], where, metric), seed, "" if name is None else str(name))
        )
    return tuple(found)


def _number(value: Any, where: str, column: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: column {column!r}: expected a number, got {value!r}") from None
