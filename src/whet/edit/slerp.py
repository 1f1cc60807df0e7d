"""Interpolates between two models along the great circle of each tensor's direction.

Straight interpolation shortens the weights where the two directions differ; spherical interpolation does not. With w the
angle between the two flattened tensors a and b:

    θ = sin((1−t) w)/sin w · a + sin(t w)/sin w · b,   straight (1−t) a + t b where |cos w| > 0.9995

t = 0 is the first model, t = 1 the second. Give two models, or one model and the base, which then is the first. Two models
tuned from one start are nearly parallel, so most of their tensors fall under the straight rule; the receipt counts them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from whet.edit.job import MergeJob, names_of
from whet.edit.streaming import Slot, run_job
from whet.errors import ModelError
from whet.parts import effective


@dataclass(frozen=True)
class Slerp:
    """Spherical interpolation of two models.

    Args:
        t: share of the way from the first to the second model.
        straight_above: absolute cosine above which a tensor is interpolated straight.
    """

    t: Annotated[float, Ge(0), Le(1)] = 0.5
    straight_above: Annotated[float, Gt(0), Le(1)] = 0.9995

    def __call__(self, merge: MergeJob) -> dict[str, Any]:
        if merge.weights is not None:
            raise ModelError("slerp has no weights: set t, the share of the way from the first to the second model")
        if len(merge.models) == 1 and merge.base is not None:
            merge = replace(merge, models=[merge.base, *merge.models], base=None)
        if len(merge.models) != 2:
            raise ModelError(f"slerp interpolates between two models, got {len(merge.models)}; soup averages any number")
        straight: list[str] = []

        def combine(slot: Slot) -> Tensor:
            first, second = slot.tensor(0), slot.tensor(1)
            angle = self._angle(first, second)
            if angle is None:
                straight.append(slot.name)
                return first.mul_(1 - self.t).add_(second, alpha=self.t)
            shares = math.sin((1 - self.t) * angle) / math.sin(angle), math.sin(self.t * angle) / math.sin(angle)
            return first.mul_(shares[0]).add_(second, alpha=shares[1])

        one, two = names_of(merge)
        formula = f"θ = sin({1 - self.t:.6g}w)/sin(w)·θ[{one}] + sin({self.t:.6g}w)/sin(w)·θ[{two}], w the angle per tensor"
        weights = [1 - self.t, self.t]
        return run_job(merge, combine, effective(self), formula, weights, lambda: {"tensors_straight": len(straight)})

    def _angle(self, first: Tensor, second: Tensor) -> float | None:
        """Angle between two tensors in radians; ``None`` where they are too parallel, or zero."""
        norms = float(torch.linalg.vector_norm(first)) * float(torch.linalg.vector_norm(second))
        if norms == 0:
            return None
        cosine = float(torch.dot(first.flatten(), second.flatten())) / norms
        return None if abs(cosine) > self.straight_above else math.acos(cosine)
