"""The four interchangeable pieces of a policy gradient, on packed batches: mask, denominator, advantage, aggregation; and KL.

Every loss of the family is one gradient, sum over rows i and tokens t of

    1_stable[i,t] * A[i,t] / pi_ref[i,t] * grad pi[i,t]  =  omega[i,t] * grad log pi[i,t]

with omega = 1_stable * A * pi / pi_ref a constant for the gradient. :func:`estimate` gives omega and, beside it, the value
of the loss that has this gradient, so that what is logged is the number that the method's name stands for.

Shapes: per-token tensors are [N, S] and aligned with ``batch.labels``; per-row tensors are [R].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from whet.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch
    from whet.train.objective import Policy

Stable = Literal["none", "clip", "sequence-clip"]
Denominator = Literal["policy", "old", "clipped", "sequence", "one"]
Aggregation = Literal["token", "seq", "const", "sum"]
KLEstimator = Literal["k1", "k2", "k3"]

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20 before they are exponentiated, so that one absurd token cannot give Inf."""


def token_value(batch: Batch, name: str) -> Tensor:
    """``token_values[name]``, detached, 0 where nothing is trained whatever padding holds: [N, S].

    Raises:
        DataError: the batch has no such value; says who provides it.
    """
    if name not in batch.token_values:
        raise DataError(f"the batch has no token_values[{name!r}]. {_PROVIDERS.get(name, '')}".strip())
    value = batch.token_values[name].detach()
    return torch.where(batch.mask, value, torch.zeros_like(value))


_PROVIDERS = {
    "advantages": "Rewards become advantages in objective.prepare(examples), over whole groups; the rollout provider calls it.",
    "old_logps": "Rollouts carry the log-probabilities that they were sampled with.",
    "reference_logps": "A KL term needs a reference model; the loop provides it where the objective needs 'reference'.",
    "old_values": "Rollouts carry the value head's predictions where the objective needs 'values'.",
}


def is_demonstration(batch: Batch) -> Tensor:
    """bool [R]: rows that the policy did not sample."""
    flag = batch.values.get("is_demo")
    return torch.zeros_like(batch.unit, dtype=torch.bool) if flag is None else flag > 0.5


def row_mean(batch: Batch, per_token: Tensor) -> Tensor:
    """Mean over each row's trained tokens: [R]."""
    return batch.row_sum(per_token) / batch.row_tokens().to(per_token.dtype).clamp(min=1)


def log_ratio(batch: Batch, logps: Tensor) -> Tensor:
    """``logps - old_logps``, clamped and detached: [N, S]."""
    return (logps.detach() - token_value(batch, "old_logps")).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def refuse_other_temperature(policy: Policy, batch: Batch) -> None:
    """Refuses rollouts sampled at another temperature than the policy's log-probabilities are computed at.

    Raises:
        DataError: the two differ, so that the ratio would not be 1 on fresh samples.
    """
    sampled, computed = batch.values.get("temperature"), float(getattr(policy, "temperature", 1.0))
    if sampled is not None and bool(((sampled - computed).abs() > 1e-6).any()):
        raise DataError(
            f"old_logps were computed at temperature {float(sampled.max()):.4g}, the policy's at {computed:.4g}: their ratio "
            "means nothing. Sample at the policy's temperature, or give the policy the sampler's"
        )


@dataclass(frozen=True)
class Pieces:
    """Which of the pieces: see :mod:`whet.train.objectives.upge` for what each means.

    ``clip_low`` and ``clip_high``: the ratio is trusted in [1 - clip_low, 1 + clip_high]. ``dual_clip``: largest ratio that
    still pushes down a token of negative advantage. ``shape``: g of f(p) = p / (p + g), read by denominator ``one``.
    """

    stable: Stable = "none"
    denominator: Denominator = "policy"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    shape: float | None = None

    @property
    def reads_old(self) -> bool:
        """Whether ``old_logps`` are read, which rows that the policy did not sample do not have."""
        return self.stable != "none" or self.denominator in ("old", "clipped", "sequence")


@dataclass(frozen=True)
class Weighted:
    """``omega`` and ``value`` [N, S], both detached: the weight of grad log pi, and the surrogate that is maximized.

    ``ratio`` [N, S]: the ratio that the mask looks at (1 where no old log-probabilities are read); ``stable`` bool [N, S].
    """

    omega: Tensor
    value: Tensor
    ratio: Tensor
    stable: Tensor


def estimate(pieces: Pieces, batch: Batch, logps: Tensor, advantages: Tensor) -> Weighted:
    """The weight of each token's log-likelihood gradient, and the value of the loss that has this gradient."""
    logps = logps.detach()
    ratio = torch.ones_like(logps)
    if pieces.reads_old:
        log = log_ratio(batch, logps)
        by_sequence = pieces.stable == "sequence-clip" or pieces.denominator == "sequence"
        ratio = (batch.of_row(row_mean(batch, log)) if by_sequence else log).exp()
    stable = torch.ones_like(batch.mask) if pieces.stable == "none" else inside_clip(ratio, advantages, pieces)
    weight, value = _likelihood(pieces, ratio, logps, advantages)
    bounded = torch.zeros_like(value)
    if pieces.denominator in ("old", "sequence"):
        bounded = advantages * _bound(advantages, ratio, pieces)
    return Weighted(stable * advantages * weight, torch.where(stable, value, bounded), ratio, stable)


