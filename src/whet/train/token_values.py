"""Reads numbers per token off a network for examples in any order: reference log-probabilities, a value head's predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from whet.data.packing import pack, token_rows
from whet.train.distributed import World

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch, Example


def reader(
    function: Callable[[Batch], Tensor],
    *,
    micro_tokens: int = 4096,
    width: int | None = None,
    share: bool = True,
    stems: bool = False,
    device: str | torch.device = "cpu",
    world: World | None = None,
) -> Callable[[Sequence[Example]], list[list[float]]]:
    """Makes a function of examples out of a function of batches, such as a policy's ``logps`` or ``values``.

    Args:
        function: batch -> [N, S], aligned with the labels; called without gradient.
        micro_tokens: positions per forward pass.
        width: positions of a pack; default: the longest row's.
        share: whether rows may share a pack (``policy.shares_packs``).
        stems: whether examples of the same ``unit`` may share their beginning (``policy.shares_stems``); they then stay in one
            forward pass.
        device: of the network.
        world: of processes that all call the reader with the same examples: each reads its share of the packs.

    Returns:
        A function that gives one list per example, in their order, aligned with ``input_ids``; 0 where nothing is trained.
    """

    ranks = world or World()

    def read(examples: Sequence[Example]) -> list[list[float]]:
        bare = [replace(e, unit=e.unit if stems else number, token_values={}) for number, e in enumerate(examples)]
        batches = pack(bare, micro_tokens=micro_tokens, width=width, share=share, stems=stems, device=device)
        own: dict[int, list[float]] = {}
        with torch.no_grad():
            for batch, _ in ranks.portion(batches):
                numbers = token_rows(batch, torch.where(batch.mask, function(batch), 0.0))
                assert batch.index is not None
                own |= {number: numbers[row] for row, number in enumerate(batch.index.tolist())}
        every = {number: numbers for part in ranks.gather(own) for number, numbers in part.items()}
        return [every[number] for number in range(len(examples))]

    return read
