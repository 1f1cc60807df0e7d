"""A new random subset of the rows in every (short) epoch.

Instead of choosing one clever subset, each epoch draws k = floor(ratio * size) rows anew. Over the run the model sees
everything, selection costs nothing, and the number of updates is that of training on a fixed subset: the baseline that a
selection method must beat. Let the learning-rate schedule span the short run.

``replacement`` is about different epochs; inside one no row repeats. With it, epochs are independent draws. Without it, rows
come in passes: all rows in one random order, cut into consecutive blocks of k; a last block that is too short is filled
up from the next pass with rows that it does not hold yet, and that pass goes on with the others, so that each row comes
exactly once per pass. Without replacement this is ordinary training with fewer epochs; ratio 1 is ``shuffle`` in both forms.

Defaults: ratio 0.1 (the paper uses 0.01 to 0.3), with replacement (as in the paper's main results).

Paper: rs2 — Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray

from whet.data.order import permutation, subset_size


def rs2(
    size: int, epoch: int, seed: int, *, ratio: Annotated[float, Gt(0), Le(1)] = 0.1, replacement: bool = True
) -> NDArray[np.int64]:
    """Unit indices of this epoch: int64 [floor(ratio * size)], all different.

    Raises:
        RecipeError: less than one row per epoch.
    """
    block = subset_size(size, ratio)
    if replacement:
        return permutation(size, epoch, seed)[:block]
    end = (epoch + 1) * block
    stream = np.empty(0, np.int64)
    # Each pass depends on how the one before ended, so they are walked through from the first.
    for number in range((end + size - 1) // size):
        begun = stream[len(stream) - len(stream) % block :]
        stream = np.concatenate([stream, _pass(permutation(size, number, seed), begun, block)])
    return stream[end - block : end]


def _pass(order: NDArray[np.int64], begun: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """``order`` with the rows moved to the front that complete the block ``begun``, which hold none of its rows."""
    if not len(begun):
        return order
    head = order[~np.isin(order, begun)][: block - len(begun)]
    return np.concatenate([head, order[~np.isin(order, head)]])
