"""Calibrators: predictions that never change, a temperature with a closed optimum, losses by hand, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor

from whet import parts
from whet.errors import DataError
from whet.measure.calibration import Predictions, confidence, log_probabilities
from whet.measure.calibrator_losses.correctness_aware_loss import correctness_aware_loss
from whet.measure.calibrator_losses.nll import nll
from whet.measure.calibrators.transform_calibrator import _temperature
from whet.measure.statistics import auroc

BALANCED = {"name": "correctness-aware-loss", "balance": True}


def made(items: int = 600, seed: int = 0, sure: float = 3.0, classes: int = 5) -> Predictions:
    """Noisy logits that are ``sure`` times too large; the views' noise is another, so that their agreement tells something."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=items)
    signal = np.eye(classes)[labels] * rng.uniform(0, 4, size=(items, 1))
    seen = [sure * (signal + rng.normal(size=signal.shape)) for _ in range(4)]
    return Predictions.of(seen[0], labels, seen[1:])


def brier(stated: Tensor, right: Tensor) -> float:
    return float((stated - right.double()).square().mean())


def test_temperature_is_the_minimum_that_scipy_finds() -> None:
    predictions = made()
    fitted = parts.build("calibrator", "temperature-scaling")(predictions)
    rows = torch.arange(len(predictions.labels))

    def loss(inverse: float) -> float:
        return -float((predictions.logits * inverse).log_softmax(-1)[rows, predictions.labels].mean())

    best = minimize_scalar(loss, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-10})
    assert float(fitted.parameters["temperature"]) == pytest.approx(1 / best.x, rel=1e-5)
    assert float(fitted.parameters["temperature"]) > 1.5


def test_without_features_the_calibrator_is_temperature_scaling() -> None:
    predictions = made()
    bare = Predictions.of(predictions.logits, predictions.labels)
    for loss in ("nll", "correctness-aware-loss"):
        one = parts.build("calibrator", {"name": "temperature-scaling", "loss": loss})(bare)
        same = parts.build("calibrator", {"name": "transform-calibrator", "loss": loss, "own": False})(bare)
        assert torch.allclose(one(bare), same(bare), atol=1e-9)


def test_a_constant_temperature_is_plain_temperature_scaling() -> None:
    predictions, calibrator = made(), parts.build("calibrator", "transform-calibrator")
    fitted = calibrator(predictions)
    frozen = {**fitted.parameters, "outer": torch.zeros(16), "outer_bias": torch.tensor(2.0)}
    constant = math.log1p(math.exp(2.0)) + 1e-3
    assert torch.allclose(calibrator.fitted(frozen)(predictions), confidence(predictions.logits, constant))


@pytest.mark.parametrize(
    "spec",
    [
        "temperature-scaling",
        "transform-calibrator",
        {"name": "transform-calibrator", "loss": BALANCED},
        "published-calibrator",
        {"name": "transform-calibrator", "head": "clamp", "folds": 2},
    ],
)
def test_predictions_never_change_and_a_fit_repeats(spec: object) -> None:
    predictions = made(500, sure=1.0)
    calibrator = parts.build("calibrator", spec)
    first, second = calibrator(predictions), calibrator(predictions)
    assert all(torch.equal(value, second.parameters[name]) for name, value in first.parameters.items())
    temperature = first.temperature(predictions)
    assert (temperature > 0).all()
    scaled = log_probabilities(predictions.logits, temperature)
    assert torch.equal(scaled.argmax(-1), predictions.logits.argmax(-1))
    again = calibrator.fitted({name: value.tolist() for name, value in first.parameters.items()})
    assert torch.equal(again(predictions), first(predictions))


def test_the_published_head_is_the_published_network() -> None:
    predictions = made()
    calibrator = parts.build("calibrator", "published-calibrator")
    network = torch.nn.Sequential(torch.nn.Linear(12, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1)).double()
    weights = [value.detach() for value in network.parameters()]
    names = ("inner", "inner_bias", "outer", "outer_bias")
    fitted = calibrator.fitted(dict(zip(names, (weights[0], weights[1], weights[2][0], weights[3][0]))))
    with torch.no_grad():
        expected = network(calibrator.features(predictions)).clamp(0.1, 10)
    assert calibrator.features(predictions).shape[1] == 12
    assert torch.allclose(fitted.temperature(predictions), expected)


