"""The second-order statistic of a linear layer's input, ``H = (2 / T) sum x xᵀ`` over T calibration tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from whet.errors import ModelError


class Hessian:
    """Collects ``H`` [in, in] from inputs that arrive in pieces; products in float32, their sum in float64."""

    def __init__(self, in_features: int, name: str, device: torch.device | str = "cpu") -> None:
        self.name = name
        self.tokens = 0
        self._sum = torch.zeros(in_features, in_features, dtype=torch.float64, device=device)

    def add(self, inputs: Tensor) -> None:
        """Adds inputs [..., in].

        Raises:
            ModelError: an input is NaN or infinite; names the layer.
        """
        flat = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        if not bool(flat.isfinite().all()):
            raise ModelError(
                f"the activations entering {self.name!r} hold NaN or Inf on the calibration rows; "
                "the model overflows there (try dtype float32) or its weights are damaged"
            )
        self._sum += (flat.T @ flat).double()
        self.tokens += flat.shape[0]

    @property
    def bytes(self) -> int:
        """Memory of the sum."""
        return self._sum.numel() * self._sum.element_size()

    def matrix(self) -> Tensor:
        """``H``, float64 [in, in].

        Raises:
            ModelError: no token was seen.
        """
        if not self.tokens:
            raise ModelError(f"layer {self.name!r} saw no calibration token; give more calibration rows or add it to skip")
        return self._sum * (2.0 / self.tokens)


def output_error(weight: Tensor, decoded: Tensor, hessian: Tensor | None) -> float:
    """Relative output error ``tr(dW H dWᵀ) / tr(W H Wᵀ)``; with no ``H`` the identity stands for it. 0 if ``W`` gives 0."""
    weight, change = weight.double(), decoded.double() - weight.double()
    if hessian is None:
        error, size = change.square().sum(), weight.square().sum()
    else:
        error, size = ((change @ hessian) * change).sum(), ((weight @ hessian) * weight).sum()
    return float(error / size) if float(size) > 0 else 0.0
