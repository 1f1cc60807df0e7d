"""Perplexity: the exponential of the mean negative log-likelihood per token; and bits per byte.

    perplexity = exp(sum_i N_i / sum_i T_i)        bits per byte = sum_i N_i / (ln 2 sum_i B_i)

with N_i the negative log-likelihood (nats), T_i the tokens and B_i the UTF-8 bytes of document (or window) i. The intervals
resample documents; that of the perplexity is the exponential of the one for the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, inf, log

from whet.measure.estimates import documents_of, mean, values_of
from whet.measure.outcome import Estimate, Outcome


def perplexity(outcomes: Sequence[Outcome]) -> Estimate:
    """Per-token perplexity of outcomes with the scores ``nll`` (nats) and ``tokens``; lower is better.

    Raises:
        DataError: an outcome lacks one of them.
    """
    estimate = _per(outcomes, "tokens", 1.0)
    return replace(estimate, value=_exp(estimate.value), low=_exp(estimate.low), high=_exp(estimate.high))


def bits_per_byte(outcomes: Sequence[Outcome]) -> Estimate:
    """Bits per UTF-8 byte of outcomes with the scores ``nll`` (nats) and ``bytes``; lower is better.

    Raises:
        DataError: an outcome lacks one of them.
    """
    return _per(outcomes, "bytes", log(2))


def _per(outcomes: Sequence[Outcome], size: str, unit: float) -> Estimate:
    sizes = values_of(outcomes, size)
    rates = [nll / unit / n for nll, n in zip(values_of(outcomes, "nll"), sizes)]
    found = mean(rates, weights=sizes, groups=documents_of(outcomes))
    # Student's t, which few documents get, does not know that no likelihood is above 1.
    return replace(found, low=max(found.low, min(found.value, 0.0)))


def _exp(value: float) -> float:
    return exp(value) if value < 700 else inf
