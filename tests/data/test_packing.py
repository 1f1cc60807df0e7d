"""Packing loses nothing, keeps units together, and is independent of how a step is split."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.data.example import IGNORE, Example
from whet.data.packing import count, pack, token_rows


def row(length: int, unit: int, first: int = 0) -> Example:
    ids = [(first + 7 * unit + i) % 50 for i in range(length)]
    trained = [i > 0 and i % 3 != 0 for i in range(length)]
    return Example(ids, trained, unit, {"weight": float(length)}, {"mark": [100.0 * unit + i for i in range(length)]})


def as_rows(batches: list) -> dict[tuple, list]:
    """Each packed example, read back: (unit, ids) -> labels, positions and token values."""
    found: dict[tuple, list] = {}
    for batch in batches:
        for r in range(batch.rows):
            where = batch.row == r
            key = (int(batch.unit[r]), tuple(batch.input_ids[where].tolist()))
            found.setdefault(key, []).append(
                (batch.labels[where].tolist(), batch.position_ids[where].tolist(), batch.token_values["mark"][where].tolist())
            )
    return found


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=25),
    group=st.integers(1, 3),
    micro=st.integers(1, 300),
    share=st.booleans(),
)
def test_every_row_lies_whole_in_exactly_one_place(lengths: list[int], group: int, micro: int, share: bool) -> None:
    examples = [row(length, i // group, first=i) for i, length in enumerate(lengths)]
    batches = pack(examples, micro_tokens=micro, share=share)
    assert sum(b.rows for b in batches) == len(examples)
    found = as_rows(batches)
    for e in examples:
        expected = [t if m else IGNORE for t, m in zip(e.input_ids[1:], e.trained[1:])] + [IGNORE]
        marks = [*e.token_values["mark"][1:], 0.0]
        assert (expected, list(range(len(e))), marks) in found[(e.unit, tuple(e.input_ids))]
    units = [set(b.unit.tolist()) for b in batches]
    assert sum(map(len, units)) == len(set().union(*units)), "a unit was split over two micro-batches"
    for b in batches:
        packs = [set(b.unit[line[line >= 0]].tolist()) for line in b.row]
        assert b.input_ids.numel() <= micro or set.intersection(*packs), "only a unit that alone is too large exceeds the limit"
        assert b.totals == count(examples)
        if not share:
            assert b.rows == len(b.input_ids)


def test_layout_is_deterministic_and_tight() -> None:
    examples = [row(length, i) for i, length in enumerate([100, 60, 40, 30, 70, 20, 80])]
    first, again = pack(examples, micro_tokens=400), pack(examples, micro_tokens=400)
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(first, again))
    assert [tuple(b.input_ids.shape) for b in first] == [(4, 100)]
    assert float((first[0].row >= 0).float().mean()) == 1.0


def test_token_rows_undoes_the_shift() -> None:
    examples = [row(5, 0), row(9, 1), row(3, 2)]
    for batch in pack(examples):
        for r, numbers in token_rows(batch, batch.token_values["mark"]).items():
            original = examples[int(batch.unit[r])].token_values["mark"]
            assert numbers == [0.0, *original[1:]]


def test_a_row_wider_than_the_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 9 tokens does not fit into packs of 8"):
        pack([row(9, 0)], width=8)


def test_values_follow_their_rows() -> None:
    for batch in pack([row(4, 0), row(9, 1), row(6, 2)], micro_tokens=10):
        lengths = torch.bincount(batch.row[batch.row >= 0], minlength=batch.rows).float()
        assert torch.equal(batch.values["weight"], lengths)