def test_outside_the_clamp_nothing_changes_and_no_gradient_flows() -> None:
    predictions = made()
    calibrator = parts.build("calibrator", "published-calibrator")
    ours = parts.build("calibrator", {"name": "transform-calibrator", "own": False, "hidden": 5})
    known = {k: v.detach() for k, v in calibrator(predictions).parameters.items()} | {"outer": torch.zeros(5)}

    def stated(part: Any, bias: float) -> Tensor:
        return part.fitted({**known, "outer_bias": torch.tensor(bias)})(predictions)

    assert torch.equal(stated(calibrator, 10.5), stated(calibrator, 90.0))
    assert torch.equal(stated(calibrator, 0.05), stated(calibrator, -30.0))
    assert not torch.equal(stated(calibrator, 2.0), stated(calibrator, 3.0))
    assert not torch.equal(stated(ours, 10.5), stated(ours, 90.0))

    def slope(head: Any, bias: float) -> float:
        parameters = {**known, "outer_bias": torch.tensor(bias, dtype=torch.float64, requires_grad=True)}
        parameters["outer"] = parameters["outer"].double()
        temperature = _temperature(parameters, calibrator.features(predictions), head)
        correctness_aware_loss(log_probabilities(predictions.logits, temperature), predictions.labels).backward()
        return float(parameters["outer_bias"].grad)

    assert slope("clamp", 12.0) == slope("clamp", -1.0) == 0 != slope("clamp", 2.0)
    assert slope("softplus", 12.0) != 0 != slope("softplus", -1.0)


def test_a_clamp_that_begins_outside_its_range_stays_there() -> None:
    predictions = made()

    def fitted(seed: int, steps: int, **head: Any) -> Any:
        spec = {"name": "transform-calibrator", "own": False, "folds": 0, "seed": seed, "steps": steps, **head}
        return parts.build("calibrator", spec)(predictions)

    published = {"head": "clamp", "hidden": 5}
    begun = {seed: fitted(seed, 1, **published).temperature(predictions) for seed in range(12)}
    dead = [seed for seed, temperature in begun.items() if (temperature == 0.1).all()]
    assert dead and len(dead) < len(begun)
    assert torch.equal(fitted(dead[0], 60, **published).temperature(predictions), begun[dead[0]])
    assert not torch.equal(fitted(dead[0], 60).temperature(predictions), fitted(dead[0], 1).temperature(predictions))


def test_views_that_tell_right_from_wrong_help_on_other_items() -> None:
    fit, test = made(600, seed=1), made(1500, seed=2)
    plain = parts.build("calibrator", "temperature-scaling")(fit)(test)
    by_views = parts.build("calibrator", "transform-calibrator")(fit)(test)
    assert brier(by_views, test.right) < brier(plain, test.right) - 0.01 < brier(confidence(test.logits), test.right)
    assert auroc(by_views, test.right.double()).value > auroc(plain, test.right.double()).value + 0.02


def test_views_that_tell_nothing_do_not_hurt() -> None:
    fit, test = made(600, seed=3, sure=1.0), made(2000, seed=4, sure=1.0)
    noise = torch.Generator().manual_seed(0)

    def blind(predictions: Predictions) -> Predictions:
        views = [torch.randn(predictions.logits.shape, generator=noise) for _ in range(3)]
        return Predictions.of(predictions.logits, predictions.labels, views)

    fit, test = blind(fit), blind(test)
    plain = parts.build("calibrator", "temperature-scaling")(fit)(test)
    chosen, all_steps = (parts.build("calibrator", {"name": "transform-calibrator", "folds": n})(fit)(test) for n in (5, 0))
    assert brier(chosen, test.right) < brier(plain, test.right) + 0.005 < brier(all_steps, test.right)


