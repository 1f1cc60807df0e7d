"""Turns one weight matrix into codes: all columns at once, or one by one with error feedback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from whet import parts
from whet.errors import ModelError
from whet.quantize.codes import QuantizedLinear, make
from whet.quantize.grid import BitPlan, Grid, GridParams, fit_matrix


class Rounding(Protocol):
    """The contract of a rounding of kind ``column``."""

    kind: str
    needs: frozenset[str]

    def choose(self, values: Tensor, grid: Grid, params: GridParams, plan: BitPlan) -> Tensor:
        """Codes (int16) for values [rows, groups, g]."""


class Feedback(Protocol):
    """What a compensator of kind ``feedback`` gives for one layer; positions count in coding order."""

    original: Tensor
    order: Tensor
    static_groups: bool
    receipt: dict[str, Any]

    def column(self, position: int) -> Tensor:
        """The column to be coded next, [out]."""

    def ahead(self, position: int, stop: int) -> Tensor:
        """Columns [position, stop) as they stand, for fitting a grid."""

    def push(self, position: int, error: Tensor) -> None:
        """Takes the error [out] of the column just coded, weight minus decoded."""


class Compensator(Protocol):
    """The contract of the kind ``compensate``: ``kind`` is ``none`` or ``feedback`` (which has ``start``)."""

    kind: str
    needs: frozenset[str]
    true_sequential: bool


def code_matrices(
    weights: Mapping[str, Tensor],
    hessian: Tensor | None,
    plan: BitPlan,
    grid: Grid,
    rounding: Rounding,
    compensate: Any,
    *,
    scale_dtype: torch.dtype = torch.float16,
) -> dict[str, tuple[QuantizedLinear, dict[str, Any]]]:
    """Codes for matrices [out, in] that share an input.

    No row depends on another, so the matrices are coded as one, with one factorization of ``H``.

    Args:
        weights: by layer name; any float type, which the decoded weights will have. More than one only if the plan's groups
            are within rows.
        hessian: ``H`` of the layers' input, float64 [in, in]; needed by feedback compensators.
        plan: bits, group size, symmetry.
        grid, rounding, compensate: built parts.
        scale_dtype: what scales are stored in.

    Returns:
        By name the layer, and what the compensator reports.

    Raises:
        ModelError: a weight is NaN or infinite.
    """
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise ModelError(f"weight of {name!r} holds NaN or Inf; the checkpoint is damaged, take an earlier one")
    joined = torch.cat([weight.float() for weight in weights.values()])
    order: Tensor | None = None
    receipt: dict[str, Any] = {}
    if compensate.kind == "none":
        codes, params = _at_once(joined, plan, grid, rounding, scale_dtype)
    else:
        feedback: Feedback = compensate.start(joined, hessian, " ".join(weights))
        codes, params, scattered = _one_by_one(feedback, plan, grid, rounding, scale_dtype)
        order, receipt = feedback.order if scattered else None, feedback.receipt
    made, start, grid_name = {}, 0, str(parts.effective(grid)["name"])
    for name, weight in weights.items():
        rows = slice(start, start + len(weight))
        layer = make(codes[rows], params.rows(rows), plan, weight.dtype, scale_dtype, grid_name, order)
        made[name], start = (layer, dict(receipt)), rows.stop
    return made


def _at_once(
    weight: Tensor, plan: BitPlan, grid: Grid, rounding: Rounding, scale_dtype: torch.dtype
) -> tuple[Tensor, GridParams]:
    params = fit_matrix(grid, weight, plan, scale_dtype)
    if plan.group_size == "tensor":
        return rounding.choose(weight[:, None], grid, params, plan)[:, 0], params
    g = plan.columns(weight.shape[1])
    pieces = [
        rounding.choose(weight[:, None, start : start + g], grid, params.at(group), plan)[:, 0]
        for group, start in enumerate(range(0, weight.shape[1], g))
    ]
    return torch.cat(pieces, dim=1), params


def _one_by_one(
    feedback: Feedback, plan: BitPlan, grid: Grid, rounding: Rounding, scale_dtype: torch.dtype
) -> tuple[Tensor, GridParams, bool]:
    """Codes in the layer's own column order, parameters, and whether groups run along ``feedback.order``."""
    columns = feedback.original.shape[1]
    g = plan.columns(columns)
    ahead = not (feedback.static_groups or plan.group_size == "tensor")
    fitted = [] if ahead else [fit_matrix(grid, feedback.original, plan, scale_dtype)]
    codes = torch.empty_like(feedback.original.T, dtype=torch.int16, memory_format=torch.contiguous_format)
    order = feedback.order.tolist()
    for position, column in enumerate(order):
        if ahead and position % g == 0:
            window = feedback.ahead(position, min(position + g, columns))
            fitted.append(grid.fit(window[:, None], plan).stored_as(scale_dtype))
        params = fitted[-1] if ahead else fitted[0].at(column // g)
        current = feedback.column(position)[:, None, None]
        code = rounding.choose(current, grid, params, plan)
        codes[column] = code[:, 0, 0]
        feedback.push(position, (current - grid.decode(code, params))[:, 0, 0])
    natural = order == sorted(order) or g >= columns
    return codes.T.contiguous(), GridParams.join(fitted), ahead and not natural
