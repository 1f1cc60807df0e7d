"""The second-order statistic of a linear layer's input, ``H = (2 / T) sum x xᵀ`` over T calibration tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from whet.errors import ModelError

BLOCK = 512
"""Columns in one block of the matrix; only blocks on and above the diagonal are computed."""


class Hessian:
    """Collects ``H`` [in, in] from inputs that arrive in pieces, products and sum in float32.

    A product of bfloat16 inputs may use bfloat16 instructions: they multiply such numbers exactly and add up in float32.
    """

    def __init__(self, in_features: int, name: str, device: torch.device | str = "cpu") -> None:
        self.name = name
        self.tokens = 0
        self._sum = torch.zeros(in_features, in_features, device=device)

    def add(self, inputs: Tensor) -> None:
        """Adds inputs [..., in].

        Raises:
            ModelError: an input is NaN or infinite; names the layer.
        """
        flat = inputs.detach().reshape(-1, inputs.shape[-1])
        exact = flat.dtype == torch.bfloat16
        flat = flat.float()
        with _short_products() if exact else nullcontext():
            for start in range(0, flat.shape[1], BLOCK):
                rows = flat[:, start : start + BLOCK]
                self._sum[start : start + BLOCK, start:].addmm_(rows.T, flat[:, start:])
        if not bool(self._sum.diagonal().isfinite().all()):
            raise ModelError(
                f"the activations entering {self.name!r} hold NaN or Inf on the calibration rows; "
                "the model overflows there (try dtype float32) or its weights are damaged"
            )
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
        full = self._sum.double().mul_(2.0 / self.tokens)
        for start in range(0, len(full), BLOCK):
            stop = start + BLOCK
            square = full[start:stop, start:stop]
            square.copy_(square.triu() + square.triu(1).T)
            full[stop:, start:stop] = full[start:stop, stop:].T
        return full


@contextmanager
def _short_products() -> Iterator[None]:
    """Lets float32 products be computed with bfloat16 instructions; versions of torch without that switch go on as they are."""
    backend = getattr(torch.backends.mkldnn, "matmul", None)
    if backend is None or not hasattr(backend, "fp32_precision"):
        yield
        return
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = before


def output_error(weight: Tensor, decoded: Tensor, hessian: Tensor | None) -> float:
    """Relative output error ``tr(dW H dWᵀ) / tr(W H Wᵀ)``; with no ``H`` the identity stands for it. 0 if ``W`` gives 0."""
    weight, change = weight.float(), decoded.float() - weight.float()
    error, size = (_quadratic(rows, None if hessian is None else hessian.float()) for rows in (change, weight))
    return error / size if size > 0 else 0.0


def _quadratic(rows: Tensor, hessian: Tensor | None) -> float:
    """``tr(R H Rᵀ)`` of a symmetric ``H`` from its blocks on and above the diagonal."""
    if hessian is None:
        return float(rows.square().sum(dtype=torch.float64))
    total = 0.0
    for start in range(0, len(hessian), BLOCK):
        stop = start + BLOCK
        products = rows[:, start:stop] @ hessian[start:stop, start:]
        products.mul_(rows[:, start:])
        total += float(2 * products.sum(dtype=torch.float64) - products[:, :BLOCK].sum(dtype=torch.float64))
    return total
