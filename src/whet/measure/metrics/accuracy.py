"""Mean score over the examples: the share that is right, or the mean of a partial credit.

Right-or-wrong scores get a Wilson interval. Anything else (a reward between 0 and 1, the mean over several samples of one
prompt) gets a BCa bootstrap interval over examples. The unit is the example, never the sample, and the document where several
examples come from one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whet.measure.estimates import documents_of, mean, values_of
from whet.measure.outcome import Estimate, Outcome


def accuracy(outcomes: Sequence[Outcome], *, score: str = "score") -> Estimate:
    """The mean over outcomes with its interval.

    Args:
        outcomes: at least one.
        score: ``score``, or the name of one of ``Outcome.scores`` (``acc_norm``, ``prefix_accuracy``, ...).

    Raises:
        DataError: no outcomes, or an outcome lacks that score.
    """
    found = mean(values_of(outcomes, score), groups=documents_of(outcomes))
    # Student's t, which few documents get, does not know the limits of a share.
    return replace(found, low=max(found.low, min(found.value, 0.0)), high=min(found.high, max(found.value, 1.0)))
