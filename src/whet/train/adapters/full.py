"""Trains every weight of the network.

The network itself is what moves; nothing is added, so merging gives it back unchanged.
Memory: weights, gradients and the optimizer's two moments, 16 bytes per weight in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Full:
    """All weights are trained, in float32 whatever the checkpoint's format."""

    def attach(self, network: PreTrainedModel) -> nn.Module:
        """Marks every weight as trained and holds it in float32."""
        return network.float().requires_grad_(True)

    def merge(self, network: Any) -> PreTrainedModel:
        """The network as it is."""
        return network
