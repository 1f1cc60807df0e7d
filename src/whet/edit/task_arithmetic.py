"""Adds the models' changes to their common ancestor: base plus a coefficient times the sum of task vectors.

A task vector is what fine-tuning added to the weights. Adding several gives a model of several skills; a negative weight
takes a skill away.

    θ = θ_base + coefficient · Σ_i w_i (θ_i − θ_base)

Weights are 1 unless given (with ``normalize`` they are divided by their sum, so that coefficient 1 is the plain average).
The coefficient is usually tuned on held-out data between 0.05 and 1; 1/number of models is the average. One model with
coefficient 1 is that model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from whet.edit.deltas import linear_delta, terms
from whet.edit.job import MergeJob, names_of, need_base, weights_of
from whet.edit.streaming import Slot, run_job
from whet.errors import ModelError
from whet.parts import effective


@dataclass(frozen=True)
class TaskArithmetic:
    """Base plus scaled sum of task vectors.

    Args:
        coefficient: scale of the summed change; negative removes.
        normalize: divide the weights by their sum.
    """

    coefficient: float = 1.0
    normalize: bool = False

    def __call__(self, merge: MergeJob) -> dict[str, Any]:
        need_base(merge, "task-arithmetic")
        weights = weights_of(merge, 1.0)
        total = sum(weights) if self.normalize else 1.0
        if abs(total) < 1e-12:
            raise ModelError(f"weights {weights} sum to 0 and cannot be normalized; change them or set normalize: false")
        effective_weights = [self.coefficient * w / total for w in weights]

        def combine(slot: Slot) -> Tensor:
            base = slot.base
            return linear_delta(slot, base, effective_weights).add_(base)

        formula = "θ = θ_base + " + terms(names_of(merge), effective_weights)
        return run_job(merge, combine, effective(self), formula, effective_weights, elementwise=True)
