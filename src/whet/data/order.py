"""Random orders that depend on their arguments alone, so that a resumed run draws what an undisturbed one draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from whet.errors import RecipeError


def permutation(size: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """A uniform random order of ``range(size)``: int64 [size], a pure function of its arguments (all >= 0)."""
    return np.random.default_rng([seed, epoch]).permutation(size).astype(np.int64, copy=False)


def subset_size(size: int, ratio: float) -> int:
    """``floor(ratio * size)``.

    Raises:
        RecipeError: ``ratio`` is outside (0, 1], or no row would be left.
    """
    if not 0 < ratio <= 1:
        raise RecipeError(f"ratio {ratio}: the share of rows in an epoch must lie in (0, 1]")
    # The product of a decimal ratio may fall just short of the whole number that is meant (0.29 * 100 = 28.999...).
    count = int(np.floor(ratio * size + 1e-9))
    if count < 1:
        raise RecipeError(f"ratio {ratio} of {size} rows is less than one row; use at least {1 / max(size, 1):.2g}")
    return count