@given(st.lists(st.tuples(st.integers(0, 8).map(lambda i: i / 8), st.booleans()), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_the_loss_is_zero_exactly_where_confidence_is_correctness(items: list[tuple[float, bool]]) -> None:
    stated = torch.tensor([[c] for c, _ in items], dtype=torch.float64)
    wrong = torch.tensor([int(not right) for _, right in items])
    value = float(correctness_aware_loss(stated.log(), wrong))
    assert value == pytest.approx(sum((c - right) ** 2 for c, right in items) / len(items))
    assert (value == 0) == all(c == right for c, right in items)


def test_balance_gives_right_and_wrong_the_same_weight() -> None:
    logps = torch.tensor([[0.9], [0.8], [0.7], [0.6]], dtype=torch.float64).log()
    labels = torch.tensor([0, 0, 0, 1])
    halves = (0.1**2 + 0.2**2 + 0.3**2) / 3, 0.6**2
    assert float(correctness_aware_loss(logps, labels, balance=True)) == pytest.approx(sum(halves) / 2)


def test_cross_entropy_rewards_a_confident_mistake_where_the_correctness_aware_loss_does_not() -> None:
    narrow = torch.tensor([[1.0, 0.9, -5.0]], dtype=torch.float64)
    label = torch.tensor([1])
    soft, sharp = (log_probabilities(narrow, t) for t in (3.0, 1.0))
    assert nll(sharp, label) < nll(soft, label)
    assert correctness_aware_loss(sharp, label) > correctness_aware_loss(soft, label)


def test_an_answer_without_rivals_has_a_temperature_too() -> None:
    """The confidence is a power of the stated one, and the likelihood that of being right."""
    rng = np.random.default_rng(0)
    stated = rng.uniform(0.5, 0.99, size=400)
    wrong = (rng.uniform(size=400) > stated**3).astype(int)
    predictions = Predictions.of(np.log(stated)[:, None], wrong)
    fitted = parts.build("calibrator", "temperature-scaling")(predictions)
    temperature = float(fitted.parameters["temperature"])
    assert temperature == pytest.approx(1 / 3, rel=0.15)
    assert np.allclose(fitted(predictions), stated ** (1 / temperature))
    by_hand = -np.mean(np.where(wrong == 0, np.log(stated), np.log1p(-stated)))
    assert float(nll(predictions.logits, predictions.labels)) == pytest.approx(by_hand)
    assert torch.isfinite(fitted(Predictions.of([[-math.inf], [0.0]], [1, 0]))).all()


def test_classes_that_an_item_does_not_have_change_nothing() -> None:
    predictions = made(500, classes=4)
    absent = torch.full((len(predictions.labels), 1), -torch.inf)
    wider = Predictions.of(torch.cat([predictions.logits, absent], 1), predictions.labels)
    narrow = Predictions.of(predictions.logits, predictions.labels)
    one, other = (parts.build("calibrator", "transform-calibrator")(p)(p) for p in (narrow, wider))
    assert torch.allclose(one, other)


def test_sets_that_teach_nothing_are_refused() -> None:
    z = torch.eye(3).repeat(100, 1)
    right = torch.arange(3).repeat(100)
    few = torch.cat([(right[:60] + 1) % 3, right[60:]])
    for name in ("temperature-scaling", "transform-calibrator"):
        with pytest.raises(DataError, match=r"all 300 predictions are right.*harder items"):
            parts.build("calibrator", name)(Predictions.of(z, right))
        with pytest.raises(DataError, match=r"all 300 predictions are wrong.*easier items"):
            parts.build("calibrator", name)(Predictions.of(z, (right + 1) % 3))
    with pytest.raises(DataError, match="60 of 300 predictions are wrong, and least_errors is 100; take about 500 items"):
        parts.build("calibrator", "transform-calibrator")(Predictions.of(z, few))
    parts.build("calibrator", "temperature-scaling")(Predictions.of(z, few))


@pytest.mark.parametrize(
    ("logits", "labels", "views", "message"),
    [
        ([1.0, 2.0], [0, 1], (), "logits: expected a row"),
        ([[1.0, math.nan]], [0], (), "logits: row 0 holds NaN"),
        ([[-math.inf, -math.inf]], [0], (), "logits: row 0 has no class"),
        ([[1.0, 2.0]], [2], (), "labels: expected classes 0 to 1, got 2"),
        ([[1.0, 2.0]], [0, 1], (), "labels: expected 1 whole numbers"),
        ([[1.0, 2.0]], [0.5], (), "labels: expected 1 whole numbers"),
        ([[1.0, 2.0]], [0], ([[1.0, 2.0, 3.0]],), r"views\[0\]: expected the shape of logits, \(1, 2\)"),
        ([[0.5]], [0], (), "a single column holds log-probabilities"),
    ],
)
def test_what_cannot_be_read_is_named(logits: object, labels: object, views: tuple[object, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Predictions.of(logits, labels, views)


def test_other_views_than_those_of_the_fit_are_refused() -> None:
    predictions = made()
    fitted = parts.build("calibrator", "transform-calibrator")(predictions)
    with pytest.raises(DataError, match="fitted on 16 features, but 0 views of 5 classes give 4"):
        fitted(Predictions.of(predictions.logits, predictions.labels))
