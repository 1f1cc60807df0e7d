"""Reads numbers per token off a network for examples in any order: reference log-probabilities, a value head's predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from whet.data.packing import pack, token_rows

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch, Example


def reader(
    function: Callable[[Batch], Tensor],
    *,
    micro_tokens: int = 4096,
    width: int | None = None,
    share: bool = True,
    device: str | torch.device = "cpu",
) -> Callable[[Sequence[Example]], list[list[float]]]:
    """Makes a function of examples out of a function of batches, such as a policy's ``logps`` or ``values``.

    Args:
        function: batch -> [N, S], aligned with the labels; called without gradient.
        micro_tokens: positions per forward pass.
        width: positions of a pack; default: the longest row's.
        share: whether rows may share a pack (``policy.shares_packs``).
        device: of the network.

    Returns:
        A function that gives one list per example, in their order, aligned with ``input_ids``; 0 where nothing is trained.
    """

    def read(examples: Sequence[Example]) -> list[list[float]]:
        alone = [replace(e, unit=number, token_values={}) for number, e in enumerate(examples)]
        result: list[list[float]] = [[] for _ in examples]
        with torch.no_grad():
            for batch in pack(alone, micro_tokens=micro_tokens, width=width, share=share, device=device):
                numbers = token_rows(batch, torch.where(batch.mask, function(batch), 0.0))
                for row, unit in enumerate(batch.unit.tolist()):
                    result[unit] = numbers[row]
        return result

    return read
