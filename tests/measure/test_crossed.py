"""The test over seeds and items: its level where plain t fails, closed forms, and refusals."""

import math

import numpy as np
import pytest
from scipy import stats

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


@pytest.mark.parametrize("spreads", [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_variance_and_freedom_by_hand(spreads):
    rng = np.random.default_rng(5)
    of_seed, of_item = rng.normal(0, spreads[0], (4, 1)), rng.normal(0, spreads[1], (1, 6))
    rest = rng.normal(0, 0.5, (4, 6))
    # Sums of squares of the remainder alone, so that without spreads seeds and items show less than the remainder has.
    rest -= 0.9 * (rest.mean(1, keepdims=True) * (spreads[0] == 0) + rest.mean(0, keepdims=True) * (spreads[1] == 0))
    d = 0.3 + of_seed + of_item + rest
    grand = sum(d[s, i] for s in range(4) for i in range(6)) / 24
    seeds = sum(6 * (d[s].sum() / 6 - grand) ** 2 for s in range(4)) / 3
    items = sum(4 * (d[:, i].sum() / 4 - grand) ** 2 for i in range(6)) / 5
    left = sum((d[s, i] - d[s].sum() / 6 - d[:, i].sum() / 4 + grand) ** 2 for s in range(4) for i in range(6)) / 15
    assert (seeds > left) == (spreads[0] > 0) and (items > left) == (spreads[1] > 0)
    a = max(seeds, left)
    variance = max(a + items - left, a, items) / 24
    freedom = (24 * variance) ** 2 / (a**2 / 3 + items**2 / 5 + left**2 / 15)
    found = crossed_t(d, np.zeros_like(d), confidence=0.9)
    assert (found.standard_error**2, found.freedom) == (pytest.approx(variance), pytest.approx(freedom))
    t = stats.t(freedom, scale=math.sqrt(variance))
    assert found.test.p == pytest.approx(2 * t.sf(abs(grand))) and found.test.low == pytest.approx(grand + t.ppf(0.05))
    assert found.half_width(0.9) == pytest.approx(t.ppf(0.95))
    assert found.lies_within(2.0) == pytest.approx(max(t.cdf(grand - 2.0), t.sf(grand + 2.0)))
    shift = found.detectable(0.8, 0.01) / math.sqrt(variance)
    assert stats.nct.sf(stats.t.ppf(0.995, freedom), freedom, shift) == pytest.approx(0.8, abs=1e-6)


def test_documents_of_unequal_length_keep_the_mean_over_items():
    d = np.random.default_rng(6).normal(0.2, 1, (3, 9))
    found = crossed_t(d, np.zeros_like(d), groups=list("aaaabbccc"))
    sums = np.stack([d[:, :4].sum(1), d[:, 4:6].sum(1), d[:, 6:].sum(1)], 1) / 3
    by_hand = crossed_t(sums, np.zeros_like(sums))
    assert found.test.effect == pytest.approx(d.mean()) and found.standard_error == pytest.approx(by_hand.standard_error)


def test_documents_take_the_place_of_items():
    rng = np.random.default_rng(0)
    a, b = two_arms(rng, 4, 60, gain=0.4)
    doubled = [np.repeat(x, 2, axis=1) for x in (a, b)]
    grouped = crossed_t(doubled[1], doubled[0], groups=np.repeat(np.arange(60), 2).tolist())
    assert grouped.test.p == pytest.approx(crossed_t(b, a).test.p)


def test_arms_without_any_variation():
    ones, zeros = np.ones((3, 4)), np.zeros((3, 4))
    assert crossed_t(ones, ones).test.p == 1.0 and crossed_t(ones, zeros).test.p == 2**-3
    assert crossed_t(ones, ones).lies_within(0.01) == pytest.approx(0.99**4) and crossed_t(ones, zeros).lies_within(0.01) == 1.0


def test_that_nothing_differed_on_few_items_shows_no_equality_and_has_no_power():
    few, many = (crossed_t(np.ones((3, n)), np.ones((3, n))) for n in (8, 400))
    assert few.lies_within(0.01) > 0.9 and many.lies_within(0.01) < 0.05
    assert few.test.high == pytest.approx(1 - 0.025 ** (1 / 8)) and few.test.low == -few.test.high
    assert few.detectable() == math.inf and 0.015 < many.detectable() < 0.025
    losses = np.random.default_rng(0).normal(2, 1, (3, 8))  # equal to the last bit: the same model
    assert crossed_t(losses, losses).lies_within(0.01) == 0.0 and crossed_t(losses, losses).detectable() == 0.0


@pytest.mark.parametrize(("items", "margin"), [(8, 0.05), (50, 0.1), (100, 0.03), (300, 0.01)])
def test_arms_that_differ_by_the_margin_are_called_equal_one_time_in_twenty(items, margin):
    rng = np.random.default_rng(items)
    wrong = 0
    for _ in range(400):
        better = rng.random(items) < margin  # at every seed
        first = np.tile((rng.random(items) < 0.5) & ~better, (3, 1)).astype(float)
        wrong += crossed_t(np.maximum(first, better), first).lies_within(margin) < 0.05
    assert wrong <= 31  # 20 expected at the level; more than 31 has a chance of about 1%


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_what_is_said_to_be_seen_is_seen_where_hardly_an_item_differed(noise):
    rng, items = np.random.default_rng(2), 100
    stated = []
    for _ in range(60):
        first = np.tile(rng.random(items) < 0.5, (3, 1))
        stated.append(crossed_t((first ^ (rng.random((3, items)) < noise)).astype(float), first.astype(float)).detectable())
    found = 0
    for _ in range(200):
        better = rng.random(items) < np.median(stated)
        first = np.tile((rng.random(items) < 0.5) & ~better, (3, 1)).astype(float)
        found += crossed_t(np.maximum(first, better), first).test.p < 0.05
    assert found >= 140


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
