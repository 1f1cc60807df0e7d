"""Learning-rate schedules as pure functions of the share of training that is done."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "wsd", "constant", "linear"]

DECAY_SHARE = 0.2
"""Last share of training over which ``wsd`` decays (MiniCPM uses 0.1, later work 0.2)."""


def factor(schedule: Schedule, step: int, steps: int, warmup: float = 0.0, final: float = 0.0) -> float:
    """What the peak learning rate is multiplied with at step ``step`` of ``steps`` (counted from 0).

    Args:
        schedule: ``cosine``, ``linear`` (both from 1 to ``final``), ``wsd`` (constant, then linear to ``final`` over the
            last fifth) or ``constant``.
        step, steps: position in training.
        warmup: share of training over which the factor rises linearly; the first step is above 0.
        final: factor at the end.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1, steps - rising)
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        begin = 1.0 - DECAY_SHARE * steps / max(1, steps - rising)
        done = max(0.0, (done - begin) / max(1e-9, 1.0 - begin))
    shape = (1.0 + math.cos(math.pi * done)) / 2.0 if schedule == "cosine" else 1.0 - done
    return final + (1.0 - final) * shape
