"""Rows of a claim's result, as its YAML keeps them: values per seed, mean, 95% interval, and p where arms are compared."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from whet.measure.statistics import holm, mean_interval, paired_permutation, paired_t

Row = dict[str, Any]


def row(name: str, values: Sequence[float]) -> Row:
    """One arm: its value for each seed (at least 2) and the t interval of their mean."""
    estimate = mean_interval(values)
    return _row(name, values, estimate.low, estimate.high)


def gap(name: str, first: Sequence[float], second: Sequence[float]) -> Row:
    """First minus second, paired by seed (at least 3): paired t, with the exact sign-flip p beside it."""
    test = paired_t(first, second)
    found = _row(name, [a - b for a, b in zip(first, second, strict=True)], test.low or 0.0, test.high or 0.0)
    return {**found, "p": _digits(test.p), "p_sign_flip": _digits(paired_permutation(first, second).p)}


def with_holm(rows: Sequence[Row]) -> list[Row]:
    """The same rows with ``p_holm``, corrected over those that have a ``p``."""
    tested = [r["p"] for r in rows if "p" in r]
    corrected = iter(holm(tested))
    return [{**r, "p_holm": _digits(next(corrected))} if "p" in r else dict(r) for r in rows]


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the rows as the ``result`` of a claim's YAML file."""
    yaml.safe_dump({"result": [dict(r) for r in rows]}, sys.stdout, sort_keys=False, default_flow_style=None, width=120)


def _row(name: str, values: Sequence[float], low: float, high: float) -> Row:
    rounded = [_digits(v) for v in values]
    return {
        "name": name,
        "values": rounded,
        "mean": _digits(sum(values) / len(values)),
        "interval": [_digits(low), _digits(high)],
    }


def _digits(value: float) -> float:
    """Four decimals, or three significant digits where that would hide a small number."""
    return round(float(value), 4) if abs(value) >= 0.001 or value == 0 else float(f"{value:.3g}")
