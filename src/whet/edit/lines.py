"""Scales a model's change from its ancestor by depth, so that shallow layers stay general (LiNeS).

Fine-tuning's updates of shallow layers mostly hurt general features, those of deep layers carry the task. Multiplying the
update by a factor that grows linearly with depth keeps both.

    θ = θ_base + (α + β·l/(L−1)) · τ   in residual block l of L (from 0);   factor α outside the blocks

One model: τ = θ_1 − θ_base, β = 1 − α unless given; α = 1, β = 0 is the model, α = β = 0 the base. Several models: τ is their
weighted sum (``merge: sum``) or their TIES sum (``merge: ties``), and α = (‖Σ_i τ_i‖₁ / ‖τ‖₁) / number of models unless given.
What is left open (α for one model, β for several) is searched on a grid with the job's scorer: α in 0, 0.1, .. 1; β in
0.05, 0.1, .. 1; the highest score wins, the smaller number on a tie. The paper scores (2·target + control)/3, each relative
to the fine-tuned and the base model. Always compare with constant scaling (``wise-ft``), which small models like as well.

Paper: lines — LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt, Le
from torch import Tensor

from whet.edit.blocks import block_indices
from whet.edit.deltas import elected_delta, keep_largest, linear_delta, terms
from whet.edit.job import MergeJob, names_of, need_base, score_candidate, weights_of
from whet.edit.streaming import Slot, open_models, run_job, slots
from whet.errors import ModelError
from whet.parts import effective

PRESETS = {
    "wise-ft": {
        "about": "Straight interpolation between base and fine-tuned model: layer scaling with one constant",
        "alpha": 0.5,
        "beta": 0.0,
    },
}


@dataclass(frozen=True)
class Lines:
    """Layer scaling.

    Args:
        alpha: factor of the first block and of everything outside the blocks.
        beta: what is added up to the last block.
        merge: how several models' changes become one.
        density: share of entries that ``ties`` keeps.
        blocks: name of the block container; default: found from the tensor names.
    """

    alpha: float | None = None
    beta: float | None = None
    merge: Literal["sum", "ties"] = "sum"
    density: Annotated[float, Gt(0), Le(1)] = 0.2
    blocks: str | None = None

    def __call__(self, merge: MergeJob) -> dict[str, Any]:
        need_base(merge, "lines")
        single = len(merge.models) == 1
        if single and self.alpha is None:
            return self._search(merge, [(i / 10, 1 - i / 10 if self.beta is None else self.beta) for i in range(11)])
        alpha = self._balanced_alpha(merge) if self.alpha is None else self.alpha
        if not single and self.beta is None:
            return self._search(merge, [(alpha, i / 20) for i in range(1, 21)])
        return self._scaled(merge, alpha, 1 - alpha if self.beta is None else self.beta)

    def _delta(self, slot: Slot, base: Tensor, weights: Sequence[float]) -> Tensor:
        if self.merge == "ties":
            return elected_delta(slot, base, weights, keep_largest(self.density), mean=False)
        return linear_delta(slot, base, weights)

    def _balanced_alpha(self, merge: MergeJob) -> float:
        weights, plain, merged = weights_of(merge, 1.0), 0.0, 0.0
        for slot in slots(*open_models(merge)):
            base = slot.base
            plain += float(linear_delta(slot, base, weights).abs_().sum())
            merged += float(self._delta(slot, base, weights).abs_().sum())
        return plain / merged / len(merge.models) if merged else 1.0 / len(merge.models)

    def _scaled(self, merge: MergeJob, alpha: float, beta: float, extra: dict[str, Any] | None = None) -> dict[str, Any]:
        checkpoints, ancestor = open_models(merge)
        container, block_of, count = block_indices(ancestor or [], self.blocks, checkpoints[0].config)
        weights = weights_of(merge, 1.0)

        def combine(slot: Slot) -> Tensor:
            base, block = slot.base, block_of.get(slot.name)
            factor = alpha if block is None else alpha + beta * block / (count - 1)
            return self._delta(slot, base, weights).mul_(factor).add_(base)

        change = terms(names_of(merge), weights)
        if self.merge == "ties":
            change = f"sum over agreeing signs of [{change}], keeping {self.density:.6g}"
        formula = f"θ = θ_base + ({alpha:.6g} + {beta:.6g}·l/{count - 1})·[{change}], {alpha:.6g} outside {container}"
        factors = [alpha + beta * block / (count - 1) for block in range(count)]
        more = {"blocks": container, "factors": factors, "factor_outside": alpha, **(extra or {})}
        settings = {**effective(self), "alpha": alpha, "beta": beta}
        return run_job(merge, combine, settings, formula, weights, lambda: more, elementwise=self.merge == "sum")

    def _search(self, merge: MergeJob, grid: Sequence[tuple[float, float]]) -> dict[str, Any]:
        if merge.scorer is None:
            missing = "alpha (0 keeps the first block's base weights, 1 its tuned ones)" if len(merge.models) == 1 else "beta"
            raise ModelError(f"lines: give {missing}, or a scorer to search it with (in a recipe: score, a held-out task)")
        merge.output.parent.mkdir(parents=True, exist_ok=True)
        tried = []
        with tempfile.TemporaryDirectory(prefix=f".{merge.output.name}.search.", dir=merge.output.parent) as work:
            for alpha, beta in grid:
                candidate = replace(merge, output=Path(work) / "candidate")
                self._scaled(candidate, alpha, beta)
                tried.append({"alpha": alpha, "beta": beta, "score": score_candidate(merge, candidate.output)})
                shutil.rmtree(candidate.output)
        best = max(tried, key=lambda t: t["score"])
        return self._scaled(merge, best["alpha"], best["beta"], {"search": tried, "score": best["score"]})
