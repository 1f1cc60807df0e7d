"""Power laws fitted in logarithms: performance a n^b, error k n^(-b), and error with a floor, compared by AICc.

Many sets of points are fitted at once: a draw of a bootstrap is one row. In log y = log k + log(r + x^(-b)) with x = n /
scale, the best k is known in closed form, so that only b and r = floor / k are searched, on a grid and then ever closer around
the best.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from whet.forecast.observations import Floats, Series

PERFORMANCE, ERROR, FLOOR = "performance", "error", "error with floor"
PARAMETERS = {PERFORMANCE: 2, ERROR: 2, FLOOR: 3}
EXACT = 1e-10
"""Residuals of this share count as none, so that rounding does not choose between forms that both fit exactly."""
LOG_B, LOG_R = (np.log(0.02), np.log(5.0)), (-8.0, 5.0)
_GRID, _ZOOM = 28, 16


@dataclass(frozen=True)
class Form:
    """A form fitted to R sets of points: y(n) = floor + k n^p, with p = b for performance and -b for errors. All arrays are [R].
    ``aicc`` is on the scores' own scale, infinite where the form cannot be fitted. ``off``: residuals of log y, [R, m].
    """

    name: str
    k: Floats
    p: Floats
    floor: Floats
    aicc: Floats
    off: Floats

    @property
    def parameters(self) -> dict[str, float]:
        """Of the first set: a and b of performance; k, b and the floor of an error."""
        if self.name == PERFORMANCE:
            return {"a": float(self.k[0]), "b": float(self.p[0])}
        return {"k": float(self.k[0]), "b": -float(self.p[0]), **({"floor": float(self.floor[0])} if self.name == FLOOR else {})}

    @property
    def residuals(self) -> Floats:
        """Residuals of the first set, enlarged for the parameters that were fitted to them: [m]."""
        off = self.off[0][~np.isnan(self.off[0])]
        return np.asarray(off * np.sqrt(len(off) / max(1, len(off) - PARAMETERS[self.name])))

    def at(self, sizes: Floats) -> Floats:
        """y at sizes [n]: [R, n]."""
        return np.asarray(self.floor[:, None] + self.k[:, None] * sizes ** self.p[:, None])

    def formula(self) -> str:
        """The law of the first set with its numbers."""
        left, floor = ("P(n)", "") if self.name == PERFORMANCE else ("E(n)", f"{self.floor[0]:.4g} + ")
        return f"{left} = {floor if self.name == FLOOR else ''}{self.k[0]:.4g} n^{self.p[0]:.4g}"


@dataclass(frozen=True)
class Points:
    """R sets of scores ``scores`` [R, m] at ``sizes`` [m]; NaN where there is none. ``ceiling`` turns a score into an error;
    ``lower`` says that a score is an error already.
    """

    sizes: Floats
    scores: Floats
    ceiling: float
    lower: bool

    @classmethod
    def of(cls, series: Series, ceiling: float, lower: bool) -> Points:
        """All scores of a series as one set."""
        sizes = np.broadcast_to(series.sizes, series.scores.shape)
        return cls(sizes.ravel(), series.scores.reshape(1, -1), ceiling, lower)

    def of_form(self, name: str, scores: Floats | None = None) -> Floats:
        """What a form fits, a score or its error; the same turns it back."""
        values = self.scores if scores is None else scores
        return values if name == PERFORMANCE or self.lower else np.asarray(self.ceiling - values)

    def allowed(self) -> tuple[str, ...]:
        """The forms that these points can have: of a loss, the errors."""
        return (ERROR, FLOOR) if self.lower else (PERFORMANCE, ERROR, FLOOR)


def redrawn(series: Series, points: Points, form: Form, count: int, rng: np.random.Generator) -> Points:
    """Sets that might have been observed instead: seeds drawn with replacement, or of one seed the form's residuals."""
    seeds = len(series.scores)
    if seeds > 1:
        scores = series.scores[rng.integers(seeds, size=(count, seeds))].reshape(count, -1)
    else:
        y = form.at(points.sizes) * np.exp(rng.choice(form.residuals, size=(count, len(points.sizes))))
        scores = points.of_form(form.name, y)
    return Points(points.sizes, scores, points.ceiling, points.lower)


