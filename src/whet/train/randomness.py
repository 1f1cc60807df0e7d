"""Random numbers that belong to a token of a row, whatever micro-batch the row lies in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch


def row_keys(batch: Batch) -> Tensor:
    """int64 [N, S]: a key for each position, from (seed, step, unit, place in the unit, position in the row)."""
    place = torch.zeros_like(batch.unit)
    seen: dict[int, int] = {}
    for row, unit in enumerate(batch.unit.tolist()):
        place[row] = seen[unit] = seen.get(unit, -1) + 1
    rows = _mix(_mix(_mix(torch.full_like(batch.unit, batch.seed)) + batch.step) + batch.unit)
    rows = _mix(rows + place)
    return _mix(rows[batch.row.clamp(min=0)] + batch.position_ids)


def uniform(keys: Tensor, stream: int) -> Tensor:
    """float64 in [0, 1), one per key; different for each stream."""
    return _shift(_mix(keys + (stream + 1) * 0x632BE59BD9B4E019), 11).double() * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    """The finalizer of splitmix64 on int64 that wraps around."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: int64 would pull the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x
