"""Equally spaced levels, 2 to 8 bits, symmetric or asymmetric, per tensor, channel or group.

Asymmetric: ``q = clip(round(w / s) + z, 0, 2^b - 1)``, decoded ``s (q - z)``; the range of a group is widened to hold 0,
so that zero is a level, and ``z`` is a whole number. Symmetric: ``q`` in ``[-2^(b-1), 2^(b-1) - 1]``, ``z = 0``,
``s = absmax / (2^(b-1) - 1)``. Rounding is half to even. A group of zeros gets ``s = 1``. Bits, group size and symmetry
come from the layer's plan.

``shrink`` searches, for each group, the range among 1.00, 0.99, ... 0.21 of the min-max range with the least
``sum |error|^2.4``: it clips a few large weights to place the others better, which pays at 2 and 3 bits. Off by default,
as the plain min-max range is the reference in the paper.

Shapes: values [rows, groups, g]; scales and zeros [rows, groups].

Paper: gptq — GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from whet.quantize.grid import BitPlan, GridParams, parameter_bits, shrink_search


@dataclass(frozen=True)
class Uniform:
    """``shrink``: search each group's range instead of taking its minimum and maximum."""

    shrink: bool = False

    def check(self, plan: BitPlan) -> None:
        """Every plan is possible."""

    def fit(self, values: Tensor, plan: BitPlan, weight: Tensor | None = None) -> GridParams:
        low, high = values.amin(-1).clamp(max=0), values.amax(-1).clamp(min=0)

        def at(ratio: float) -> GridParams:
            return _range(low * ratio, high * ratio, plan)

        if not self.shrink:
            return at(1.0)
        return shrink_search(values, at, lambda p: self.decode(self.encode(values, p, plan), p), weight)

    def encode(self, values: Tensor, params: GridParams, plan: BitPlan) -> Tensor:
        return _clip(torch.round(values / params.scales[..., None]), params, plan)

    def decode(self, codes: Tensor, params: GridParams) -> Tensor:
        shifted = codes.float() if params.zeros is None else codes.float() - params.zeros[..., None]
        return params.scales[..., None] * shifted

    def base(self, values: Tensor, params: GridParams, plan: BitPlan) -> Tensor:
        return _clip(torch.floor(values / params.scales[..., None]), params, plan)

    def soft(self, values: Tensor, params: GridParams, plan: BitPlan, shift: Tensor) -> Tensor:
        low, high = _limits(plan)
        code = (self.base(values, params, plan).float() + shift).clamp(low, high)
        return params.scales[..., None] * (code if params.zeros is None else code - params.zeros[..., None])

    def levels(self, params: GridParams, plan: BitPlan) -> Tensor:
        low, high = _limits(plan)
        codes = torch.arange(low, high + 1, device=params.scales.device)
        return self.decode(codes.expand(*params.scales.shape, -1), params)

    def cost(self, params: GridParams, plan: BitPlan, scale_bits: int = 16) -> int:
        return parameter_bits(params, plan.bits, scale_bits)


def _limits(plan: BitPlan) -> tuple[int, int]:
    half = 2 ** (plan.bits - 1)
    return (-half, half - 1) if plan.symmetric else (0, 2 * half - 1)


def _range(low: Tensor, high: Tensor, plan: BitPlan) -> GridParams:
    if plan.symmetric:
        scales = torch.maximum(-low, high) / (2 ** (plan.bits - 1) - 1)
        return GridParams(torch.where(scales == 0, 1.0, scales))
    scales = (high - low) / (2**plan.bits - 1)
    scales = torch.where(scales == 0, 1.0, scales)
    return GridParams(scales, torch.round(-low / scales).clamp(0, 2**plan.bits - 1))


def _clip(steps: Tensor, params: GridParams, plan: BitPlan) -> Tensor:
    low, high = _limits(plan)
    return (steps if params.zeros is None else steps + params.zeros[..., None]).clamp(low, high).to(torch.int16)
