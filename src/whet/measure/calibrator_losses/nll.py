"""Negative log-likelihood of the true class: the loss of plain temperature scaling.

    L = -(1/n) sum_i log p_i[y_i]

It pushes the true class up even where the prediction is wrong, so that narrowly wrong predictions stay confident. Where only the
probability c of the given answer is known it is the log-likelihood of being right: log c if it is right, log(1 - c) if not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def nll(logps: Tensor, labels: Tensor) -> Tensor:
    """The mean over items (nats); ``logps`` [n, C], ``labels`` [n]."""
    if logps.shape[1] == 1:
        logps = torch.cat([logps, (-torch.expm1(logps)).log()], dim=1)
    return -logps.gather(1, labels[:, None]).mean()
