"""The trace of a learning curve: trends fitted to the first 3, 4, ... observations, and from where on they are to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt, Le

from whet.errors import DataError
from whet.forecast.observations import Floats, Observed, Series, series_of
from whet.forecast.power_laws import fit_trends, refuse_infeasible, replicates, residuals
from whet.forecast.predicted import CONFIDENCE, REACH, Extrapolation, Prediction, too_far

FIRST = 3
"""Observations of the first trend: as many as it has parameters."""
AGREEING = 4
"""Trends in a row that have to agree about the target."""
LEAST = 5
"""Sizes that a curve needs."""


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """Settings of a trace.

    ceiling: the best score there can be (1, or 100 for percent).
    slope: share of the ceiling that a trend may still gain per e-fold of data where it has passed the noisy start.
    rule: ``agreement``: 4 trends in a row agree about the largest size asked for within ``tolerance`` (a share of the ceiling)
        and the asymptote is feasible; ``backbone``: from there on asymptotes are feasible and never rise.
    anchor: from the working level on, each trend is held by the asymptote of the one before, as an observation at infinity.
    reach: how many times the largest observed size predictions are relied on.  resamples, seed: of the intervals.
    """

    ceiling: Annotated[float, Gt(0)] = 1.0
    slope: Annotated[float, Gt(0)] = 0.1
    rule: Literal["agreement", "backbone"] = "agreement"
    tolerance: Annotated[float, Gt(0)] = 0.005
    anchor: bool = True
    reach: Annotated[float, Gt(1), Le(8)] = REACH
    resamples: Annotated[int, Gt(99)] = 1000
    seed: int = 0


@dataclass(frozen=True)
class Trace:
    """Trends 0, 1, ... of one curve; trend k is fitted to the first k + 3 observations.

    ``a``, ``b``, ``c``: [K] of A(x) = c - a x^(-b). ``gains``: [K], what is left to the asymptote at the trend's last
    observation. ``targets``: [K], what each says of the target. ``working``, ``level``: positions in this list, ``None`` if
    not reached.
    """

    a: Floats
    b: Floats
    c: Floats
    gains: Floats
    targets: Floats
    working: int | None
    level: int | None

    def at(self, position: int, sizes: Floats) -> Floats:
        """What one trend says of sizes [n]."""
        return np.asarray(self.c[position] - self.a[position] * sizes ** -self.b[position])


def trace_of(sizes: Floats, means: Floats, target: float, settings: Tracing) -> Trace:
    """The trace of the scores ``means`` [n] at ``sizes`` [n]; ``target`` is the size that trends have to agree about."""
    found: list[tuple[float, float, float]] = []
    working: int | None = None
    for count in range(FIRST, len(sizes) + 1):
        held = np.array([found[-1][2]]) if settings.anchor and working is not None else None
        fit = fit_trends(sizes[:count], means[None, :count], held)
        a, b, c = float(fit.a[0] * fit.scale ** fit.b[0]), float(fit.b[0]), float(fit.c[0])
        if working is None and a * b * sizes[count - 1] ** -b < settings.slope * settings.ceiling:
            working = len(found)
        found.append((a, b, c))
    a_, b_, c_ = (np.array(column) for column in zip(*found))
    targets = c_ - a_ * target**-b_
    level = _level(c_, targets, working, settings)
    return Trace(a_, b_, c_, a_ * sizes[FIRST - 1 :] ** -b_, targets, working, level)


def _level(c: Floats, targets: Floats, working: int | None, settings: Tracing) -> int | None:
    """The first trend to be trusted; one more observation never makes it an earlier one."""
    if working is None:
        return None
    feasible = c <= settings.ceiling * (1 + 1e-9)
    if settings.rule == "backbone":
        sound = feasible & np.append(True, np.diff(c) <= 1e-9 * settings.ceiling)
        broken = np.flatnonzero(~sound)
        first = max(working, int(broken[-1]) + 1 if len(broken) else 0)
        return first if first < len(c) else None
    width = settings.tolerance * settings.ceiling
    for k in range(max(working, AGREEING - 1), len(c)):
        if feasible[k] and np.ptp(targets[k - AGREEING + 1 : k + 1]) <= width:
            return k
    return None


def traced(observed: Observed, at: Sequence[float], settings: Tracing, law: str) -> list[tuple[Series, Trace]]:
    """Every group's trace.

    Raises:
        DataError: fewer than 5 sizes, a score above the ceiling or one of which less is better, no size to predict.
    """
    if observed.lower:
        raise DataError(f"{law}: less of {observed.metric} is better, and this law rises; use posttrain-power-law")
    if not len(at) or min(at) <= 0:
        raise DataError(f"{law}: at: name the sizes to predict, each positive; got {list(at)}")
    found = series_of(observed, law, least=LEAST)
    for series in found:
        refuse_infeasible(series, settings.ceiling, law)
    return [(s, trace_of(s.sizes, s.means, max(at), settings)) for s in found]


def extrapolate(
    series: Series, trace: Trace, at: Sequence[float], settings: Tracing, wanted: float | None = None
) -> Extrapolation:
    """Predictions of the last trend, their intervals, and what the trace tells.

    An interval holds 95% of the refits, without anchors, to curves that might have been observed instead (each with a residual
    added, as a new run has one), and the predictions of the last four trends.
    """
    sizes = np.array(at, dtype=np.float64)
    last, values = len(trace.c) - 1, trace.at(-1, sizes)
    low, high = _interval(series, trace, sizes, settings)
    unsettled = "" if trace.level is not None else "the trends do not agree yet; observe more sizes"
    predictions = tuple(
        Prediction(
            size=float(x),
            value=float(v),
            low=float(lo),
            high=float(hi),
            factor=float(x / series.sizes[-1]),
            doubt="; ".join(filter(None, (too_far(float(x), float(series.sizes[-1]), settings.reach), unsettled))),
        )
        for x, v, lo, hi in zip(sizes, values, low, high)
    )
    return Extrapolation(
        group=series.group,
        formula=f"A(x) = {trace.c[-1]:.4g} - {trace.a[-1]:.4g} x^-{trace.b[-1]:.4g}",
        parameters={"a": float(trace.a[-1]), "b": float(trace.b[-1]), "c": float(trace.c[-1])},
        predictions=predictions,
        last=series.last,
        figures={**_figures(series, trace, last), **_needed(trace, wanted)},
    )


def _interval(series: Series, trace: Trace, sizes: Floats, settings: Tracing) -> tuple[Floats, Floats]:
    """Bounds of the predictions: [len(sizes)] each."""
    # Without anchors, which are as uncertain as the rest: held by fixed ones, refits would vary too little.
    fitted = fit_trends(series.sizes, series.means[None]).at(series.sizes)[0]
    curves = replicates(series, fitted, settings.resamples, settings.seed)
    refits = fit_trends(series.sizes, curves, zoom=5).at(sizes)
    noise = np.random.default_rng([settings.seed, 1]).choice(residuals(series.means, fitted), size=refits.shape)
    bounds = np.quantile(refits + noise, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], axis=0)
    recent = np.array([trace.at(k, sizes) for k in range(max(0, len(trace.c) - AGREEING), len(trace.c))])
    highest = np.minimum(np.maximum(bounds[1], recent.max(0)), settings.ceiling)
    return np.minimum(bounds[0], recent.min(0)), np.maximum(highest, trace.at(-1, sizes))


def _figures(series: Series, trace: Trace, last: int) -> dict[str, Any]:
    def size(position: int | None) -> float | None:
        return None if position is None else float(series.sizes[position + FIRST - 1])

    found: dict[str, Any] = {
        "asymptote": float(trace.c[-1]),
        "still to be gained beyond the last observation": float(trace.gains[-1]),
        "working level at": size(trace.working),
        "prediction level at": size(trace.level),
        "backbone": trace.c.tolist(),
    }
    if trace.level is not None and trace.level < last:
        rest = slice(trace.level + FIRST, None)
        off = np.abs(trace.at(trace.level, series.sizes[rest]) - series.means[rest]) / np.abs(series.means[rest])
        found["mean absolute percentage error over the rest"] = 100 * float(off.mean())
    return found


def _needed(trace: Trace, wanted: float | None) -> dict[str, Any]:
    """The size at which the last trend reaches the wanted score: A inverted; ``inf`` above the asymptote."""
    if wanted is None:
        return {}
    a, b, c = float(trace.a[-1]), float(trace.b[-1]), float(trace.c[-1])
    return {f"size needed for {wanted:g}": (a / (c - wanted)) ** (1 / b) if wanted < c and a > 0 else float("inf")}
