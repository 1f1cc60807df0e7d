"""Brier score: the mean squared distance between the stated confidence and what happened.

    (1/N) sum_i (c_i - y_i)^2

with c the model's confidence in its answer and y = 1 if that answer is right. 0 is perfect, always saying 0.5 gives 0.25. It is a
proper score: the best strategy is to say what one believes. Whether one model is better calibrated than another is decided
on it, because it is a mean over items and so has a paired test; the calibration error only describes.
"""

from __future__ import annotations

from collections.abc import Sequence

from whet.measure import statistics
from whet.measure.estimates import values_of
from whet.measure.outcome import Estimate, Outcome


def brier(outcomes: Sequence[Outcome], *, confidence: str = "confidence", right: str = "first") -> Estimate:
    """The Brier score with a bootstrap interval over items; lower is better.

    Args:
        outcomes: each with the two scores named here.
        confidence: the score that holds the confidence, in [0, 1].
        right: the score that holds whether the answer was right; from 0.5 on it counts as right.

    Raises:
        DataError: an outcome lacks one of the scores, or a confidence lies outside [0, 1].
    """
    correct = [float(value >= 0.5) for value in values_of(outcomes, right)]
    return statistics.brier(values_of(outcomes, confidence), correct)
