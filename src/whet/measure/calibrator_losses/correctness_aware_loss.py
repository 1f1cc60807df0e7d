"""Correctness-aware loss: the confidence of a prediction shall be 1 where it is right and 0 where it is wrong.

    L = mean_i (c_i - r_i)^2        c = largest probability, r = 1 if the predicted class is the true one

which is the Brier score of the confidence. Cross entropy asks instead for more of the true class, whatever was predicted: at a
narrow mistake it still raises the confidence. The loss is 0 exactly where every confidence equals the correctness.

``balance`` weighs right items by the share of wrong ones and the other way round, so that both count the same in sum, as the
published code does. It aims at an accuracy of a half: where that is far off it trades calibration for separation.

Paper: correctness-calibration — Optimizing Calibration by Gaining Aware of Prediction Correctness
"""

from __future__ import annotations

from torch import Tensor


def correctness_aware_loss(logps: Tensor, labels: Tensor, *, balance: bool = False) -> Tensor:
    """The (weighted) mean over items; ``logps`` [n, C] after the temperature, ``labels`` [n]."""
    best, chosen = logps.max(-1)
    right = (chosen == labels).to(logps.dtype)
    gaps = (best.exp() - right).square()
    if not balance:
        return gaps.mean()
    share = right.mean()
    weights = right * (1 - share) + (1 - right) * share
    return (weights * gaps).sum() / weights.sum()
