"""Operations that a transformed network does while it runs: rotations of a layer's input that no weight can absorb.

They are written down in the network's configuration (``config.whet_online``), so that they travel with the weights, and
put back by :func:`attach` when the weights are loaded. A program that does not know them would compute something else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from whet.errors import ModelError
from whet.hadamard import rotation

CONFIG_KEY = "whet_online"


class OnlineHadamard(nn.Module):
    """Rotates the input of the layer that it is hooked to: ``x -> x R``, x [..., size]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.rotation = rotation(size)

    def forward(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A forward pre-hook: the arguments with the first one rotated (in float32 if it has less precision)."""
        x = args[0]
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        return (self.rotation.right(wide).to(x.dtype), *args[1:])


def operations(network: nn.Module) -> dict[str, Any]:
    """Layer name -> what is done to its input, ``{"kind": "hadamard"}``; empty for an ordinary network."""
    return dict(getattr(network.config, CONFIG_KEY, None) or {})


def add(network: nn.Module, layer: str) -> None:
    """Rotates the input of a layer from now on, and notes it in the configuration."""
    setattr(network.config, CONFIG_KEY, {**operations(network), layer: {"kind": "hadamard"}})
    _hook(network, layer)


def attach(network: nn.Module) -> nn.Module:
    """Puts back the operations that a freshly loaded network's configuration lists; changes nothing if it lists none.

    Raises:
        ModelError: an operation that this version does not know.
    """
    for layer, operation in operations(network).items():
        if operation.get("kind") != "hadamard":
            raise ModelError(f"config.{CONFIG_KEY}: {layer!r} needs {operation!r}, which this version of whet does not know")
        _hook(network, layer)
    return network


def _hook(network: nn.Module, layer: str) -> None:
    module = network.get_submodule(layer)
    if any(isinstance(hook, OnlineHadamard) for hook in module._forward_pre_hooks.values()):
        return
    module.register_forward_pre_hook(OnlineHadamard(int(module.in_features)))  # type: ignore[arg-type]
