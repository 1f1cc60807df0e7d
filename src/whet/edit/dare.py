"""Drops random entries of the task vectors and rescales the rest before merging (DARE).

Most entries of a fine-tuning update are redundant: dropping a share 1 − density at random and dividing the rest by density
leaves the expected update unchanged, and makes several updates collide less when they are added.

    d_i = w_i · mask_i ∘ (θ_i − θ_base) / density,  mask ~ Bernoulli(density)
    linear: θ = θ_base + coefficient · Σ_i d_i;   ties: only the d_i of the elected sign, summed

The mask of a tensor comes from (seed, number of the model, tensor name): the same whatever the sharding or the order of work.
Default density 0.5 (our choice; the method's paper drops up to 0.9 of updates from supervised tuning), weights 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Gt, Le
from torch import Tensor

from whet.edit.deltas import drop_random, elected_delta, linear_delta, terms
from whet.edit.job import MergeJob, names_of, need_base, weights_of
from whet.edit.streaming import Slot, run_job
from whet.parts import effective

PRESETS = {
    "dare-linear": {"about": "Random drop and rescale of task vectors, then their sum", "combine": "linear"},
    "dare-ties": {"about": "Random drop and rescale of task vectors, then sign election", "combine": "ties"},
}


@dataclass(frozen=True)
class Dare:
    """Drop and rescale.

    Args:
        density: share of entries that is kept.
        combine: ``linear`` sums the changes, ``ties`` sums those of the elected sign.
        rescale: divide by ``density``, which keeps the expected change.
        coefficient: scale of the merged change.
        seed: of the masks.
    """

    density: Annotated[float, Gt(0), Le(1)] = 0.5
    combine: Literal["linear", "ties"] = "linear"
    rescale: bool = True
    coefficient: float = 1.0
    seed: int = 0

    def __call__(self, merge: MergeJob) -> dict[str, Any]:
        need_base(merge, "dare")
        weights, drop = weights_of(merge, 1.0), drop_random(self.density, self.seed, self.rescale)

        def combine(slot: Slot) -> Tensor:
            base = slot.base
            if self.combine == "linear":
                delta = linear_delta(slot, base, weights, drop)
            else:
                delta = elected_delta(slot, base, weights, drop, mean=False)
            return delta.mul_(self.coefficient).add_(base)

        scale = f"/{self.density:.6g}" if self.rescale and self.density < 1 else ""
        inner = terms(names_of(merge), weights, f"mask∘(θ[{{}}] − θ_base){scale}")
        how = "" if self.combine == "linear" else "sum over agreeing signs of "
        formula = f"θ = θ_base + {self.coefficient:.6g}·{how}[{inner}], mask keeps {self.density:.6g}, seed {self.seed}"
        return run_job(merge, combine, effective(self), formula, weights)
