"""Forms recovered from exact data, chosen by AICc as it is computed by hand, intervals that cover, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from whet.errors import DataError
from whet.forecast.log_fits import ERROR, FLOOR, PERFORMANCE, Points, fits
from whet.forecast.observations import Observation, Observed, Series, series_of
from whet.forecast.posttrain_power_law import PosttrainPowerLaw

SIZES = np.array([25.0, 50, 100, 200, 400, 800])


def observed(scores: np.ndarray, sizes: np.ndarray = SIZES, lower: bool = False) -> Observed:
    table = np.atleast_2d(scores)
    rows = tuple(Observation(x, y, seed) for seed, row in enumerate(table) for x, y in zip(sizes, row))
    return Observed(rows, "perplexity" if lower else "accuracy", lower)


@pytest.mark.parametrize(
    ("scores", "form", "parameters"),
    [
        (0.05 * SIZES**0.3, PERFORMANCE, {"a": 0.05, "b": 0.3}),
        (1 - 0.9 * SIZES**-0.2, ERROR, {"k": 0.9, "b": 0.2}),
        (1 - (0.2 + 0.9 * SIZES**-0.5), FLOOR, {"k": 0.9, "b": 0.5, "floor": 0.2}),
    ],
)
def test_noise_free_laws_are_recovered_and_chosen(scores: np.ndarray, form: str, parameters: dict[str, float]) -> None:
    found = PosttrainPowerLaw()(observed(scores), [3200])
    one = found.extrapolations[0]
    assert one.figures["form"] == form
    assert one.parameters == pytest.approx(parameters, rel=1e-6)


def test_a_floor_under_the_error_is_detected_by_a_better_criterion_and_its_absence_too() -> None:
    rng = np.random.default_rng(0)
    for floor, better in ((0.25, FLOOR), (0.0, ERROR)):
        sizes = np.array([25.0, 50, 100, 200, 400, 800, 1600, 3200])
        error = (floor + 2.0 * sizes**-0.5) * np.exp(rng.normal(0, 0.02, (3, 8)))
        (series,) = series_of(observed(error, sizes, lower=True), "law", least=4)
        found = fits(Points.of(series, 1.0, True))
        assert min(found, key=lambda name: found[name].aicc[0]) == better


def test_the_criterion_is_that_of_the_scores_own_scale() -> None:
    """Log-normal likelihoods of score and error, each as a density of the score, computed directly."""
    scores = 0.05 * SIZES**0.3 * np.exp(np.random.default_rng(1).normal(0, 0.05, 6))
    (series,) = series_of(observed(scores), "law", least=4)
    for name, form in fits(Points.of(series, 1.0, False), (PERFORMANCE, ERROR)).items():
        y = scores if name == PERFORMANCE else 1 - scores
        slope, intercept = np.polyfit(np.log(SIZES), np.log(y), 1)
        off = np.log(y) - intercept - slope * np.log(SIZES)
        variance = np.mean(off**2)
        density = np.exp(-(off**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance) / y
        aicc = -2 * np.log(density).sum() + 2 * 3 + 2 * 3 * 4 / (6 - 3 - 1)
        constant = 6 * np.log(2 * np.pi) + 6
        assert form.aicc[0] == pytest.approx(aicc - constant, rel=1e-9)


def test_the_floor_is_found_as_scipy_finds_it() -> None:
    rng = np.random.default_rng(2)
    error = (0.2 + 0.9 * SIZES**-0.5) * np.exp(rng.normal(0, 0.02, 6))
    form = fits(Points(SIZES, error[None], 1.0, True), (FLOOR,), polish=True)[FLOOR]
    log_law = lambda n, e, k, b: np.log(e + k * n**-b)  # noqa: E731
    (e, k, b), _ = curve_fit(log_law, SIZES, np.log(error), p0=[0.2, 0.9, 0.5], bounds=(0, [1, 9, 5]), xtol=1e-15, ftol=1e-15)
    assert [form.floor[0], form.k[0], -form.p[0]] == pytest.approx([e, k, b], rel=1e-4)


def test_rows_of_points_do_not_see_each_other_and_gaps_count_for_nothing() -> None:
    rng = np.random.default_rng(3)
    error = (0.2 + 0.9 * SIZES**-0.5) * np.exp(rng.normal(0, 0.02, (3, 6)))
    together = fits(Points(SIZES, error, 1.0, True))
    alone = fits(Points(SIZES, error[1:2], 1.0, True))
    gapped = fits(Points(np.append(SIZES, 7.0), np.append(error[1:2], [[np.nan]], axis=1), 1.0, True))
    for name in (ERROR, FLOOR):
        assert together[name].aicc[1] == pytest.approx(alone[name].aicc[0], rel=1e-9)
        assert gapped[name].at(np.array([3200.0]))[0] == pytest.approx(alone[name].at(np.array([3200.0]))[0], rel=1e-3)


@pytest.mark.parametrize("seeds", [1, 5])
def test_intervals_cover_a_new_run(seeds: int) -> None:
    inside = 0
    sizes, truth = np.array([25.0, 50, 100, 200, 400, 800, 1600]), 1 - 0.9 * 3200**-0.2
    for trial in range(40):
        rng = np.random.default_rng(trial)
        scores = 1 - 0.9 * sizes**-0.2 * np.exp(rng.normal(0, 0.03, (seeds, 7)))
        (p,) = PosttrainPowerLaw(resamples=200)(observed(scores, sizes), [3200]).predictions
        inside += p.low <= 1 - (1 - truth) * np.exp(rng.normal(0, 0.03)) <= p.high
    assert inside >= 33


def test_a_loss_is_an_error_and_less_of_it_is_better() -> None:
    two = [observed(floor + 3.0 * SIZES**-0.4, lower=True).rows for floor in (0.5, 0.8)]
    rows = tuple(Observation(o.size, o.score, 0, name) for name, several in zip(("low", "high"), two) for o in several)
    found = PosttrainPowerLaw()(Observed(rows, "perplexity", lower=True), [3200])
    assert found.ranking == ("low", "high")
    assert found.predictions[0].value == pytest.approx(0.5 + 3.0 * 3200**-0.4, rel=1e-6)


def test_predictions_stay_below_the_ceiling_and_say_how_far_they_reach() -> None:
    found = PosttrainPowerLaw(form="performance")(observed(0.05 * SIZES**0.4), [3200, 6400])
    near, far = found.predictions
    assert near.value == 1.0 >= near.high and not near.doubt
    assert "extrapolates 8 times" in far.doubt
    assert "passes the ceiling" in found.text()
    with pytest.raises(Exception, match="reach"):
        from whet import parts

        parts.build("forecast", {"name": "posttrain-power-law", "reach": 20})


@pytest.mark.parametrize(
    ("scores", "sizes", "message"),
    [
        (np.array([0.1, 0.2, 0.3]), SIZES[:3], "needs at least 4 sizes, got 3"),
        (
            np.array([0.1, 0.2, 0.3, 0.4]),
            np.array([100.0, 200, 300, 400]),
            "span a factor of 4, from 100 to 400; it takes at least 8",
        ),
        (np.linspace(0.96, 0.99, 6), SIZES, "is above 0.95 of the ceiling"),
        (np.linspace(0.5, 0.3, 6), SIZES, "do not get better with size"),
        (50 + SIZES / 100, SIZES, "set ceiling"),
        (np.array([0.0, 0.1, 0.3, 0.5, 0.8, 1.0]), SIZES, "no form can be fitted\\. The form .*what it fits is 0 at size 25"),
    ],
)
def test_what_is_refused(scores: np.ndarray, sizes: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        PosttrainPowerLaw()(observed(scores, sizes), [3200])


def test_a_form_without_logarithm_is_left_out_and_named() -> None:
    scores = np.array([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]])
    found = PosttrainPowerLaw(resamples=100)(observed(scores), [3200])
    assert "The form 'performance' is left out: what it fits is 0 at size 25 and has no logarithm." in found.text()
    assert Series("", SIZES, scores).means[0] == 0.025
