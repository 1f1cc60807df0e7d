"""What is printed of a comparison shows the difference that it speaks of."""

from __future__ import annotations

import pytest

from whet.measure.compare import compare, corrected
from whet.measure.outcome import Outcome, TaskResult
from whet.run.comparisons import _digits, _sentence


@pytest.mark.parametrize(
    ("low", "high", "digits"),
    [
        (-0.03, 0.02, 3),
        (0.0, 0.0, 3),
        (0.0001, 0.0007, 5),
        (-0.00002, 0.0, 6),
        (0.0, 1e-9, 6),
        (float("-inf"), 0.0, 3),
        (3.0, 40.0, 3),
    ],
)
def test_small_differences_get_more_decimals(low: float, high: float, digits: int) -> None:
    assert _digits(low, high) == digits


def test_an_interval_that_the_correction_takes_back_is_said_to_be_of_its_pair_alone() -> None:
    def result(right: int) -> TaskResult:
        outcomes = [Outcome(id=str(i), score=float(i < right)) for i in range(100)]
        return TaskResult("t", str(right), "accuracy", outcomes, {}, {})

    pairs = [compare(result(50), result(58)), compare(result(50), result(51)), compare(result(50), result(70))]
    said = [_sentence(c) for c in corrected([*pairs, *pairs[1:2] * 9])]
    assert "(Holm over 12; the interval is of this pair alone)" in said[0] and "no difference seen" in said[0]
    assert all("alone" not in sentence for sentence in said[1:])
    assert "alone" not in _sentence(pairs[0])
