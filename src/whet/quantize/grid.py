"""What a grid is: the levels that the weights of a group may take, how they are fitted, and what they cost to store.

A grid is a frozen dataclass with ``fit``, ``encode``, ``decode``, ``base``, ``soft``, ``levels`` and ``cost``. Values come
as ``[rows, groups, g]`` (g consecutive columns of one row), parameters as ``[rows, groups]``; rows or groups may be 1 and
then broadcast. All arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from whet.errors import ModelError, RecipeError

GroupSize = int | Literal["channel", "tensor"]
SHRINK_RATIOS = [1.0 - 0.01 * step for step in range(80)]
"""Ratios 1.00 down to 0.21 that the range of a group is shrunk by (card ``gptq``, step 5)."""
SHRINK_NORM = 2.4
"""Exponent of the error that the shrink search minimises (card ``gptq``, step 5)."""


@dataclass(frozen=True)
class BitPlan:
    """How one layer is to be quantized: ``bits`` per code, columns that share a scale, symmetric or not.

    ``group_size``: a number of consecutive columns of one row, ``"channel"`` (a whole row) or ``"tensor"`` (the matrix).
    """

    bits: int = 4
    group_size: GroupSize = 128
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 2 <= self.bits <= 8:
            raise RecipeError(f"bits: {self.bits!r} is not a whole number from 2 to 8, the widths that codes are stored in")
        named = self.group_size in ("channel", "tensor")
        if not named and (not isinstance(self.group_size, int) or isinstance(self.group_size, bool) or self.group_size < 1):
            raise RecipeError(f"group_size: {self.group_size!r} is not a positive number of columns, 'channel' or 'tensor'")

    def columns(self, in_features: int) -> int:
        """Columns per group for a layer of that width; per tensor counts as one group."""
        return min(self.group_size, in_features) if isinstance(self.group_size, int) else in_features


@dataclass(frozen=True)
class GridParams:
    """Fitted parameters: ``scales`` [rows, groups]; ``zeros`` the same (whole numbers), ``None`` where zero is code 0;
    ``codebook`` [rows, groups, K], the levels in units of the scale, for grids that are not uniform."""

    scales: Tensor
    zeros: Tensor | None = None
    codebook: Tensor | None = None

    def at(self, group: int) -> GridParams:
        """The parameters of one group, ``groups`` kept as a dimension of size 1."""
        cut = slice(group, group + 1)
        return GridParams(
            self.scales[:, cut],
            None if self.zeros is None else self.zeros[:, cut],
            None if self.codebook is None else self.codebook[:, cut],
        )

    def rows(self, rows: slice) -> GridParams:
        """The parameters of some rows; those that serve all rows stay as they are."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or tensor.shape[0] == 1 else tensor[rows]

        return GridParams(self.scales if self.scales.shape[0] == 1 else self.scales[rows], cut(self.zeros), cut(self.codebook))

    def stored_as(self, dtype: torch.dtype) -> GridParams:
        """The parameters as they will be read back: scales and codebook rounded to ``dtype``, kept in float32.

        Raises:
            ModelError: a scale is too large for ``dtype``.
        """
        smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        scales = self.scales.clamp(min=smallest).to(dtype).float()
        if not bool(scales.isfinite().all()):
            raise ModelError(f"a scale of {float(self.scales.max()):.3g} does not fit {dtype}; set scale_dtype: float32")
        return replace(self, scales=scales, codebook=None if self.codebook is None else self.codebook.to(dtype).float())

    @staticmethod
    def join(pieces: list[GridParams]) -> GridParams:
        """Groups side by side, in the order given."""
        first = pieces[0]
        return GridParams(
            torch.cat([p.scales for p in pieces], dim=1),
            None if first.zeros is None else torch.cat([p.zeros for p in pieces if p.zeros is not None], dim=1),
            None if first.codebook is None else torch.cat([p.codebook for p in pieces if p.codebook is not None], dim=1),
        )


