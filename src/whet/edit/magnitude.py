"""Sets the weights of smallest magnitude to zero (magnitude pruning).

In every linear layer of the residual blocks the share ``sparsity`` of the weights with the smallest absolute value becomes 0;
embeddings, head, norms and biases stay. With a pattern ``N:M`` only the N largest of every M neighbours along the input stay
(2:4 is what accelerators run faster), which fixes the sparsity at 1 - N/M.

    W'_ij = W_ij if |W_ij| is among the (1 - sparsity)·n largest of its tensor (of its row with scope: row), else 0

It needs no data and is the baseline that every pruning method is measured against. Ties are cut in index order, so the share is
exact. Pruning twice at the same sparsity changes nothing. Default sparsity 0.5. GPT-2, whose weights are stored [in, out], is pruned
as if they were [out, in].
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from whet.edit.blocks import block_indices
from whet.edit.job import MergeJob, names_of
from whet.edit.streaming import Slot, open_models, run_job
from whet.errors import ModelError, RecipeError
from whet.parts import effective

TRANSPOSED = ("gpt2", "openai-gpt")
"""Model types whose linear layers store their weights [in, out]."""


@dataclass(frozen=True)
class Magnitude:
    """Magnitude pruning of one model.

    Args:
        sparsity: share of the weights that becomes 0; not with an ``N:M`` pattern.
        pattern: ``unstructured``, or ``N:M`` such as ``2:4``: N of every M stay.
        scope: what is ranked together where unstructured: a whole ``tensor``, or each ``row`` (output) by itself.
        blocks: name of the block container; default: found from the tensor names.
    """

    sparsity: Annotated[float, Gt(0), Lt(1)] = 0.5
    pattern: str = "unstructured"
    scope: Literal["tensor", "row"] = "tensor"
    blocks: str | None = None

    def __post_init__(self) -> None:
        if self.pattern != "unstructured":
            kept, size = self._ratio()
            if self.sparsity not in (0.5, 1 - kept / size):
                raise RecipeError(
                    f"sparsity {self.sparsity}: the pattern {self.pattern} fixes it at {1 - kept / size:g}; leave it out"
                )

    def __call__(self, merge: MergeJob) -> dict[str, Any]:
        if len(merge.models) != 1:
            raise ModelError(f"magnitude prunes one model, got {len(merge.models)}: {', '.join(names_of(merge))}")
        checkpoints, _ = open_models(merge)
        _, block_of, _ = block_indices(checkpoints[0], self.blocks, checkpoints[0].config)
        transposed = checkpoints[0].config.get("model_type") in TRANSPOSED
        zeros, entries = 0, 0

        def prune(slot: Slot) -> Tensor:
            nonlocal zeros, entries
            weight = slot.tensor(0)
            if slot.name not in block_of or weight.dim() != 2:
                return weight
            kept = self.kept(weight.T, slot.name).T if transposed else self.kept(weight, slot.name)
            pruned = torch.where(kept, weight, 0.0)
            zeros, entries = zeros + int((pruned == 0).sum()), entries + pruned.numel()
            return pruned

        share = self.pattern if self.pattern != "unstructured" else f"{self.sparsity:g} of each {self.scope}"
        return run_job(
            merge,
            prune,
            effective(self),
            f"{names_of(merge)[0]} with its smallest weights set to 0 ({share})",
            [1.0],
            lambda: {"sparsity": zeros / max(1, entries), "pruned_weights": zeros, "prunable_weights": entries},
        )

    def kept(self, weight: Tensor, name: str = "weight") -> Tensor:
        """Which entries of a weight [out, in] stay: bool [out, in].

        Raises:
            ModelError: the input size is no multiple of the pattern's M.
        """
        if self.pattern != "unstructured":
            kept, size = self._ratio()
            if weight.shape[1] % size:
                raise ModelError(
                    f"tensor {name!r}: its {weight.shape[1]} inputs are no multiple of {size}, as {self.pattern} needs"
                )
            return _largest(weight.reshape(-1, size), kept).reshape(weight.shape)
        groups = weight if self.scope == "row" else weight.reshape(1, -1)
        return _largest(groups, groups.shape[1] - round(self.sparsity * groups.shape[1])).reshape(weight.shape)

    def _ratio(self) -> tuple[int, int]:
        """N and M of the pattern."""
        found = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        kept, size = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 0 < kept < size:
            raise RecipeError(f"pattern {self.pattern!r}: expected 'unstructured', or N:M with 0 < N < M, such as '2:4'")
        return kept, size


def _largest(groups: Tensor, count: int) -> Tensor:
    """Which ``count`` entries of each row have the largest magnitude; of equal ones the first."""
    order = groups.abs().argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool)
    return mask.scatter_(1, order[:, :count], True)
