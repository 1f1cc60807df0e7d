"""Trends against their own law and against scipy, the levels of a trace, intervals that cover, stopping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from whet import parts
from whet.errors import DataError
from whet.forecast.curve_stop import CurveStop
from whet.forecast.learning_curve_trace import LearningCurveTrace
from whet.forecast.observations import Observation, Observed
from whet.forecast.power_laws import fit_trends
from whet.forecast.traces import FIRST, trace_of

SIZES = np.arange(40.0, 441.0, 20.0)


def law(x: np.ndarray, a: float = 2.0, b: float = 0.6, c: float = 0.97) -> np.ndarray:
    return np.asarray(c - a * np.asarray(x, dtype=float) ** -b)


def observed(scores: np.ndarray, sizes: np.ndarray = SIZES, group: str = "") -> Observed:
    table = np.atleast_2d(scores)
    return Observed(
        tuple(Observation(x, y, seed, group) for seed, row in enumerate(table) for x, y in zip(sizes, row)), "accuracy"
    )


@pytest.mark.parametrize(("a", "b", "c"), [(2.0, 0.6, 0.97), (1.3, 0.15, 0.8), (30.0, 2.0, 1.0)])
def test_an_exact_power_law_is_recovered_from_four_points(a: float, b: float, c: float) -> None:
    x = np.array([20.0, 40.0, 80.0, 160.0])
    fit = fit_trends(x, law(x, a, b, c)[None])
    found = [fit.a[0] * fit.scale ** fit.b[0], fit.b[0], fit.c[0]]
    assert found == pytest.approx([a, b, c], rel=1e-6)


def test_noisy_fits_are_those_of_scipy_and_rows_do_not_see_each_other() -> None:
    rng = np.random.default_rng(0)
    several = law(SIZES) + rng.normal(0, 0.004, (4, len(SIZES)))
    together = fit_trends(SIZES, several)
    for i, scores in enumerate(several):
        (a, b, c), _ = curve_fit(lambda x, a, b, c: c - a * x**-b, SIZES, scores, p0=[2.0, 0.6, 0.97], maxfev=20000)
        alone = fit_trends(SIZES, scores[None])
        assert [together.b[i], together.c[i]] == [alone.b[0], alone.c[0]]
        at = np.array([1280.0])
        assert together.at(at)[i] == pytest.approx(c - a * at**-b, abs=1e-6)


def test_falling_scores_get_the_flat_line() -> None:
    fit = fit_trends(SIZES, np.linspace(0.9, 0.8, len(SIZES))[None])
    assert fit.a[0] == 0.0 and fit.c[0] == pytest.approx(0.85)


def test_an_anchor_is_one_more_observation_at_infinity() -> None:
    scores = law(SIZES)
    free, held = fit_trends(SIZES, scores[None]), fit_trends(SIZES, scores[None], np.array([0.9]))
    far = fit_trends(np.append(SIZES, 1e30), np.append(scores, 0.9)[None])
    assert 0.9 < held.c[0] < free.c[0]
    assert held.c[0] == pytest.approx(far.c[0], abs=1e-6)


def test_the_trace_of_an_exact_law_is_constant() -> None:
    trace = trace_of(SIZES, law(SIZES), 1280.0, LearningCurveTrace())
    assert trace.c == pytest.approx(np.full(len(SIZES) - FIRST + 1, 0.97), abs=1e-6)
    assert trace.targets == pytest.approx(np.full(len(trace.c), law(np.array([1280.0]))[0]), abs=1e-7)
    assert trace.gains == pytest.approx(0.97 - law(SIZES[FIRST - 1 :]), abs=1e-6)
    assert trace.level is not None and trace.working is not None and trace.level >= max(trace.working, 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["agreement", "backbone"]))
def test_adding_observations_never_lowers_a_level(seed: int, rule: str) -> None:
    scores = law(SIZES) + np.random.default_rng(seed).normal(0, 0.01, len(SIZES))
    part = parts.build("forecast", {"name": "learning-curve-trace", "rule": rule})
    before = (0, 0)
    for count in range(6, len(SIZES) + 1, 3):
        trace = trace_of(SIZES[:count], scores[:count], 1280.0, part)
        # A level that is not reached lies at or after the next trend.
        working, level = (len(trace.c) if k is None else k for k in (trace.working, trace.level))
        assert working >= before[0] and level >= before[1]
        before = (working, level)


def test_a_forecast_says_what_was_asked_and_how_far_it_reaches() -> None:
    found = LearningCurveTrace(wanted=0.94)(observed(law(SIZES)), [1280, 5000])
    near, far = found.predictions
    assert near.value == pytest.approx(law(np.array([1280.0]))[0], abs=1e-6) and not near.doubt
    assert near.low <= near.value <= near.high
    assert "extrapolates 11.4 times beyond the largest observed size, 440" in far.doubt
    one = found.extrapolations[0]
    needed = one.figures["size needed for 0.94"]
    assert law(np.array([needed]))[0] == pytest.approx(0.94, abs=1e-6)
    assert one.figures["mean absolute percentage error over the rest"] < 1e-3
    assert (
        LearningCurveTrace(wanted=0.98)(observed(law(SIZES)), [1280]).extrapolations[0].figures["size needed for 0.98"] == np.inf
    )
    assert "NOT TO BE RELIED ON: extrapolates" in found.text()


def test_a_prediction_before_the_level_is_doubted() -> None:
    scores = law(SIZES[:6]) + np.array([0, 0.05, -0.04, 0.06, -0.05, 0.04])
    (prediction,) = LearningCurveTrace()(observed(scores, SIZES[:6]), [400]).predictions
    assert "the trends do not agree yet" in prediction.doubt
    assert "prediction level at: not reached" in LearningCurveTrace()(observed(scores, SIZES[:6]), [400]).text()


def test_learners_are_ranked_by_what_is_expected_of_them() -> None:
    quick, slow, poor = law(SIZES, 0.5, 0.9, 0.9), law(SIZES), law(SIZES, 0.7, 0.8, 0.7)
    rows = [observed(y, group=name).rows for name, y in (("quick", quick), ("slow", slow), ("poor", poor))]
    noise = np.random.default_rng(0).normal(0, 0.0005, 200)
    moved = tuple(Observation(o.size, min(1.0, o.score + e), 0, o.group) for o, e in zip(sum(rows, ()), noise))
    found = LearningCurveTrace()(Observed(moved), [1760])
    assert found.ranking == ("slow", "quick", "poor")
    assert any("need not be observed further: " in note and "poor" in note for note in found.notes)


def test_intervals_cover_what_comes() -> None:
    inside = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        (p,) = LearningCurveTrace(resamples=200)(observed(law(SIZES) + rng.normal(0, 0.005, len(SIZES))), [1280]).predictions
        inside += p.low <= law(np.array([1280.0]))[0] + rng.normal(0, 0.005) <= p.high
    assert inside >= 34


def test_seeds_carry_the_interval_where_there_are_several() -> None:
    rng = np.random.default_rng(0)
    apart = law(SIZES) + rng.normal(0, 0.02, (5, 1))
    (p,) = LearningCurveTrace()(observed(apart), [800]).predictions
    assert p.high - p.low > 0.01


def test_stop_when_the_possible_gain_is_within_what_is_asked() -> None:
    stop, on = CurveStop(within=0.06)(observed(law(SIZES))), CurveStop(within=0.04)(observed(law(SIZES)))
    left = 0.97 - law(SIZES)[-1]
    assert stop.stop and stop.met and stop.gain == pytest.approx(left, abs=1e-6)
    assert not on.met and "go on: at most 0.0519 can still be gained however far it goes" in on.text()
    bounded = CurveStop(within=0.04)(observed(law(SIZES)), [1280])
    assert bounded.stop and bounded.gain == pytest.approx(law(np.array([1280.0]))[0] - law(SIZES)[-1], abs=1e-6)


def test_nothing_known_is_no_reason_to_stop() -> None:
    scores = law(SIZES[:6]) + np.array([0, 0.05, -0.04, 0.06, -0.05, 0.04])
    found = CurveStop(within=10.0)(observed(scores, SIZES[:6]))
    assert not found.stop and found.gain == np.inf


@pytest.mark.parametrize(
    ("rows", "at", "message"),
    [
        (observed(law(SIZES[:4]), SIZES[:4]), [500], "needs at least 5 sizes, got 4"),
        (observed(100 * law(SIZES)), [500], r"a score of .* is above the ceiling 1; set ceiling \(100"),
        (observed(law(SIZES)), [], "at: name the sizes to predict"),
        (Observed(observed(law(SIZES)).rows, "perplexity", lower=True), [500], "less of perplexity is better"),
    ],
)
def test_what_is_refused(rows: Observed, at: list[float], message: str) -> None:
    with pytest.raises(DataError, match=f"learning-curve-trace: .*{message}|learning-curve-trace: {message}"):
        LearningCurveTrace()(rows, at)
