"""A quantized linear layer: its codes, what they stand for, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from whet.quantize.grid import BitPlan, GridParams, parameter_bits

ORDER_BITS = 32
"""Storage of one entry of a column order."""


@dataclass(frozen=True)
class QuantizedLinear:
    """Codes and parameters of one weight matrix [out, in].

    ``codes`` [out, in]: int8 in ``[-2^(b-1), 2^(b-1) - 1]`` where ``zeros`` and ``codebook`` are ``None``, else uint8 from 0.
    ``scales``, ``zeros`` (uint8) [out, groups], or [1, 1] where one serves all; ``codebook`` [out, groups, K] (or [1, 1, K]) in
    units of the scale.
    ``order`` [in], int64: groups are runs of ``plan.group_size`` columns in this order; ``None``: the natural order.
    ``dtype`` is the decoded weight's, ``grid`` the part that made the codes.
    """

    codes: Tensor
    scales: Tensor
    plan: BitPlan
    dtype: torch.dtype
    zeros: Tensor | None = None
    codebook: Tensor | None = None
    order: Tensor | None = None
    grid: str = "uniform"

    @property
    def bits(self) -> int:
        return self.plan.bits

    @property
    def symmetric(self) -> bool:
        return self.plan.symmetric

    @property
    def group_size(self) -> int:
        """Columns per group (all of them, per channel or per tensor)."""
        return self.plan.columns(self.codes.shape[1])

    @property
    def signed(self) -> bool:
        """Whether codes count from ``-2^(b-1)``."""
        return self.zeros is None and self.codebook is None

    @property
    def groups(self) -> Tensor:
        """The group that each column belongs to, int64 [in]; the ``g_idx`` of other tools."""
        columns = self.codes.shape[1]
        runs = torch.arange(columns, device=self.codes.device) // self.group_size
        if self.order is None:
            return runs
        return torch.empty_like(runs).index_copy_(0, self.order, runs)

    def decode(self) -> Tensor:
        """The weights [out, in] that the codes stand for: computed in float32, given in ``dtype``."""
        scales = self._spread(self.scales)
        if self.codebook is not None:
            book = self._spread(self.codebook).expand(*self.codes.shape, -1)
            return (scales * book.gather(-1, self.codes.long()[..., None])[..., 0]).to(self.dtype)
        codes = self.codes.float()
        if self.zeros is not None:
            codes = codes - self._spread(self.zeros)
        return (scales * codes).to(self.dtype)

    def _spread(self, per_group: Tensor) -> Tensor:
        """float32 with one entry per column in place of one per group."""
        return per_group.float() if per_group.shape[1] == 1 else per_group.float()[:, self.groups]

    def cpu(self) -> QuantizedLinear:
        """The same with every tensor on the CPU."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.cpu() for name, tensor in tensors.items()})

    @property
    def storage_bits(self) -> int:
        """Code bits, scales and codebook at their width, zeros at ``bits`` each, and the column order if there is one."""
        scale_bits = torch.finfo(self.scales.dtype).bits
        params = GridParams(self.scales, self.zeros, self.codebook)
        order = 0 if self.order is None else ORDER_BITS * self.order.numel()
        return self.codes.numel() * self.bits + parameter_bits(params, self.bits, scale_bits) + order

    @property
    def bits_per_weight(self) -> float:
        """``storage_bits`` over the number of weights."""
        return self.storage_bits / self.codes.numel()


def make(
    codes: Tensor,
    params: GridParams,
    plan: BitPlan,
    dtype: torch.dtype,
    scale_dtype: torch.dtype,
    grid: str,
    order: Tensor | None = None,
) -> QuantizedLinear:
    """A layer from int16 codes and float32 parameters, each in its storage type."""
    signed = params.zeros is None and params.codebook is None
    scales = params.scales
    if params.codebook is not None and bool((scales == scales[:1, :1]).all()):
        scales = scales[:1, :1]
    return QuantizedLinear(
        codes.to(torch.int8 if signed else torch.uint8),
        scales.to(scale_dtype),
        plan,
        dtype,
        None if params.zeros is None else params.zeros.to(torch.uint8),
        None if params.codebook is None else params.codebook.to(scale_dtype),
        order,
        grid,
    )
