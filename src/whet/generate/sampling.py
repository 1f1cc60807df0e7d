"""The sampling distribution and how a row draws from it.

:func:`log_distribution` is the one definition of the distribution that the engine samples from and that a trainer's
probability ratio is taken under. :func:`draw` samples from it with noise that depends on nothing but the row's own stream
(seed, key, sample) and the number of its token, so that a row does not depend on its neighbours.

The noise is an exponential race: with independent E_i ~ Exp(1), ``argmax_i p_i / E_i`` is distributed as p. The last bits
of logits differ between batch shapes, and a race changes its winner with a probability of about the sum of abs(dp_i), which
is near 1e-7 per token in float32; inverting the cumulative distribution would multiply that by the number of entries that
the boundaries run through. The race is run in two heats, over blocks of about sqrt(V) entries and then inside the winning
block, so that a row needs 2 sqrt(V) random numbers and not V.

Shapes: B rows, V entries of the vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from whet.generate.completion import Sampling

NUCLEUS = 512
"""Entries among which the boundary of top-p is sought first."""

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_STEP = 0xD1342543DE82EF95


def log_distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities (nats) of the next token under temperature, top-k, top-p and min-p.

    The temperature comes first; each filter then looks at the distribution that the one before it left. Entries that tie
    with the last one kept are kept. Temperature 0 chooses the most probable token; as a point mass says nothing, its
    log-probabilities are those of the unfiltered distribution at temperature 1.

    Args:
        logits: ``[..., V]`` of any floating type.
        sampling: the settings; ``max_new_tokens`` and ``stop`` play no part.

    Returns:
        float32 (float64 if the logits are) ``[..., V]``, ``-inf`` for entries that cannot be drawn; differentiable.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if sampling.temperature == 0:
        return logits.log_softmax(-1)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if sampling.top_k or sampling.top_p < 1 or sampling.min_p > 0:
        logits = logits.masked_fill(logits < _smallest_kept(logits.detach(), sampling), -torch.inf)
    return logits.log_softmax(-1)


def _smallest_kept(logits: Tensor, sampling: Sampling) -> Tensor:
    """The smallest logit that passes the filters, ``[..., 1]``."""
    size = logits.shape[-1]
    if sampling.top_p < 1:
        smallest = _nucleus(logits.topk(sampling.top_k, -1).values if 0 < sampling.top_k < size else logits, sampling.top_p)
    elif 0 < sampling.top_k < size:
        smallest = logits.topk(sampling.top_k, -1).values[..., -1:]
    else:
        smallest = torch.full_like(logits[..., :1], -torch.inf)
    if sampling.min_p > 0:
        smallest = smallest.maximum(logits.amax(-1, keepdim=True) + math.log(sampling.min_p))
    return smallest


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """The smallest logit of the most probable entries that have ``top_p`` together, ``[..., 1]``.

    Sorting a large vocabulary costs more than a small network, so all of it is sorted only where the first entries are not enough.
    """
    total, size = logits.logsumexp(-1, keepdim=True), logits.shape[-1]
    for count in (min(NUCLEUS, size), size):
        descending = logits.topk(count, -1).values
        probabilities = (descending - total).exp()
        above = probabilities.cumsum(-1) - probabilities
        if count == size or bool((above[..., -1] >= top_p).all()):
            break
    kept = (above < top_p).sum(-1, keepdim=True)
    return descending.gather(-1, kept.clamp(min=1) - 1)


def draw(logps: Tensor, streams: Tensor, steps: Tensor) -> Tensor:
    """Draws one entry per row.

    Args:
        logps: ``[B, V]`` from :func:`log_distribution`.
        streams: int64 ``[B]`` from :func:`stream`.
        steps: int64 ``[B]``, how many tokens the row has drawn before.

    Returns:
        int64 ``[B]``.
    """
    rows, size = logps.shape
    width = math.isqrt(size - 1) + 1
    blocks = -(-size // width)
    weights = logps.new_zeros(rows, blocks * width)
    torch.exp(logps, out=weights[:, :size])
    weights = weights.view(rows, blocks, width)
    times = -uniforms(streams, steps, blocks + width).log()
    block = (weights.sum(-1) / times[:, :blocks]).argmax(-1)
    inside = weights[torch.arange(rows, device=logps.device), block]
    return block * width + (inside / times[:, blocks:]).argmax(-1)


def stream(seed: int, key: int, sample: int) -> int:
    """A row's random stream, a signed 64-bit number made of the run's seed, the prompt's key and the sample's index."""
    state = 0
    for word in (seed, key, sample):
        state = _mix_int((state + _GOLDEN) ^ _mix_int((word + _GOLDEN) & _WORD))
    return _signed(state)


def uniforms(streams: Tensor, steps: Tensor, count: int) -> Tensor:
    """float64 ``[B, count]`` uniform in the open interval (0, 1): a pure function of stream and step (SplitMix64)."""
    base = _mix(streams + (steps + 1) * _signed(_STEP))
    lanes = torch.arange(1, count + 1, device=streams.device) * _signed(_GOLDEN)
    bits = _shift(_mix(base[:, None] + lanes), 11)
    return bits.double() * 2.0**-53 + 2.0**-54


def _mix(words: Tensor) -> Tensor:
    words = (words ^ _shift(words, 30)) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ _shift(words, 27)) * _signed(0x94D049BB133111EB)
    return words ^ _shift(words, 31)


def _shift(words: Tensor, by: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def _mix_int(word: int) -> int:
    word &= _WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
