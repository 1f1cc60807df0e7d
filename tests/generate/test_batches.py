"""Batches of similar lengths hold every sequence once and keep to their limits."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies

from whet.generate.batches import by_length

LENGTHS = strategies.lists(strategies.integers(1, 40), max_size=60)


@given(LENGTHS, strategies.integers(1, 100), strategies.integers(1, 60))
def test_each_item_comes_once_and_no_batch_is_over_a_limit(lengths: list[int], positions: int, most: int) -> None:
    batches = list(
        by_length(range(len(lengths)), lengths.__getitem__, positions, scored=lambda i: lengths[i] // 2, most_scored=most)
    )
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= positions
        assert len(batch) == 1 or sum(lengths[i] // 2 for i in batch) <= most


@given(LENGTHS, strategies.integers(1, 100))
def test_the_longest_come_first_and_a_batch_ends_only_when_it_is_full(lengths: list[int], positions: int) -> None:
    batches = list(by_length(range(len(lengths)), lengths.__getitem__, positions))
    flat = [i for batch in batches for i in batch]
    assert flat == np.argsort([-length for length in lengths], kind="stable").tolist()
    assert all((len(batch) + 1) * lengths[batch[0]] > positions for batch in batches[:-1])