def _likelihood(pieces: Pieces, ratio: Tensor, logps: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """pi / pi_ref (times f' of a shaped likelihood), and the surrogate's value before clipping."""
    if pieces.denominator in ("old", "sequence"):
        return ratio, advantages * ratio
    if pieces.denominator == "clipped":
        weight = ratio.clamp(max=1 + pieces.clip_high)
        return weight, advantages * weight * logps
    if pieces.denominator == "policy":
        return torch.ones_like(logps), advantages * logps
    p = logps.exp()
    if pieces.shape is None:
        return p, advantages * p
    return p * pieces.shape / (p + pieces.shape) ** 2, advantages * p / (p + pieces.shape)


def inside_clip(ratio: Tensor, advantages: Tensor, pieces: Pieces) -> Tensor:
    """bool: False exactly where the ratio has already moved past the clip in the direction that the advantage pushes."""
    outside = ((advantages > 0) & (ratio > 1 + pieces.clip_high)) | ((advantages < 0) & (ratio < 1 - pieces.clip_low))
    if pieces.dual_clip is not None:
        outside |= (advantages < 0) & (ratio > pieces.dual_clip)
    return ~outside


def _bound(advantages: Tensor, ratio: Tensor, pieces: Pieces) -> Tensor:
    """The ratio that stands in the surrogate's value where it is clipped."""
    low = torch.full_like(ratio, 1 - pieces.clip_low)
    if pieces.dual_clip is not None:
        low = torch.where(ratio > pieces.dual_clip, torch.full_like(ratio, pieces.dual_clip), low)
    return torch.where(advantages > 0, torch.full_like(ratio, 1 + pieces.clip_high), low)


def differentiable(weighted: Weighted, logps: Tensor) -> Tensor:
    """Per-token loss [N, S] whose value is ``-value`` and whose gradient is ``-omega * grad logps``."""
    return -(weighted.value + weighted.omega * (logps - logps.detach()))


def row_weights(kind: Aggregation, batch: Batch) -> Tensor:
    """1/Z of each row [R]: what its token sum is multiplied with, so that rows add up to the step's loss.

    ``token``: mean over all trained tokens of the step. ``seq``: mean over rows of their token mean. ``sum``: mean over rows
    of their token sum. ``const``: the same divided by the longest possible completion, ``values["max_new_tokens"]``.

    Raises:
        DataError: ``const`` without ``max_new_tokens``.
    """
    tokens = batch.row_tokens().clamp(min=1).double()
    if kind == "token":
        return torch.full_like(tokens, 1 / batch.totals.tokens)
    if kind == "seq":
        return 1 / (tokens * batch.totals.rows)
    if kind == "sum":
        return torch.full_like(tokens, 1 / batch.totals.rows)
    return 1 / (longest_completion(batch) * batch.totals.rows)


def longest_completion(batch: Batch) -> Tensor:
    """``values["max_new_tokens"]``, float64 [R]: the limit that the rollouts were sampled with.

    Raises:
        DataError: the rows do not carry it.
    """
    if "max_new_tokens" not in batch.values:
        raise DataError("the loss divides by the longest possible completion, but the rows have no value 'max_new_tokens'")
    return batch.values["max_new_tokens"].double()


def aggregate(batch: Batch, per_token: Tensor, weights: Tensor) -> Tensor:
    """Sum over rows of weight times token sum: a scalar."""
    return (batch.row_sum(per_token) * weights.to(per_token.dtype)).sum()


def token_share(batch: Batch, per_token: Tensor) -> Tensor:
    """The micro-batch's share of the mean over the step's trained tokens, detached: a scalar for the log."""
    return batch.row_sum(per_token.detach().to(torch.float64)).sum() / batch.totals.tokens


def kl(kind: KLEstimator, logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference) from tokens that the policy sampled, d = logps - reference_logps.

    ``k1`` = d, unbiased, may be negative. ``k2`` = d^2 / 2, the only one whose gradient on the policy's own samples is the
    KL's. ``k3`` = exp(-d) + d - 1, unbiased and never negative.
    """
    d = logps - reference_logps
    if kind == "k1":
        return d
    if kind == "k2":
        return d**2 / 2
    return torch.exp((-d).clamp(max=LOG_RATIO_LIMIT)) + d - 1


def value_loss(values: Tensor, batch: Batch, clip: float | None) -> Tensor:
    """Half the squared error of the value head against ``returns``, token mean; the worse of it and of the clipped prediction."""
    returns, old = (token_value(batch, name).to(values.dtype) for name in ("returns", "old_values"))
    error = (values - returns) ** 2
    if clip is not None:
        error = torch.maximum(error, (old + (values - old).clamp(-clip, clip) - returns) ** 2)
    return 0.5 * aggregate(batch, error, row_weights("token", batch))
