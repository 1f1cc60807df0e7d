"""Every row once per epoch, in a new random order each epoch.

The order is a pure function of (size, epoch, seed), never of what was drawn before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from whet.data.order import permutation


def shuffle(size: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """Unit indices of this epoch: int64 [size]."""
    return permutation(size, epoch, seed)
