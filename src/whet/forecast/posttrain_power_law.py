"""Predicts a score after post-training from a power law in the number of examples.

Three forms are fitted, and the one with the smallest corrected Akaike criterion (AICc) is taken:

    performance        P(n) = a n^b                 away from the ceiling; least squares on log P
    error              E(n) = k n^(-b)              E = ceiling - P, or a loss; least squares on log E
    error with floor   E(n) = e + k n^(-b), e >= 0  the same with what no number of examples removes

With residual variance s^2 over m points and q parameters (s^2 counted),

    AICc = m log s^2 + 2 sum(log y) + 2 q + 2 q (q + 1) / (m - q - 1)

where y is what was fitted in logarithms: without the second term, which carries the density over to the scale of the score,
log P and log E could not be compared. A form is left out where a value is not positive, or points are too few for it.

The interval is of a single new run: seeds are drawn with replacement (residuals, if there is one seed), the form is chosen again
each time, and a residual is added. With few seeds, whose draws vary too little, deviations are enlarged by sqrt(S / (S - 1)).

It refuses fewer than 4 sizes, a span below a factor of 8, scores above 0.95 of the ceiling at the smallest size, and scores that
do not get better with size. Beyond ``reach`` times the largest size (4; at most 8) a prediction says that it is not to be relied
on. Sizes are of nested sets. With a fixed number of epochs, steps grow with the data and cannot be told from it.

Shapes: sizes [n] and scores [seeds, n] per group; 500 bootstrap draws.

Paper: superficial-alignment — Revisiting the Superficial Alignment Hypothesis
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Le

from whet.errors import DataError
from whet.forecast.log_fits import Form, Points, fits, redrawn
from whet.forecast.observations import Floats, Observed, Series, series_of
from whet.forecast.power_laws import refuse_infeasible
from whet.forecast.predicted import CONFIDENCE, REACH, Extrapolation, Forecasted, Prediction, rank, too_far

LAW = "posttrain-power-law"
LEAST, SPAN = 4, 8.0
NEAR_CEILING = 0.95


@dataclass(frozen=True, kw_only=True)
class PosttrainPowerLaw:
    """``form``: ``auto`` takes the best by AICc. ``ceiling``: the best score there can be. ``reach``: how many times the largest
    size predictions are relied on. ``resamples``, ``seed``: of the intervals."""

    form: Literal["auto", "performance", "error", "error with floor"] = "auto"
    ceiling: Annotated[float, Gt(0)] = 1.0
    reach: Annotated[float, Gt(1), Le(8)] = REACH
    resamples: Annotated[int, Gt(99)] = 500
    seed: int = 0

    def __call__(self, observed: Observed, at: Sequence[float]) -> Forecasted:
        """Fits every group and predicts it at these sizes.

        Raises:
            DataError: observations that it refuses, or a form that cannot be fitted to them.
        """
        if not len(at) or min(at) <= 0:
            raise DataError(f"{LAW}: at: name the sizes to predict, each positive; got {list(at)}")
        several = series_of(observed, LAW, least=LEAST, span=SPAN)
        found = [self._one(series, observed.lower, np.array(at, dtype=np.float64)) for series in several]
        ranking, notes = rank(found, lower=observed.lower)
        return Forecasted(LAW, observed.metric, tuple(found), (*observed.notes, *notes), ranking)

    def _one(self, series: Series, lower: bool, at: Floats) -> Extrapolation:
        self._refuse(series, lower)
        points = Points.of(series, self.ceiling, lower)
        forms = fits(points, self._names(), polish=True)
        chosen = min(forms.values(), key=lambda form: form.aicc[0])
        if not np.isfinite(chosen.aicc[0]):
            raise DataError(
                f"{LAW}: no form can be fitted. {' '.join(_left_out(points, forms)) or 'There are too few points; add sizes or seeds.'}"
            )
        value = points.of_form(chosen.name, chosen.at(at)[0])
        low, high = self._interval(series, points, chosen, at)
        passed = [f"the law passes the ceiling {self.ceiling:g}; predictions are cut off there"]
        largest = float(series.sizes[-1])
        return Extrapolation(
            group=series.group,
            formula=chosen.formula(),
            parameters=chosen.parameters,
            predictions=tuple(
                Prediction(float(x), float(v), float(lo), float(hi), float(x) / largest, too_far(float(x), largest, self.reach))
                for x, v, lo, hi in zip(at, self._cut(value, lower), low, high)
            ),
            last=series.last,
            figures={"form": chosen.name, "residual": f"{100 * np.sqrt(np.mean(chosen.residuals**2)):.3g}%", **_criteria(forms)},
            notes=(*(passed if not lower and (value > self.ceiling).any() else []), *_left_out(points, forms)),
        )

    def _names(self) -> tuple[str, ...]:
        return () if self.form == "auto" else (self.form,)

    def _refuse(self, series: Series, lower: bool) -> None:
        means = series.means
        if not lower:
            refuse_infeasible(series, self.ceiling, LAW)
            if means[0] > NEAR_CEILING * self.ceiling:
                raise DataError(
                    f"{LAW}: the score at the smallest size, {means[0]:.4g} at {series.sizes[0]:g}, is above {NEAR_CEILING:g} of the ceiling "
                    f"{self.ceiling:g}: nothing is left to be seen growing; begin with fewer examples or a harder task"
                )
        gain = np.polyfit(np.log(series.sizes), means, 1)[0] * (-1 if lower else 1)
        if gain <= 0:
            raise DataError(
                f"{LAW}: scores do not get better with size ({means[0]:.4g} at {series.sizes[0]:g}, {means[-1]:.4g} at "
                f"{series.sizes[-1]:g}); there is no growth to extrapolate"
            )

    def _cut(self, values: Floats, lower: bool) -> Floats:
        return values if lower else np.clip(values, 0.0, self.ceiling)

    def _interval(self, series: Series, points: Points, chosen: Form, at: Floats) -> tuple[Floats, Floats]:
        rng, seeds = np.random.default_rng(self.seed), len(series.scores)
        drawn = redrawn(series, points, chosen, self.resamples, rng)
        forms = list(fits(drawn, self._names()).values())
        criteria = np.array([form.aicc for form in forms])
        best = np.where(np.isfinite(criteria.min(0)), criteria.argmin(0), -1)
        refits = np.array([drawn.of_form(form.name, form.at(at)) for form in forms])
        values = refits[best[best >= 0], np.flatnonzero(best >= 0)]
        centre = points.of_form(chosen.name, chosen.at(at))
        enlarged = centre + (values - centre) * (np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0)
        y = np.maximum(points.of_form(chosen.name, enlarged), 0.0) * np.exp(rng.choice(chosen.residuals, size=values.shape))
        low, high = np.quantile(points.of_form(chosen.name, y), [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], axis=0)
        return self._cut(low, points.lower), self._cut(high, points.lower)


def _criteria(forms: Mapping[str, Form]) -> dict[str, str]:
    ranked = sorted((float(form.aicc[0]), name) for name, form in forms.items())
    return {"AICc": ", ".join(f"{name} {value:.4g}" for value, name in ranked if np.isfinite(value))}


def _left_out(points: Points, forms: Mapping[str, Form]) -> list[str]:
    """Why forms were not fitted where a value has no logarithm."""
    found = []
    for name in forms:
        y = points.of_form(name)[0]
        if (y <= 0).any():
            at = points.sizes[int(np.nanargmin(y))]
            found.append(
                f"The form {name!r} is left out: what it fits is {np.nanmin(y):.4g} at size {at:g} and has no logarithm."
            )
    return found
