"""What the supervised objectives share: the step's mean cross-entropy in three ways of averaging."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch

Reduction = Literal["token", "row", "square"]


def cross_entropy(logps: Tensor, batch: Batch, reduction: Reduction) -> Tensor:
    """The micro-batch's share of the step's cross-entropy.

    Args:
        logps: [N, S], of the labels.
        batch: its ``totals`` are the step's.
        reduction: ``token``: mean over tokens; ``row``: mean over rows of the row's token mean; ``square``: tokens of a
            row of l tokens weigh l^-0.5.
    """
    if reduction == "token":
        return -logps.sum() / batch.totals.tokens
    lengths = batch.row_tokens().clamp(min=1)
    sums = -batch.row_sum(logps)
    if reduction == "row":
        return (sums / lengths).sum() / batch.totals.rows
    return (sums / lengths.sqrt()).sum() / batch.totals.root_tokens
