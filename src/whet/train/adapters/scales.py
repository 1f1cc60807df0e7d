"""Trains the scales of a quantized model's groups, so that it stays quantized to the bit.

The codes are fixed. A layer's weight is what they stand for, computed anew in every forward pass,

    W = s ⊙ (codes - zeros)      (or s ⊙ codebook[codes]),      s [out, groups] trained in float32

and with ``norms`` the norms' weights, which are stored in full anyway. The result has the same codes, zeros, size and format;
its scales are rounded to the format in which they were stored, and its weights are decoded from those. Embeddings and head stay.

Memory: per weight a byte of codes and the decoded weight of one layer at a time; gradients and moments only for scales and norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from whet.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ScaledLinear(nn.Linear):
    """A linear layer whose weight is decoded from fixed ``codes`` and the parameter ``scales``."""

    codes: Any
    scales: nn.Parameter

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return replace(self.codes, scales=self.scales, dtype=torch.float32).decode()


@dataclass(frozen=True)
class Scales:
    """``norms``: train the norms' weights, too."""

    norms: bool = True

    def attach(self, network: PreTrainedModel) -> nn.Module:
        """Refuses: without codes there are no scales.

        Raises:
            RecipeError: always.
        """
        raise RecipeError("adapter scales: the model is not quantized; quantize it first, or use full or lora")

    def attach_codes(self, network: PreTrainedModel, codes: Mapping[str, Any]) -> nn.Module:
        """Gives every quantized layer its codes and a trained scale per group."""
        network = network.float().requires_grad_(False)
        for name, layer in codes.items():
            module: Any = network.get_submodule(name)
            del module._parameters["weight"]
            module.__class__ = ScaledLinear
            module.codes = layer
            module.register_parameter("scales", nn.Parameter(layer.scales.float().to(network.device).clone()))
        if self.norms:
            for name, parameter in network.named_parameters():
                if "norm" in name.lower() and parameter.dim() == 1:
                    parameter.requires_grad_(True)
        return network

    def merge(self, network: Any) -> PreTrainedModel:
        """The network with ordinary layers again, their weights decoded from the scales as they are stored."""
        for name, layer in self.codes(network).items():
            module: Any = network.get_submodule(name)
            del module._parameters["scales"], module.codes
            module.__class__ = nn.Linear
            module.register_parameter("weight", nn.Parameter(layer.decode().to(network.device)))
        return network

    def codes(self, network: nn.Module) -> dict[str, Any]:
        """Layer name -> codes with the scales of this moment, in the format in which they are stored."""
        return {
            name: replace(module.codes, scales=module.scales.detach().to(module.codes.scales))
            for name, module in network.named_modules()
            if isinstance(module, ScaledLinear)
        }
