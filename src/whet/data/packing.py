"""Lays the examples of one optimizer step out as micro-batches, exactly.

Examples are sorted by length, so that the packs of a micro-batch start with rows about as long as its longest; what is
left of a pack is filled with shorter rows (first fit, decreasing). Each row keeps its own positions, starting at 0, and
nothing is cut: what a step's loss and gradient are does not depend on ``micro_tokens``. Ties are broken by order, so the
layout is deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from whet.data.example import IGNORE, Batch, Example, Totals


def count(examples: Sequence[Example]) -> Totals:
    """What the objectives of a step divide by: trained tokens, rows and units of all its examples."""
    return Totals(
        tokens=float(sum(e.trained_tokens for e in examples)),
        rows=float(len(examples)),
        units=float(len({e.unit for e in examples})),
        root_tokens=sum(e.trained_tokens**0.5 for e in examples),
    )


@dataclass
class _Layout:
    """A micro-batch being filled: ``bins[n]`` lists the examples of pack n, ``free[n]`` the positions left in it."""

    width: int
    bins: list[list[Example]] = field(default_factory=list)
    free: list[int] = field(default_factory=list)

    def take(self, rows: Sequence[Example], micro_tokens: int, share: bool) -> bool:
        """Places the rows of a unit, each into the first pack with room or a new one; ``False`` if there is no room for all."""
        free, places = list(self.free), []
        for row in rows:
            fits = (n for n, room in enumerate(free) if room >= len(row)) if share else iter(())
            place = next(fits, len(free))
            if place == len(free):
                if self.bins and (place + 1) * self.width > micro_tokens:
                    return False
                free.append(self.width)
            free[place] -= len(row)
            places.append(place)
        self.free = free
        self.bins += [[] for _ in range(len(free) - len(self.bins))]
        for row, place in zip(rows, places):
            self.bins[place].append(row)
        return True


def pack(
    examples: Sequence[Example],
    *,
    totals: Totals | None = None,
    micro_tokens: int = 2048,
    width: int | None = None,
    share: bool = True,
    step: int = 0,
    steps: int = 1,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> list[Batch]:
    """Packs the examples of a step into micro-batches.

    Args:
        examples: in any order; those with the same ``unit`` stay in one micro-batch, in their order.
        totals: counts over the whole step; default: of these examples.
        micro_tokens: positions (N x S, padding included) of a micro-batch; a unit that alone is larger gets its own.
        width: positions S of every pack; default: of each micro-batch, its longest row.
        share: whether rows may share a pack; ``False`` for networks that cannot keep packed rows apart.
        step, steps, seed: passed on to the objective in the batch.
        device: where the tensors go.

    Returns:
        Micro-batches in order of falling length; every example lies in exactly one. ``Batch.unit`` keeps the
        examples' unit numbers, so that results do not depend on how the step was split.

    Raises:
        ValueError: a row is longer than ``width``.
    """
    totals = totals or count(examples)
    longest = max(map(len, examples), default=0)
    if width is not None and longest > width:
        raise ValueError(f"a row of {longest} tokens does not fit into packs of {width}")
    layouts = _layouts(examples, micro_tokens, width, share)
    return [_batch(layout, totals, step, steps, seed, device) for layout in layouts]


def _layouts(examples: Sequence[Example], micro_tokens: int, width: int | None, share: bool) -> list[_Layout]:
    units: dict[int, list[Example]] = {}
    for example in examples:
        units.setdefault(example.unit, []).append(example)
    waiting = sorted(units.values(), key=lambda rows: -max(map(len, rows)))
    layouts: list[_Layout] = []
    while waiting:
        layout = _Layout(width or max(map(len, waiting[0])))
        waiting = [rows for rows in waiting if not layout.take(rows, micro_tokens, share)]
        layouts.append(layout)
    return layouts


def _batch(layout: _Layout, totals: Totals, step: int, steps: int, seed: int, device: str | torch.device) -> Batch:
    shape = (len(layout.bins), layout.width)
    rows = [row for pack_rows in layout.bins for row in pack_rows]
    ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    owner, positions = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    token_values = {name: np.zeros(shape, np.float32) for name in sorted({k for r in rows for k in r.token_values})}
    index = 0
    for n, pack_rows in enumerate(layout.bins):
        start = 0
        for row in pack_rows:
            stop = start + len(row)
            tokens, trained = np.asarray(row.input_ids, np.int64), np.asarray(row.trained, bool)
            ids[n, start:stop] = tokens
            owner[n, start:stop] = index
            # Padding goes on counting from the last row: it stays below S, and looks like one more causal stretch.
            positions[n, start:] = np.arange(shape[1] - start)
            labels[n, start : stop - 1] = np.where(trained[1:], tokens[1:], IGNORE)
            for name, values in row.token_values.items():
                token_values[name][n, start : stop - 1] = np.asarray(values, np.float32)[1:]
            start, index = stop, index + 1
    return Batch(
        input_ids=_tensor(ids, device),
        position_ids=_tensor(positions, device),
        row=_tensor(owner, device),
        labels=_tensor(labels, device),
        unit=_tensor(np.array([row.unit for row in rows], np.int64), device),
        totals=totals,
        values=_row_values(rows, device),
        token_values={name: _tensor(values, device) for name, values in token_values.items()},
        step=step,
        steps=steps,
        seed=seed,
    )


def _row_values(rows: Sequence[Example], device: str | torch.device) -> Mapping[str, torch.Tensor]:
    names = sorted({name for row in rows for name in row.values})
    return {name: _tensor(np.array([row.values.get(name, 0.0) for row in rows], np.float32), device) for name in names}


def _tensor(array: np.ndarray, device: str | torch.device) -> torch.Tensor:
    return torch.from_numpy(array).to(device)


def token_rows(batch: Batch, per_position: torch.Tensor) -> dict[int, list[float]]:
    """Reads a [N, S] tensor that is aligned with the labels back as one list per example, aligned with ``input_ids``.

    Returns:
        Row index -> L numbers; the number for token i stands at i, that of token 0 is 0.
    """
    owner, flat = batch.row.flatten().cpu().numpy(), per_position.detach().float().flatten().cpu().numpy()
    return {r: [0.0, *flat[owner == r][:-1].tolist()] for r in range(batch.rows)}
