"""Pass@k: the chance that at least one of k completions of a prompt is right, estimated without bias from n >= k samples.

With c right among n samples of a prompt, all subsets of size k are averaged in closed form:

    pass@k = 1 - C(n - c, k) / C(n, k)

Drawing k of the n once would be unbiased too but noisier, and 1 - (1 - c/n)^k is biased downward. The estimate is the mean over
prompts; its interval resamples prompts, because samples of one prompt are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from whet.errors import DataError
from whet.measure.estimates import documents_of, mean
from whet.measure.outcome import Estimate, Outcome


def unbiased(n: int, c: int, k: int) -> float:
    """Chance that k of the n samples, c of them right, hold a right one.

    >>> unbiased(4, 1, 2)
    0.5
    """
    return 1.0 - comb(n - c, k) / comb(n, k)


def pass_at_k(outcomes: Sequence[Outcome], *, k: int = 1, right: float = 1.0) -> Estimate:
    """Pass@k over prompts, with a bootstrap interval over prompts (Wilson when every prompt gives 0 or 1).

    Args:
        outcomes: each with at least k ``samples`` (its score counts as the one sample where there are none).
        k: number of tries.
        right: a sample counts as right from this score on.

    Raises:
        DataError: an outcome has fewer than k samples; the message names it.
    """
    values = []
    for outcome in outcomes:
        samples = outcome.samples or (outcome.score,)
        if len(samples) < k:
            raise DataError(
                f"pass@{k} needs {k} samples per prompt, but {outcome.id!r} has {len(samples)}; set samples: {k} or more"
            )
        values.append(unbiased(len(samples), sum(s >= right for s in samples), k))
    return mean(values, groups=documents_of(outcomes))
