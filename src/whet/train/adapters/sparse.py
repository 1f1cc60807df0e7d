"""Trains every weight but those that are 0, so that a pruned model stays pruned.

In every matrix (and every stack of them, as of experts) of which at least ``least`` is exactly 0 the zeros are held: their gradients are 0, so that neither the update nor
its moments nor weight decay moves them. All else is trained as by ``full``. Merging a LoRA adapter into a pruned model would
fill the zeros again.

Memory is that of ``full`` plus one byte per weight of a pruned matrix. Default ``least`` 0.01: a trained matrix has no exact zeros
of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, Le

from whet.errors import RecipeError
from whet.train.distributed import world

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sparse:
    """``least``: share of exact zeros from which a matrix counts as pruned."""

    least: Annotated[float, Gt(0), Le(1)] = 0.01

    def attach(self, network: PreTrainedModel) -> nn.Module:
        """Marks every weight as trained, in float32, and holds the zeros of pruned matrices.

        Raises:
            RecipeError: no matrix is pruned, or several processes train.
        """
        network = network.float().requires_grad_(True)
        pruned = [p for p in network.parameters() if p.dim() >= 2 and float((p == 0).float().mean()) >= self.least]
        if not pruned:
            raise RecipeError(
                f"adapter sparse: no matrix of the model has {100 * self.least:g}% zeros, so there is nothing to keep; use full or lora"
            )
        if world().size > 1:
            raise RecipeError(
                "adapter sparse: gradients are masked before they are spread over processes; train with one process"
            )
        held: Any = network
        held.whet_masks = [parameter.register_hook(_masked(parameter.detach() != 0)) for parameter in pruned]
        return network

    def merge(self, network: Any) -> PreTrainedModel:
        """The network as it is."""
        for mask in network.__dict__.pop("whet_masks", ()):
            mask.remove()
        return network


def _masked(kept: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * kept
