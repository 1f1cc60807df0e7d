"""Three levels per group, ``{lo, 0, hi}``; a weight is set to ``hi`` above ``hi / 2``, to ``lo`` below ``lo / 2``.

``lo <= 0 <= hi`` are the group's minimum and maximum; with ``symmetric`` in the plan, ``-absmax`` and ``absmax``. With the
plain range almost every weight of a bell-shaped group falls to zero, so ``shrink`` (ratios 1.00 to 0.21 of the range, the
least ``sum |error|^2.4``) is on by default here: our choice. Codes 0, 1, 2 are stored in two bits; a group stores its two
free levels. The plan's ``bits`` must therefore be 2.

Shapes: values [rows, groups, g]; codebook [rows, groups, 3] with scale 1.

Paper: gptq — GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from whet.errors import RecipeError
from whet.quantize.grid import BitPlan, GridParams, parameter_bits, shrink_search


@dataclass(frozen=True)
class Ternary:
    """``shrink``: search each group's range instead of taking its minimum and maximum."""

    shrink: bool = True

    def check(self, plan: BitPlan) -> None:
        """Raises RecipeError unless the plan asks for two bits."""
        if plan.bits != 2:
            raise RecipeError(
                f"bits: {plan.bits} with grid 'ternary', whose three levels take 2 bits; set bits: 2 or grid: uniform"
            )

    def fit(self, values: Tensor, plan: BitPlan, weight: Tensor | None = None) -> GridParams:
        low, high = values.amin(-1).clamp(max=0), values.amax(-1).clamp(min=0)
        if plan.symmetric:
            high = torch.maximum(-low, high)
            low = -high

        def at(ratio: float) -> GridParams:
            codebook = torch.stack([low * ratio, torch.zeros_like(low), high * ratio], dim=-1)
            return GridParams(torch.ones_like(low), codebook=codebook)

        if not self.shrink:
            return at(1.0)
        return shrink_search(values, at, lambda p: self.decode(self.encode(values, p, plan), p), weight)

    def encode(self, values: Tensor, params: GridParams, plan: BitPlan) -> Tensor:
        low, high = _ends(params)
        return (1 + (values > high / 2).to(torch.int16) - (values < low / 2).to(torch.int16)).to(torch.int16)

    def decode(self, codes: Tensor, params: GridParams) -> Tensor:
        low, high = _ends(params)
        return torch.where(codes == 2, high, torch.where(codes == 0, low, 0.0)) * params.scales[..., None]

    def base(self, values: Tensor, params: GridParams, plan: BitPlan) -> Tensor:
        return (values >= 0).to(torch.int16)

    def soft(self, values: Tensor, params: GridParams, plan: BitPlan, shift: Tensor) -> Tensor:
        low, high = _ends(params)
        return torch.where(values >= 0, high * shift, low * (1 - shift))

    def levels(self, params: GridParams, plan: BitPlan) -> Tensor:
        low, high = _ends(params)
        return torch.cat([low, torch.zeros_like(low), high], dim=-1)

    def cost(self, params: GridParams, plan: BitPlan, scale_bits: int = 16) -> int:
        return parameter_bits(params, plan.bits, scale_bits)


def _ends(params: GridParams) -> tuple[Tensor, Tensor]:
    assert params.codebook is not None
    return params.codebook[..., :1], params.codebook[..., 2:]
