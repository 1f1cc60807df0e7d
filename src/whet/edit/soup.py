"""Averages the weights of several models: all of them, or those that help on held-out data.

Models fine-tuned from one start with different settings often lie in one basin of low error, where averaging their weights
works like an ensemble at the cost of one model.

    uniform  θ = Σ_i w_i θ_i, w_i = 1/n, or the given weights divided by their sum
    greedy   sort by held-out score, descending; start with the best; for each next model i:
             candidate = (n·soup + θ_i)/(n+1); keep it if the score is not worse (>=, as in the paper)

A greedy soup never scores below its best ingredient on the held-out data; that data must not be the test data. Ties in
the sorting keep the given order. Integer buffers are copied from the base if there is one, else from the first (greedy: the
best) ingredient. ``weights`` belong to the uniform soup only.

Paper: model-soups — Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from whet.edit.deltas import terms
from whet.edit.job import MergeJob, names_of, score_candidate, weights_of
from whet.edit.streaming import Slot, run_job
from whet.errors import ModelError
from whet.parts import effective

PRESETS = {
    "soup-uniform": {"about": "The mean of all models' weights", "mode": "uniform"},
    "soup-greedy": {"about": "The mean of those models whose addition does not lower a held-out score", "mode": "greedy"},
}


@dataclass(frozen=True)
class Soup:
    """Uniform or greedy average.

    Args:
        mode: ``uniform``, or ``greedy``, which needs the job's scorer.
        normalize: divide the given weights by their sum; ``False`` takes them as they are.
    """

    mode: Literal["uniform", "greedy"] = "uniform"
    normalize: bool = True

    @property
    def needs(self) -> frozenset[str]:
        """``score`` for a greedy soup: the held-out task that it selects with."""
        return frozenset({"score"}) if self.mode == "greedy" else frozenset()

    def __call__(self, merge: MergeJob) -> dict[str, Any]:
        if not merge.models:
            raise ModelError("nothing to merge: give at least one model")
        if self.mode == "uniform":
            weights = weights_of(merge, 1.0)
            return self._average(merge, _normalized(weights) if self.normalize else weights)
        if merge.weights is not None:
            raise ModelError("a greedy soup chooses its ingredients itself: leave out weights, or take mode: uniform")
        return self._greedy(merge)

    def _average(self, merge: MergeJob, weights: Sequence[float], extra: dict[str, Any] | None = None) -> dict[str, Any]:
        names = names_of(merge)
        # Floating sums depend on their order: adding by name makes the soup independent of the order of its ingredients.
        order = sorted(range(len(names)), key=lambda i: (names[i], str(merge.models[i])))

        def combine(slot: Slot) -> Tensor:
            total = slot.tensor(order[0]).mul_(weights[order[0]])
            for i in order[1:]:
                total.add_(slot.tensor(i), alpha=weights[i])
            return total

        formula = "θ = " + terms(names, weights, "θ[{}]")
        return run_job(merge, combine, effective(self), formula, weights, lambda: extra or {}, elementwise=True)

    def _greedy(self, merge: MergeJob) -> dict[str, Any]:
        names = names_of(merge)
        singles = [score_candidate(merge, Path(m)) for m in merge.models]
        order = sorted(range(len(singles)), key=lambda i: -singles[i])
        kept, best = order[:1], singles[order[0]]
        steps = [{"model": names[order[0]], "single": best, "soup": best, "kept": True}]
        work = Path(tempfile.mkdtemp(prefix=f".{merge.output.name}.greedy.", dir=_parent(merge.output)))
        try:
            for i in order[1:]:
                candidate = replace(_only(merge, [*kept, i]), output=work / "candidate")
                self._average(candidate, [1 / (len(kept) + 1)] * (len(kept) + 1))
                score = score_candidate(merge, candidate.output)
                shutil.rmtree(candidate.output)
                keep = score >= best
                steps.append({"model": names[i], "single": singles[i], "soup": score, "kept": keep})
                if keep:
                    kept, best = [*kept, i], score
        finally:
            shutil.rmtree(work, ignore_errors=True)
        ingredients = [names[i] for i in kept]
        extra = {"greedy": steps, "score": best, "best_single": singles[order[0]], "ingredients": ingredients}
        return self._average(_only(merge, kept), [1 / len(kept)] * len(kept), extra)


def _only(merge: MergeJob, chosen: Sequence[int]) -> MergeJob:
    return replace(merge, models=[merge.models[i] for i in chosen])


def _normalized(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    if abs(total) < 1e-12:
        raise ModelError(f"weights {list(weights)} sum to 0 and cannot be normalized; change them or set normalize: false")
    return [w / total for w in weights]


def _parent(output: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.parent