class Grid(Protocol):
    """The contract of the kind ``grid``."""

    def check(self, plan: BitPlan) -> None:
        """Raises RecipeError if the grid cannot carry that plan out."""

    def fit(self, values: Tensor, plan: BitPlan, weight: Tensor | None = None) -> GridParams:
        """Parameters for ``values`` [rows, groups, g]; ``weight`` (broadcastable) weighs errors where the fit searches."""

    def encode(self, values: Tensor, params: GridParams, plan: BitPlan) -> Tensor:
        """Codes (int16) of the nearest levels, same shape as ``values``."""

    def decode(self, codes: Tensor, params: GridParams) -> Tensor:
        """The values that codes stand for, float32."""

    def base(self, values: Tensor, params: GridParams, plan: BitPlan) -> Tensor:
        """Codes of the next level at or below each value (the lowest or highest level outside the range)."""

    def soft(self, values: Tensor, params: GridParams, plan: BitPlan, shift: Tensor) -> Tensor:
        """The value ``shift`` in [0, 1] of the way from the base level to the next one; differentiable in all but ``values``."""

    def levels(self, params: GridParams, plan: BitPlan) -> Tensor:
        """All levels, ascending: [rows, groups, K]."""

    def cost(self, params: GridParams, plan: BitPlan, scale_bits: int = 16) -> int:
        """Bits that the parameters take, codes excluded."""


def parameter_bits(params: GridParams, bits: int, scale_bits: int = 16) -> int:
    """Storage of scales and codebook (``scale_bits`` each) and zeros (``bits`` each); a level, or with a codebook a scale,
    that is the same in all groups is stored once."""
    zeros = 0 if params.zeros is None else params.zeros.numel() * bits
    if params.codebook is None:
        return params.scales.numel() * scale_bits + zeros
    rows, groups, size = params.codebook.shape
    varying = int(varying_levels(params.codebook).sum())
    scales = 1 if bool((params.scales == params.scales.flatten()[0]).all()) else params.scales.numel()
    return (scales + rows * groups * varying + size - varying) * scale_bits + zeros


def varying_levels(codebook: Tensor) -> Tensor:
    """bool [K]: which levels of a codebook [rows, groups, K] differ between groups."""
    return (codebook != codebook[:1, :1]).any(dim=1).any(dim=0)


def shrink_search(
    values: Tensor, fit: Callable[[float], GridParams], coded: Callable[[GridParams], Tensor], weight: Tensor | None = None
) -> GridParams:
    """Per group the ratio whose fit has the least ``sum |d|^2.4``.

    Args:
        values: [rows, groups, g].
        fit: ratio -> parameters of the range shrunk by it.
        coded: parameters -> the decoded values.
        weight: multiplies each element's error; broadcastable to ``values``.
    """
    best, least = fit(1.0), None
    for ratio in SHRINK_RATIOS:
        params = fit(ratio)
        distance = (coded(params) - values).abs_().pow_(SHRINK_NORM)
        error = (distance if weight is None else distance * weight).sum(-1)
        if least is None:
            best, least = params, error
            continue
        better = error < least
        least = torch.where(better, error, least)
        best = _choose(better, params, best)
    return best


def _choose(better: Tensor, new: GridParams, old: GridParams) -> GridParams:
    return GridParams(
        torch.where(better, new.scales, old.scales),
        None if new.zeros is None or old.zeros is None else torch.where(better, new.zeros, old.zeros),
        None if new.codebook is None or old.codebook is None else torch.where(better[..., None], new.codebook, old.codebook),
    )


def fit_matrix(grid: Grid, weight: Tensor, plan: BitPlan, scale_dtype: torch.dtype = torch.float16) -> GridParams:
    """Fits every group of a matrix [out, in]; a short last group is fitted on its own columns, so nothing is padded.

    Returns:
        Parameters [out, ceil(in / g)], or [1, 1] per tensor, rounded to what will be stored.
    """
    if plan.group_size == "tensor":
        return grid.fit(weight.reshape(1, 1, -1), plan).stored_as(scale_dtype)
    out_features, in_features = weight.shape
    g = plan.columns(in_features)
    whole = in_features // g * g
    pieces = [grid.fit(weight[:, :whole].reshape(out_features, -1, g), plan)]
    if whole < in_features:
        pieces.append(grid.fit(weight[:, None, whole:], plan))
    return GridParams.join(pieces).stored_as(scale_dtype)
