"""Expected calibration error: how far stated confidence and accuracy lie apart, over bins of confidence.

    ECE = sum_b (n_b / N) |accuracy(b) - mean confidence(b)|

over equal-width bins b of the confidence in the chosen answer. It describes; it does not decide: it depends on the bins, is
biased upwards on few items, and a model that always states its average accuracy has ECE 0. Decide on the Brier score.

Default: 15 bins, the custom since Guo et al. 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt

from whet.measure.estimates import values_of
from whet.measure.outcome import Estimate, Outcome
from whet.measure.statistics import expected_calibration_error


def calibration_error(
    outcomes: Sequence[Outcome], *, bins: Annotated[int, Gt(0)] = 15, confidence: str = "confidence", right: str = "first"
) -> Estimate:
    """The expected calibration error with a bootstrap interval over items; lower is better.

    Args:
        outcomes: each with the two scores named here.
        bins: number of equal-width bins.
        confidence: the score that holds the confidence, in [0, 1].
        right: the score that holds whether the answer was right; from 0.5 on it counts as right.

    Raises:
        DataError: an outcome lacks one of the scores, or a confidence lies outside [0, 1].
    """
    correct = [float(value >= 0.5) for value in values_of(outcomes, right)]
    return expected_calibration_error(values_of(outcomes, confidence), correct, bins=bins)
