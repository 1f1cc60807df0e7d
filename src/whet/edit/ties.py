"""Merges task vectors after trimming small changes and settling disagreements of sign (TIES).

Redundant small changes and opposite signs make summed task vectors cancel. Per tensor: keep each model's largest changes
(share ``density``), elect per entry the sign with the larger weighted sum, combine only the changes of that sign.

    d_i = w_i · trim(θ_i − θ_base);  s = sign(Σ_i d_i);  θ = θ_base + coefficient · Σ_{i: sign d_i = s} d_i / Σ_{same i} w_i

``merge: sum`` leaves out the division (what layer scaling builds on). Trimming is per tensor, not over the whole model, so
that one tensor at a time suffices; entries that tie with the smallest kept one are kept too. Defaults: density 0.2 and
coefficient 1 as in the method's paper, weights 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Gt, Le
from torch import Tensor

from whet.edit.deltas import elected_delta, keep_largest, terms
from whet.edit.job import MergeJob, names_of, need_base, weights_of
from whet.edit.streaming import Slot, run_job
from whet.parts import effective


@dataclass(frozen=True)
class Ties:
    """Trim, elect sign, disjoint merge.

    Args:
        density: share of each task vector's entries that is kept, per tensor.
        merge: ``mean`` over the models that agree, or their ``sum``.
        coefficient: scale of the merged change.
    """

    density: Annotated[float, Gt(0), Le(1)] = 0.2
    merge: Literal["mean", "sum"] = "mean"
    coefficient: float = 1.0

    def __call__(self, merge: MergeJob) -> dict[str, Any]:
        need_base(merge, "ties")
        weights, trim = weights_of(merge, 1.0), keep_largest(self.density)

        def combine(slot: Slot) -> Tensor:
            base = slot.base
            return elected_delta(slot, base, weights, trim, mean=self.merge == "mean").mul_(self.coefficient).add_(base)

        inner = terms(names_of(merge), weights, "trim(θ[{}] − θ_base)")
        formula = (
            f"θ = θ_base + {self.coefficient:.6g}·{self.merge} over agreeing signs of [{inner}], trim keeps {self.density:.6g}"
        )
        return run_job(merge, combine, effective(self), formula, weights)
