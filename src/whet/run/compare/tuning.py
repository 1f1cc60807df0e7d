"""Tuning as part of fairness: every variant gets the same number of trials at the same quasi-random points.

The points are a scrambled Halton sequence over the ranges, on a log scale where a range spans a factor of ten or more. They
are chosen on validation rows, at seeds that the comparison itself does not use, and what the trials cost is counted.

Paper: algoperf — Benchmarking Neural Network Training Algorithms
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whet.errors import RecipeError

LOG_FROM = 10.0
"""Ratio of a range's ends from which its points are spread evenly on a log scale."""


@dataclass(frozen=True)
class Range:
    """A field and the values it may take: from ``low`` to ``high``, whole numbers where both are written so."""

    path: str
    low: float
    high: float
    whole: bool = False

    @classmethod
    def parse(cls, path: str, text: str) -> Range:
        """Reads ``1e-4..1e-2``.

        Raises:
            RecipeError: not two numbers, the first below the second.
        """
        low, dots, high = str(text).partition("..")
        try:
            ends = float(low), float(high)
        except ValueError:
            ends = (math.nan, math.nan)
        if not dots or not ends[0] < ends[1] or not math.isfinite(ends[1]):
            raise RecipeError(f"tune.{path}: expected a range such as 1e-4..1e-2, its first end below the second, got {text!r}")
        return cls(path, *ends, whole=low.strip().isdigit() and high.strip().isdigit())

    @property
    def logarithmic(self) -> bool:
        return self.low > 0 and self.high / self.low >= LOG_FROM

    def at(self, share: float) -> Any:
        """The value at ``share`` in [0, 1] of the range, in three digits."""
        span = self.high / self.low if self.logarithmic else self.high - self.low
        value = self.low * span**share if self.logarithmic else self.low + span * share
        return round(value) if self.whole else float(f"{value:.3g}")


def points(ranges: Sequence[Range], trials: int, seed: int = 0) -> list[dict[str, Any]]:
    """The trials: for each, the value of every field. The first ``n`` of more trials are those of ``n`` trials."""
    from scipy.stats import qmc

    shares = qmc.Halton(len(ranges), scramble=True, rng=seed).random(trials)
    return [{r.path: r.at(float(share)) for r, share in zip(ranges, row)} for row in shares]
