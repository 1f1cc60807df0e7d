"""Performance profiles: hand-made tables, the integral, what must not change a score, misses, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import DataError
from whet.measure.statistics import performance_profile, profile, ratios, sign_test, speed_up

INF = math.inf


def test_the_scores_of_a_hand_made_table() -> None:
    times = {"fast": [1, 1], "slow": [2, 4], "never": [INF, INF]}
    assert ratios(times) == {"fast": [1, 1], "slow": [2, 4], "never": [INF, INF]}
    assert performance_profile(times) == {"fast": 1.0, "slow": pytest.approx((2 / 3 + 0) / 2), "never": 0.0}
    assert performance_profile({"a": [1.0, 9.0, INF], "b": [2.0, 3.0, 5.0]}) == {
        "a": pytest.approx((1 + 1 / 3 + 0) / 3),
        "b": pytest.approx((2 / 3 + 1 + 1) / 3),
    }


def test_a_workload_that_nobody_reaches_is_worth_nothing() -> None:
    assert performance_profile({"a": [1.0, INF], "b": [2.0, INF]}) == {"a": 0.5, "b": pytest.approx(1 / 3)}


tables = st.integers(2, 4).flatmap(
    lambda contenders: st.lists(
        st.lists(st.one_of(st.floats(0.1, 100), st.just(INF)), min_size=contenders, max_size=contenders), min_size=1, max_size=6
    )
)


def by_contender(columns: list[list[float]]) -> dict[str, list[float]]:
    return {str(number): list(mine) for number, mine in enumerate(zip(*columns))}


@settings(deadline=None)
@given(tables)
def test_the_score_is_the_integral_of_the_profile(columns: list[list[float]]) -> None:
    times = by_contender(columns)
    grid = np.linspace(1, 4, 1501)
    for name, score in performance_profile(times).items():
        heights = profile(ratios(times)[name], grid)
        assert list(heights) == sorted(heights)
        assert score == pytest.approx(np.trapezoid(heights, grid) / 3, abs=2e-3)


@settings(deadline=None)
@given(tables, st.data())
def test_multiplying_the_times_of_a_workload_changes_nothing(columns: list[list[float]], data: st.DataObject) -> None:
    factors = data.draw(st.lists(st.sampled_from([0.25, 0.5, 2.0, 1024.0]), min_size=len(columns), max_size=len(columns)))
    scaled = [[factor * t for t in column] for factor, column in zip(factors, columns)]
    first, second = by_contender(columns), by_contender(scaled)
    assert performance_profile(first) == performance_profile(second)
    assert speed_up(first, "0", "1").value == pytest.approx(speed_up(second, "0", "1").value, nan_ok=True)
    assert sign_test(first, "0", "1") == sign_test(second, "0", "1")


@settings(deadline=None)
@given(tables)
def test_always_fastest_is_1_and_never_is_0(columns: list[list[float]]) -> None:
    reached = [[t for t in column if math.isfinite(t)] for column in columns]
    times = by_contender([[min(r, default=1.0) / 2, *column, INF] for r, column in zip(reached, columns)])
    scores = list(performance_profile(times).values())
    assert scores[0] == 1.0 and scores[-1] == 0.0 and all(0 <= s <= 1 for s in scores)


def test_a_fast_newcomer_lowers_the_others() -> None:
    times = {"a": [4.0, 4.0], "b": [8.0, 4.0]}
    with_new = performance_profile({**times, "new": [2.0, 2.0]})
    assert with_new["a"] < performance_profile(times)["a"] and with_new["new"] == 1.0


def test_the_speed_up_is_the_geometric_mean_over_what_both_reach() -> None:
    times = {"a": [1.0, 2.0, INF, 3.0], "b": [2.0, 16.0, 5.0, INF]}
    found = speed_up(times, "a", "b")
    assert found.value == pytest.approx(4.0) and (found.n, found.missed, found.other_missed) == (2, 1, 1)
    assert found.low == pytest.approx(2.0) and found.high == pytest.approx(8.0)
    assert speed_up(times, "b", "a").value == pytest.approx(1 / 4.0)
    alone = speed_up({"a": [1.0], "b": [3.0]}, "a", "b")
    assert alone.value == pytest.approx(3.0) and math.isnan(alone.low)


def test_the_interval_holds_the_true_speed_up_most_of_the_time() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(100):
        logs = rng.normal(math.log(1.5), 0.4, size=40)
        found = speed_up({"a": [1.0] * 40, "b": list(np.exp(logs))}, "a", "b", seed=seed)
        held += found.low <= 1.5 <= found.high
    assert held >= 88


def test_the_sign_test_counts_misses_and_leaves_ties_out() -> None:
    times = {"a": [1.0, 1.0, 1.0, 2.0, INF, 1.0], "b": [2.0, INF, 3.0, 2.0, INF, 5.0]}
    found = sign_test(times, "a", "b")
    assert (found.statistic, found.n) == (4, 4) and found.p == pytest.approx(2 * 0.5**4)
    assert "2 without a difference" in found.note
    assert sign_test({"a": [1.0], "b": [1.0]}, "a", "b").p == 1.0


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"a": [1.0], "b": [1.0, 2.0]}, "one time for each workload"),
        ({"a": [], "b": []}, "one time for each workload"),
        ({}, "no contenders"),
        ({"a": [1.0, 0.0]}, "'a' has 0.0 on workload 1; expected a time above 0"),
        ({"a": [math.nan]}, "infinite for a miss"),
    ],
)
def test_tables_that_say_nothing_are_refused(times: dict[str, list[float]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        performance_profile(times)


def test_other_refusals() -> None:
    with pytest.raises(DataError, match="limit must be above 1"):
        performance_profile({"a": [1.0]}, limit=1.0)
    with pytest.raises(DataError, match="unknown contender 'c'"):
        sign_test({"a": [1.0], "b": [1.0]}, "a", "c")