def fits(points: Points, names: Collection[str] = (), *, polish: bool = False) -> dict[str, Form]:
    """The forms fitted to every set of points, by name.

    Args:
        points: R sets.
        names: the forms wanted; default all that the points allow.
        polish: find the floor of the first set to the last digits.
    """
    found = {}
    for name in names or points.allowed():
        y = points.of_form(name)
        count = (~np.isnan(y)).sum(1)
        usable = ~(y <= 0).any(1) & (count > PARAMETERS[name] + 2)
        logs = np.log(np.where(usable[:, None], np.where(y > 0, y, np.nan), 1.0))
        k, p, floor = (
            _floored(points.sizes, logs, polish) if name == FLOOR else (*_straight(points.sizes, logs), np.zeros(len(y)))
        )
        usable &= p * (1 if name == PERFORMANCE else -1) > 0
        off = logs - np.log(floor[:, None] + k[:, None] * points.sizes ** p[:, None])
        found[name] = Form(name, k, p, floor, np.where(usable, _aicc(logs, off, PARAMETERS[name] + 1), np.inf), off)
    return found


def _aicc(logs: Floats, off: Floats, parameters: int) -> Floats:
    """AICc of the scores' own scale: the density of log y carried over by sum(log y). logs, off: [R, m] -> [R]."""
    count = (~np.isnan(logs)).sum(1)
    variance = np.maximum(np.nanmean(off**2, axis=1), EXACT**2)
    penalty = 2 * parameters + 2 * parameters * (parameters + 1) / np.maximum(count - parameters - 1, 1e-9)
    return np.asarray(count * np.log(variance) + 2 * np.nansum(logs, axis=1) + penalty)


def _straight(sizes: Floats, logs: Floats) -> tuple[Floats, Floats]:
    """k and p of log y = log k + p log n, for every row of logs."""
    x = np.where(np.isnan(logs), np.nan, np.log(sizes))
    x_mean, y_mean = np.nanmean(x, axis=1), np.nanmean(logs, axis=1)
    x_off = x - x_mean[:, None]
    p = np.nansum(x_off * (logs - y_mean[:, None]), axis=1) / np.nansum(x_off**2, axis=1)
    return np.exp(y_mean - p * x_mean), p


def _floored(sizes: Floats, logs: Floats, polish: bool) -> tuple[Floats, Floats, Floats]:
    """k, p and the floor of log y = log(floor + k n^p), for every row of logs."""
    scale = float(np.exp(np.log(sizes).mean()))
    x, there = np.log(sizes / scale), (~np.isnan(logs)).astype(np.float64)
    y = np.nan_to_num(logs)
    b, r = (axis.ravel() for axis in np.meshgrid(np.linspace(*LOG_B, _GRID), np.linspace(*LOG_R, _GRID)))
    h = _shape(b, r, x)
    # The sum of squares about the best k, written out so that all rows and grid points are three products of matrices.
    squares = -2 * y @ h.T + there @ (h**2).T - (y.sum(1)[:, None] - there @ h.T) ** 2 / there.sum(1)[:, None]
    first = np.argmin(squares, axis=1)
    best = np.column_stack([b[first], r[first]])
    step = np.array([(LOG_B[1] - LOG_B[0]) / (_GRID - 1), (LOG_R[1] - LOG_R[0]) / (_GRID - 1)])
    around = np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3)]) / 2
    for _ in range(_ZOOM):
        tried = np.clip(best[:, None] + step * around, [LOG_B[0], LOG_R[0]], [LOG_B[1], LOG_R[1]])
        off = (y[:, None] - _shape(tried[..., 0], tried[..., 1], x)) * there[:, None]
        spread = (off**2).sum(2) - off.sum(2) ** 2 / there.sum(1)[:, None]
        best = tried[np.arange(len(best)), np.argmin(spread, axis=1)]
        step = step * 0.6
    if polish:
        best[0] = _polished(best[0], x[there[0] > 0], y[0][there[0] > 0])
    log_k = ((y - _shape(best[:, 0], best[:, 1], x)) * there).sum(1) / there.sum(1)
    p = -np.exp(best[:, 0])
    return np.exp(log_k) * scale**-p, p, np.exp(log_k + best[:, 1])


def _shape(log_b: Floats, log_r: Floats, x: Floats) -> Floats:
    """log(r + x^(-b)) for x given as logarithms: [..., m]."""
    return np.asarray(np.logaddexp(log_r[..., None], -np.exp(log_b)[..., None] * x))


def _polished(start: Floats, x: Floats, y: Floats) -> Floats:
    def off(t: Floats) -> Floats:
        found = y - _shape(t[:1], t[1:], x)[0]
        return np.asarray(found - found.mean())

    fit = least_squares(
        off, start, bounds=([LOG_B[0], LOG_R[0]], [LOG_B[1], LOG_R[1]]), xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=300
    )
    return np.asarray(fit.x if fit.cost <= 0.5 * float((off(start) ** 2).sum()) else start)
