"""AUROC: against scikit-learn and all pairs; DeLong against its definition; what intervals and tests say where they must."""

from __future__ import annotations

import numpy as np
import pytest

from whet.errors import DataError
from whet.measure.metrics.auroc import auroc as metric
from whet.measure.outcome import Outcome
from whet.measure.statistics import auroc, auroc_difference


def items(n: int, seed: int, gain: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two scores, the first with more signal, rounded so that there are ties; and the truth."""
    rng = np.random.default_rng(seed)
    truth = (rng.uniform(size=n) < 0.4).astype(float)
    shared = rng.normal(size=n)
    a, b = (np.round(g * truth + shared + rng.normal(size=n), 1) for g in (gain + 1, 1.0))
    return a, b, truth


def test_the_value_is_that_of_scikit_learn_and_of_all_pairs() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    a, _, truth = items(300, 0)
    high, low = a[truth == 1], a[truth == 0]
    pairs = np.mean((high[:, None] > low) + 0.5 * (high[:, None] == low))
    assert auroc(a, truth).value == pytest.approx(metrics.roc_auc_score(truth, a)) == pytest.approx(pairs)


def test_delong_is_its_definition() -> None:
    a, b, truth = items(250, 1)

    def kernel(scores: np.ndarray) -> np.ndarray:
        high, low = scores[truth == 1], scores[truth == 0]
        return (high[:, None] > low) + 0.5 * (high[:, None] == low)

    gap = kernel(a) - kernel(b)
    error = np.sqrt(gap.mean(1).var(ddof=1) / gap.shape[0] + gap.mean(0).var(ddof=1) / gap.shape[1])
    found = auroc_difference(a, b, truth)
    assert found.name == "delong" and found.effect == pytest.approx(gap.mean())
    assert found.statistic == pytest.approx(gap.mean() / error)
    assert found.high == pytest.approx(gap.mean() + 1.959964 * error)
    assert auroc(a, truth).method == "delong"


def test_few_items_are_resampled_and_agree_with_delong() -> None:
    a, b, truth = items(199, 2, gain=0.3)
    small, more = auroc_difference(a, b, truth), auroc_difference(*(np.append(x, x[0]) for x in (a, b, truth)))
    assert (small.name, more.name) == ("auroc-bootstrap", "delong")
    assert small.p == pytest.approx(more.p, abs=0.05) and small.low == pytest.approx(more.low, abs=0.02)
    assert auroc(a, truth).method == "bca"
    assert auroc(a, truth).low == pytest.approx(auroc(np.append(a, a[0]), np.append(truth, truth[0])).low, abs=0.02)


@pytest.mark.parametrize("n", [60, 240])
def test_the_level_is_kept(n: int) -> None:
    """Scores with the same signal are called different in about 5% of the cases, and intervals hold the truth in about 95%."""
    called = [auroc_difference(*items(n, seed, gain=0.0), resamples=500).p < 0.05 for seed in range(150)]
    assert np.mean(called) < 0.11
    true = 0.6915  # P(N(1, 2) > N(0, 2)) = Phi(1 / 2), before rounding.
    held = [e.low <= true <= e.high for s in range(150) for e in [auroc(*items(n, s)[1:], resamples=500)]]
    assert np.mean(held) > 0.89


def test_order_is_all_that_counts() -> None:
    a, _, truth = items(220, 3)
    assert auroc(np.exp(a), truth).value == auroc(a, truth).value == pytest.approx(1 - auroc(-a, truth).value)
    assert auroc_difference(a, np.exp(a), truth).p == 1.0


def test_perfect_separation_keeps_an_interval() -> None:
    truth = np.array([0.0, 1.0] * 150)
    assert auroc(truth, truth).value == 1.0
    assert 0.9 < auroc(truth, truth).low < 0.99
    assert auroc(-truth, truth).high < 0.1
    assert auroc([0.1, 0.2, 0.3], [0, 0, 1]).method.startswith("none")


def test_nothing_to_rank_is_refused() -> None:
    outcomes = [Outcome(str(i), 1.0, scores={"confidence": 0.1 * i, "first": 1.0}) for i in range(5)]
    with pytest.raises(DataError, match="all 5 items are positive"):
        metric(outcomes)
    with pytest.raises(DataError, match="at least two positive and two negative"):
        auroc_difference([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0, 0, 1])
    mixed = [*outcomes, Outcome("5", 0.0, scores={"confidence": 0.0, "first": 0.0})]
    assert metric(mixed).value == pytest.approx(0.9)
