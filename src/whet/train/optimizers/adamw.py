"""Adam with decoupled weight decay, the default optimizer.

Moments ``m = b1 m + (1 - b1) g``, ``v = b2 v + (1 - b2) g^2``; update ``w -= lr (m^ / (sqrt(v^) + eps) + weight_decay w)``
with bias-corrected moments. Matrices decay; biases, norms and other vectors do not.
Defaults: betas (0.9, 0.95) and weight decay 0.1 as in GPT-3 and Llama pre-training, where 0.01 or less is usual for tuning:
here 0.01. torch's fused kernel does the arithmetic in one pass, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt

from whet.train.decayed import decay_groups


@dataclass(frozen=True)
class AdamW:
    """``betas``: decay of the two moments; ``eps``: added to the root; ``weight_decay``: of matrices, per step and lr."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: Annotated[float, Gt(0)] = 1e-8
    weight_decay: Annotated[float, Ge(0)] = 0.01

    def __call__(self, parameters: list[tuple[str, torch.nn.Parameter]]) -> torch.optim.Optimizer:
        """An optimizer over the named parameters. Each group's ``lr`` is 1.0: the loop multiplies it with the step's rate."""
        groups = decay_groups(parameters, self.weight_decay)
        return torch.optim.AdamW(groups, lr=1.0, betas=self.betas, eps=self.eps, fused=True)
