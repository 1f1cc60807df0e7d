"""Least-squares fits of A(x) = c - a x^(-b) with a >= 0 and b > 0, many curves at once, and the growing sequence of such fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whet.errors import DataError
from whet.forecast.observations import Floats, Series

EXPONENTS = (0.01, 10.0)
"""Range of b. Below it the curve cannot be told from a logarithm, above it from a step."""
_GRID, _ZOOM, _POINTS = 64, 14, 9


@dataclass(frozen=True)
class Trends:
    """Fits of R curves: A(x) = c - a (x / scale)^(-b); ``a``, ``b``, ``c``: [R]."""

    a: Floats
    b: Floats
    c: Floats
    scale: float

    def at(self, sizes: Floats) -> Floats:
        """A(x): [R, n] for sizes [n]; infinity gives the asymptote."""
        return self.c[:, None] - self.a[:, None] * (sizes / self.scale) ** -self.b[:, None]


def fit_trends(sizes: Floats, scores: Floats, anchor: Floats | None = None, *, zoom: int = _ZOOM) -> Trends:
    """Fits every row of scores; deterministic, and global over the range of b.

    For each b the best a and c are known in closed form, so that only b is searched: on a logarithmic grid, then between the
    neighbours of the best, each round a quarter as wide.

    Args:
        sizes: [n], positive; at least 3.
        scores: [R, n].
        anchor: [R], the value of one more observation of each curve at infinity; default none.
        zoom: rounds of the search; 14 find b to about 1e-9, 5 to about 1e-3.
    """
    scale = float(np.exp(np.log(sizes).mean()))
    x = sizes / scale
    if anchor is not None:
        x, scores = np.append(x, np.inf), np.column_stack([scores, anchor])
    width = np.log(EXPONENTS[1] / EXPONENTS[0]) / (_GRID - 1)
    grid = np.log(EXPONENTS[0]) + width * np.arange(_GRID)
    best = grid[np.argmin(_solve(x, scores, np.broadcast_to(grid, (len(scores), _GRID)))[2], axis=1)]
    for _ in range(zoom):
        points = np.clip(best[:, None] + width * np.linspace(-1, 1, _POINTS), np.log(EXPONENTS[0]), np.log(EXPONENTS[1]))
        best = points[np.arange(len(best)), np.argmin(_solve(x, scores, points)[2], axis=1)]
        width /= (_POINTS - 1) / 2
    a, c, _ = _solve(x, scores, best[:, None])
    return Trends(a[:, 0], np.exp(best), c[:, 0], scale)


def _solve(x: Floats, scores: Floats, log_b: Floats) -> tuple[Floats, Floats, Floats]:
    """The best a and c and the sum of squares for each b: [R, B] each. x: [n], scores: [R, n], log_b: [R, B]."""
    z = x ** -np.exp(log_b)[:, :, None]
    z_mean, y_mean = z.mean(2), scores.mean(1)[:, None]
    z_off, y_off = z - z_mean[:, :, None], (scores - y_mean.reshape(-1, 1))[:, None, :]
    a = np.maximum(-(z_off * y_off).sum(2) / np.maximum((z_off**2).sum(2), 1e-300), 0.0)
    return a, y_mean + a * z_mean, ((y_off + a[:, :, None] * z_off) ** 2).sum(2)


def replicates(series: Series, fitted: Floats, count: int, seed: int) -> Floats:
    """Curves that might have been observed instead: [count, n].

    With several seeds that all have every size, seeds are drawn with replacement and their mean is taken, its distance to the
    observed mean enlarged by sqrt(S / (S - 1)), since so few seeds vary too little. Else residuals about ``fitted`` [n] are
    drawn.
    """
    rng, means = np.random.default_rng(seed), series.means
    seeds = len(series.scores)
    if seeds > 1 and not np.isnan(series.scores).any():
        drawn = series.scores[rng.integers(seeds, size=(count, seeds))].mean(1)
        return np.asarray(means + np.sqrt(seeds / (seeds - 1)) * (drawn - means))
    return fitted + rng.choice(residuals(means, fitted), size=(count, len(means)))


def residuals(means: Floats, fitted: Floats, parameters: int = 3) -> Floats:
    """Centred residuals, enlarged for the parameters that were fitted to them."""
    off = means - fitted
    return np.asarray((off - off.mean()) * np.sqrt(len(off) / max(1, len(off) - parameters)))


def refuse_infeasible(series: Series, ceiling: float, law: str) -> None:
    """Raises ``DataError`` if a score lies above the largest that there can be."""
    highest = float(np.nanmax(series.scores))
    if highest > ceiling:
        raise DataError(
            f"{law}: a score of {highest:g} is above the ceiling {ceiling:g}; set ceiling (100 for scores in percent)"
        )
