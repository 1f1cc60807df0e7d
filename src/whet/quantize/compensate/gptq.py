"""GPTQ error feedback: after a column is coded, its error is moved onto the columns that are not coded yet.

Minimises ``||W X - W^ X||²`` per layer under the second-order model ``H = (2 / T) sum x xᵀ``. With ``U`` the upper Cholesky
factor of ``H^-1``, column ``j`` is coded to ``q``, ``e = (W_:j - q) / U_jj``, and ``W_:,j+1: -= e U_j,j+1:``: the optimal
update of all later columns, for all rows at once, because every row uses the same column order. Within a block of columns
the update is immediate; the columns beyond it get the block's errors by one matrix product, which gives the same result.

An input column that never fires (``H_jj = 0``) gets zero weights. ``H`` is damped by ``damping * mean(diag H)``; if the
factorization still fails (fewer tokens than columns), by ten times as much, and so on. Factorization in float64.

Options, with the paper's code as the source of the defaults except where said:
``act_order`` codes columns by falling ``H_jj``. ``static_groups`` fits all grids before the first column is coded; with
``act_order`` it keeps groups contiguous, which exports need. ``true_sequential`` recollects inputs after each group of
layers that share an input (q k v, then o, then gate and up, then down); on here, as it costs passes and not accuracy.

Shapes: W [out, in], H and U [in, in], e [out].

Paper: gptq — GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Le
from torch import Tensor

from whet.errors import ModelError

RETRIES = 4
"""How often a failed factorization is tried again, each time with ten times the damping."""


@dataclass(frozen=True)
class Gptq:
    """``damping`` is a share of the mean diagonal; ``block`` counts columns; the flags are explained in the module."""

    act_order: bool = False
    static_groups: bool = False
    true_sequential: bool = True
    damping: Annotated[float, Gt(0), Le(1)] = 0.01
    block: Annotated[int, Gt(0)] = 128
    kind: ClassVar[str] = "feedback"
    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})

    def start(self, weight: Tensor, hessian: Tensor, name: str) -> GptqFeedback:
        """The state for one layer.

        Args:
            weight: [out, in], not changed.
            hessian: ``H``, float64 [in, in].
            name: the layer's, for messages.

        Raises:
            ModelError: ``H`` cannot be factorized even with the largest damping.
        """
        diagonal = hessian.diagonal()
        dead = diagonal == 0
        columns = torch.arange(len(diagonal), device=diagonal.device)
        order = torch.argsort(diagonal, descending=True, stable=True) if self.act_order else columns
        factor, damping = inverse_factor(hessian, self.damping, name, order)
        alive = weight.float() * ~dead
        receipt = {"damping": damping, "dead_columns": int(dead.sum())}
        return GptqFeedback(alive, order, factor, self.block, self.static_groups, receipt)


def inverse_factor(hessian: Tensor, damping: float, name: str = "", order: Tensor | None = None) -> tuple[Tensor, float]:
    """Upper Cholesky factor of the inverse of the damped ``H`` in float32, and the damping that it took.

    Args:
        hessian: float64 [in, in], not changed; a zero on its diagonal counts as one.
        damping: share of the mean diagonal.
        name: the layer's, for messages.
        order: of rows and columns; default: as they are.

    Raises:
        ModelError: not positive definite after all retries.
    """
    order = torch.arange(len(hessian), device=hessian.device) if order is None else order
    # With rows and columns reversed H = R Rᵀ for an upper R, so that the factor is R^-1 and H^-1 itself is never made.
    last = order.flip(0)
    damped = hessian[last[:, None], last]
    diagonal = damped.diagonal().clone()
    diagonal[diagonal == 0] = 1
    mean = diagonal.flip(0).mean()
    for _ in range(RETRIES):
        damped.diagonal().copy_(diagonal + damping * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            del damped
            _invert(lower)
            return lower.float().flip(0, 1), damping
        damping *= 10
    raise ModelError(f"the Hessian of {name!r} cannot be factorized with damping {damping / 10:g}; give more calibration tokens")


def _invert(lower: Tensor) -> None:
    """Inverts a lower triangular matrix in place, by halves, so that nearly all of it is matrix products."""
    n = len(lower)
    if n <= 256:
        lower.copy_(torch.linalg.solve_triangular(lower, torch.eye(n, dtype=lower.dtype, device=lower.device), upper=False))
        return
    half = n // 2
    first, last, below = lower[:half, :half], lower[half:, half:], lower[half:, :half]
    _invert(first)
    _invert(last)
    torch.matmul(last, below @ first, out=below)
    below.neg_()


class GptqFeedback:
    """One layer's weights while its columns are coded. Positions count in coding order: ``order[position]`` is the column.

    ``original`` [out, in] are the weights in the layer's own order, dead columns zero. The working copy is transposed, so that
    a column lies in one piece.
    """

    def __init__(
        self, weight: Tensor, order: Tensor, factor: Tensor, block: int, static_groups: bool, receipt: dict[str, Any]
    ) -> None:
        self.original, self.order, self.static_groups, self.receipt = weight, order, static_groups, receipt
        self._weight = weight.T[order].contiguous()
        self._factor = factor
        self._divisors = factor.diagonal().tolist()
        self._block = block
        self._start = 0
        self._errors = weight.new_zeros(block, weight.shape[0])

    def column(self, position: int) -> Tensor:
        """The column to be coded next, [out], with all earlier errors moved onto it."""
        return self._weight[position]

    def ahead(self, position: int, stop: int) -> Tensor:
        """Columns [position, stop), [out, stop - position], as they stand, pending updates of later blocks included."""
        end, done = self._start + self._block, position - self._start
        near = self._weight[position : min(stop, end)]
        if stop > end:
            pending = self._factor[self._start : position, end:stop].T @ self._errors[:done]
            near = torch.cat([near, self._weight[end:stop] - pending])
        return near.T

    def push(self, position: int, error: Tensor) -> None:
        """Moves the error [out] of the column just coded (weight minus decoded) onto the columns not coded yet."""
        end = min(self._start + self._block, len(self._weight))
        scaled = torch.div(error, self._divisors[position], out=self._errors[position - self._start])
        self._weight[position + 1 : end].addr_(self._factor[position, position + 1 : end], scaled, alpha=-1)
        if position + 1 == end:
            done = end - self._start
            self._weight[end:].addmm_(self._factor[self._start : end, end:].T, self._errors[:done], alpha=-1)
            self._start = end
