"""Orders are pure functions of (size, epoch, seed), and subsets are what their paper says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet import parts
from whet.data.schedules.rs2 import rs2
from whet.data.schedules.sequential import sequential
from whet.data.schedules.shuffle import shuffle
from whet.data.schedules.static_subset import static_subset
from whet.errors import RecipeError


@pytest.mark.parametrize("name", ["shuffle", "sequential", "rs2", "static-subset"])
def test_pure_and_int64(name):
    schedule = parts.build("schedule", name)
    first = schedule(50, 3, 7)
    schedule(50, 4, 7)
    assert first.dtype == np.int64
    assert np.array_equal(first, schedule(50, 3, 7))
    assert len(set(first.tolist())) == len(first)


def test_shuffle_changes_with_epoch_and_seed():
    assert sorted(shuffle(20, 0, 0)) == list(range(20)) == list(sequential(20, 5, 1))
    assert not np.array_equal(shuffle(20, 0, 0), shuffle(20, 1, 0))
    assert not np.array_equal(shuffle(20, 0, 0), shuffle(20, 0, 1))


@pytest.mark.parametrize("replacement", [True, False])
def test_rs2_with_ratio_1_is_shuffle(replacement):
    for epoch in range(4):
        assert np.array_equal(rs2(13, epoch, 5, ratio=1.0, replacement=replacement), shuffle(13, epoch, 5))


def test_rs2_without_replacement_shows_every_row_once_per_pass():
    rounds = [rs2(20, epoch, 1, ratio=0.25, replacement=False) for epoch in range(12)]
    for start in range(0, 12, 4):
        assert sorted(np.concatenate(rounds[start : start + 4])) == list(range(20))


@given(st.integers(2, 30), st.floats(0.05, 1.0), st.integers(0, 5))
def test_rs2_passes_hold_for_any_size(size, ratio, seed):
    block = int(ratio * size + 1e-9)
    if block < 1:
        return
    rounds = [rs2(size, epoch, seed, ratio=ratio, replacement=False) for epoch in range(2 * size // block)]
    assert all(len(set(r.tolist())) == block for r in rounds)
    stream = np.concatenate(rounds)
    for start in range(0, len(stream) - size + 1, size):
        assert sorted(stream[start : start + size]) == list(range(size))


def test_rs2_with_replacement_draws_anew_and_static_does_not():
    seen = {tuple(sorted(rs2(100, epoch, 0, ratio=0.1))) for epoch in range(20)}
    assert len(seen) == 20
    static = [static_subset(100, epoch, 0, ratio=0.1) for epoch in range(5)]
    assert len({tuple(sorted(s)) for s in static}) == 1
    assert not np.array_equal(static[0], static[1])


def test_ratio_is_checked():
    with pytest.raises(RecipeError, match=r"less than one row"):
        rs2(5, 0, 0, ratio=0.1)
    with pytest.raises(RecipeError, match=r"in \(0, 1\]"):
        static_subset(5, 0, 0, ratio=1.5)
    with pytest.raises(RecipeError, match=r"schedule.ratio|rs2.ratio"):
        parts.build("schedule", {"name": "rs2", "ratio": 0})
    assert len(rs2(100, 0, 0, ratio=0.29)) == 29
