"""AUROC of confidence against correctness: how often a right answer is stated with more confidence than a wrong one.

    AUROC = P(c_right > c_wrong) + P(c_right = c_wrong) / 2

0.5: the confidence says nothing about correctness; 1: some threshold separates right from wrong. It looks at the order alone: a
rescaling of all confidences alike leaves it as it is, so it complements the Brier score, which also looks at their size.
"""

from __future__ import annotations

from collections.abc import Sequence

from whet.measure import statistics
from whet.measure.estimates import values_of
from whet.measure.outcome import Estimate, Outcome


def auroc(outcomes: Sequence[Outcome], *, confidence: str = "confidence", right: str = "first") -> Estimate:
    """The AUROC with DeLong's interval, below 200 items a bootstrap interval; higher is better.

    Args:
        outcomes: each with the two scores named here.
        confidence: the score that ranks.
        right: the score that holds whether the answer was right; from 0.5 on it counts as right.

    Raises:
        DataError: an outcome lacks one of the scores, or all answers are right, or all wrong.
    """
    correct = [float(value >= 0.5) for value in values_of(outcomes, right)]
    return statistics.auroc(values_of(outcomes, confidence), correct)
