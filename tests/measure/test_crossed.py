"""The test over seeds and items: its level where plain t fails, closed forms, and refusals."""

import math

import numpy as np
import pytest

from whet.errors import DataError
from whet.measure.statistics import crossed_t, paired_t


def two_arms(rng, seeds, items, seed_spread=0.0, item_spread=0.0, gain=0.0):
    """Right-or-wrong scores of two learners that are equal on average, apart from ``gain``."""
    hardness = rng.normal(0, 1, items)
    arms = []
    for shift in (0.0, gain):
        own = rng.normal(0, seed_spread, (seeds, 1)) + rng.normal(0, item_spread, items)
        arms.append((hardness + own + rng.normal(0, 1, (seeds, items)) + shift > 0).astype(float))
    return arms


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("spread", [(0.0, 0.0), (0.2, 0.0), (0.0, 0.5), (0.1, 0.5)])
def test_equal_learners_are_rarely_called_different(seeds, spread):
    rng = np.random.default_rng(seeds)
    alarms = sum(crossed_t(*two_arms(rng, seeds, 150, *spread)).test.p < 0.05 for _ in range(300))
    assert alarms <= 25  # 15 expected at the level; more than 25 has a chance under 1%


def test_the_plain_t_test_over_seeds_fails_where_items_differ():
    rng = np.random.default_rng(3)
    arms = [two_arms(rng, 8, 150, 0.0, 0.5) for _ in range(300)]
    plain = sum(paired_t(b.mean(1), a.mean(1)).p < 0.05 for a, b in arms)
    assert plain > 25 > sum(crossed_t(b, a).test.p < 0.05 for a, b in arms)


def test_without_item_differences_it_is_the_t_test_over_seeds():
    seeds = np.array([0.2, 0.5, -0.1, 0.4, 0.3])
    d = np.repeat(seeds[:, None], 40, axis=1)
    ours, plain = crossed_t(d, np.zeros_like(d)), paired_t(seeds, np.zeros(5))
    assert ours.test.p == pytest.approx(plain.p, rel=1e-9)
    assert (ours.test.low, ours.test.high) == (pytest.approx(plain.low), pytest.approx(plain.high))


def test_a_difference_as_large_as_detectable_is_found_four_times_in_five():
    rng = np.random.default_rng(1)
    tables = [two_arms(rng, 5, 300, 0.05, 0.3, gain) for gain in [0.0] * 100 + [0.3] * 100]
    tests = [crossed_t(b, a) for a, b in tables]
    seen = np.mean([t.detectable() for t in tests[:100]])
    truth = np.mean([t.test.effect for t in tests[100:]])
    found = np.mean([t.test.p < 0.05 for t in tests[100:]])
    assert seen * 0.8 < truth < seen * 1.6 and found > 0.7


def test_documents_take_the_place_of_items():
    rng = np.random.default_rng(0)
    a, b = two_arms(rng, 4, 60, gain=0.4)
    doubled = [np.repeat(x, 2, axis=1) for x in (a, b)]
    grouped = crossed_t(doubled[1], doubled[0], groups=np.repeat(np.arange(60), 2).tolist())
    assert grouped.test.p == pytest.approx(crossed_t(b, a).test.p)


def test_arms_without_any_variation():
    ones, zeros = np.ones((3, 4)), np.zeros((3, 4))
    assert crossed_t(ones, ones).test.p == 1.0 and crossed_t(ones, zeros).test.p == 0.0
    assert crossed_t(ones, ones).lies_within(0.01) == 0.0 and crossed_t(ones, zeros).lies_within(0.01) == 1.0


@pytest.mark.parametrize(
    ("first", "second"),
    [([[1.0, 2.0]], [[1.0, 2.0]]), ([[1.0], [2.0]], [[1.0], [2.0]]), ([[1, 2], [3, 4]], [[1, 2, 3], [3, 4, 5]])],
)
def test_too_little_or_uneven_is_refused(first, second):
    with pytest.raises(DataError, match="at least 2 seeds by 2 items"):
        crossed_t(first, second)


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="NaN"):
        crossed_t([[1.0, math.nan], [0.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]])
