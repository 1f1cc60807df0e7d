"""One random subset of the rows, drawn once and used in every epoch (in a new order each).

The plain comparator of data selection: floor(ratio * size) rows, chosen by the seed alone.

Default: ratio 0.1.

Paper: rs2 — Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray

from whet.data.order import permutation, subset_size


def static_subset(size: int, epoch: int, seed: int, *, ratio: Annotated[float, Gt(0), Le(1)] = 0.1) -> NDArray[np.int64]:
    """Unit indices of this epoch: int64 [floor(ratio * size)], the same set in every epoch.

    Raises:
        RecipeError: less than one row per epoch.
    """
    chosen = permutation(size, 0, seed)[: subset_size(size, ratio)]
    return chosen[permutation(len(chosen), epoch, seed)]
