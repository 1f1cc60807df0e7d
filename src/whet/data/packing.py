"""Lays the examples of one optimizer step out as micro-batches, exactly.

Examples are sorted by length, so that the packs of a micro-batch start with rows about as long as its longest; what is
left of a pack is filled with shorter rows (first fit, decreasing). Each row keeps its own positions, starting at 0, and
nothing is cut: what a step's loss and gradient are does not depend on ``micro_tokens``. Ties are broken by order, so the
layout is deterministic.

Rows of one unit that begin with the same untrained tokens (the prompt of a pair, of a group) can share them, as a tree: the
network then computes the prompt once. Exact, as attention and positions are those of the row alone; see ``Batch.stem``.
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


LINEAR = 1024
"""What a position costs besides attention, in keys that it attends to; larger for larger networks. A tree is as wide as all its
rows together, and every position pays for the width: sharing must save more than that."""


@dataclass
class _Block:
    """What is placed as one: a row, or rows that share their first ``stem`` tokens; by their index."""

    rows: list[int]
    size: int
    stem: int = 0


@dataclass
class _Layout:
    """A micro-batch being filled: ``bins[n]`` lists the blocks of pack n, ``free[n]`` the positions left in it."""

    width: int
    bins: list[list[_Block]] = field(default_factory=list)
    free: list[int] = field(default_factory=list)

    def take(self, blocks: Sequence[_Block], micro_tokens: int, share: bool) -> bool:
        """Places the blocks of a unit, each into the first pack with room or a new one; ``False`` if there is no room for all."""
        free, places = list(self.free), []
        for block in blocks:
            fits = (n for n, room in enumerate(free) if room >= block.size) if share else iter(())
            place = next(fits, len(free))
            if place == len(free):
                if self.bins and (place + 1) * self.width > micro_tokens:
                    return False
                free.append(self.width)
            free[place] -= block.size
            places.append(place)
        self.free = free
        self.bins += [[] for _ in range(len(free) - len(self.bins))]
        for block, place in zip(blocks, places):
            self.bins[place].append(block)
        return True


def pack(
    examples: Sequence[Example],
    *,
    totals: Totals | None = None,
    micro_tokens: int = 2048,
    width: int | None = None,
    share: bool = True,
    stems: bool = False,
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
        stems: whether rows of a unit may share their beginning, where that is cheaper; needs ``share``.
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
    layouts = _layouts(examples, micro_tokens, width, share, stems and share)
    return [_batch(examples, layout, totals, step, steps, seed, device) for layout in layouts]


def _layouts(examples: Sequence[Example], micro_tokens: int, width: int | None, share: bool, stems: bool) -> list[_Layout]:
    units: dict[int, list[int]] = {}
    for index, example in enumerate(examples):
        units.setdefault(example.unit, []).append(index)
    blocks = [_trees(examples, rows, width) if stems else _alone(examples, rows) for rows in units.values()]
    waiting = sorted(blocks, key=_widest, reverse=True)
    layouts: list[_Layout] = []
    while waiting:
        layout = _Layout(width or _widest(waiting[0]))
        waiting = [unit for unit in waiting if not layout.take(unit, micro_tokens, share)]
        layouts.append(layout)
    return layouts


def _widest(blocks: Sequence[_Block]) -> int:
    return max(block.size for block in blocks)


def _alone(examples: Sequence[Example], rows: Sequence[int]) -> list[_Block]:
    return [_Block([row], len(examples[row])) for row in rows]


def _trees(examples: Sequence[Example], rows: Sequence[int], width: int | None) -> list[_Block]:
    """The rows of a unit as trees with the beginning that all of them share; a row joins the last tree where that is cheaper
    than standing alone."""
    stem = _stem([examples[row] for row in rows]) if len(rows) > 1 else 0
    if not stem:
        return _alone(examples, rows)
    longest = max(len(examples[row]) for row in rows)
    trees: list[_Block] = []
    for row in rows:
        length = len(examples[row])
        before, after = (trees[-1].size, trees[-1].size + length - stem) if trees else (0, 0)
        dearer = _cost(after) - _cost(before) >= length * (LINEAR + longest)
        if not trees or dearer or after > (width or after):
            trees.append(_Block([row], length, stem))
        else:
            trees[-1].rows.append(row)
            trees[-1].size = after
    return [_Block(tree.rows, tree.size, stem if len(tree.rows) > 1 else 0) for tree in trees]


def _cost(width: int) -> int:
    return width * (LINEAR + width)


def _stem(rows: Sequence[Example]) -> int:
    """Tokens that the rows share at their beginning, but the last before the first trained one: it predicts each row's own."""
    untrained = [next((i for i, t in enumerate(row.trained) if t), len(row)) for row in rows]
    limit, ids = min(untrained), [np.asarray(row.input_ids[: min(untrained)], np.int64) for row in rows]
    same = np.logical_and.reduce([ids[0] == other for other in ids[1:]])
    return max(0, (limit if same.all() else int(same.argmin())) - 1)


def _batch(
    examples: Sequence[Example],
    layout: _Layout,
    totals: Totals,
    step: int,
    steps: int,
    seed: int,
    device: str | torch.device,
) -> Batch:
    shape = (len(layout.bins), layout.width)
    index = [row for blocks in layout.bins for block in blocks for row in block.rows]
    rows = [examples[i] for i in index]
    ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    owner, positions, tree = np.full(shape, -1, np.int64), np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    token_values = {name: np.zeros(shape, np.float32) for name in sorted({k for r in rows for k in r.token_values})}
    numbers, placed = iter(range(len(rows))), 0
    for n, blocks in enumerate(layout.bins):
        start = 0
        for block in blocks:
            tree[n, start : start + block.size] = placed
            stem, placed = block.stem, placed + 1
            ids[n, start : start + stem] = examples[block.rows[0]].input_ids[:stem]
            positions[n, start : start + stem] = np.arange(stem)
            start += stem
            for row in (examples[i] for i in block.rows):
                stop = start + len(row) - stem
                tokens, trained = np.asarray(row.input_ids, np.int64), np.asarray(row.trained, bool)
                ids[n, start:stop] = tokens[stem:]
                owner[n, start:stop] = next(numbers)
                # Padding goes on counting from the last row: it stays below S, and looks like one more causal stretch.
                positions[n, start:] = stem + np.arange(shape[1] - start)
                labels[n, start : stop - 1] = np.where(trained[stem + 1 :], tokens[stem + 1 :], IGNORE)
                for name, values in row.token_values.items():
                    token_values[name][n, start : stop - 1] = np.asarray(values, np.float32)[stem + 1 :]
                start = stop
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
        stem=_tensor(tree, device) if any(block.stem for blocks in layout.bins for block in blocks) else None,
        index=_tensor(np.array(index, np.int64), device),
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
    positions, found = batch.position_ids.flatten().cpu().numpy(), {}
    for row in range(batch.rows):
        at = owner == row
        shared = int(positions[at][0])
        found[row] = [0.0] * (shared + 1) + flat[at][:-1].tolist()
    return found
