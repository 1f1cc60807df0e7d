"""AdamW with Nesterov's momentum: the step looks one gradient ahead.

The update of Adam uses ``m``, which is the momentum that the last steps built up; Nesterov's form uses the momentum that the next
step will have, so the newest gradient counts more (Dozat 2016). With ``u_t = b1 (1 - 0.5 * 0.96^(t d))``, d the ``momentum_decay``:

    w -= lr (u_{t+1} m / (1 - prod_{i<=t+1} u_i) + (1 - u_t) g / (1 - prod_{i<=t} u_i)) / (sqrt(v^) + eps)

and decoupled decay ``w -= lr weight_decay w`` of matrices. One of the four reference optimizers that AlgoPerf sets targets with.
Defaults: those of AdamW here (betas (0.9, 0.95), weight decay 0.01); ``momentum_decay`` 0.004 from the paper. torch does the
arithmetic.

Paper: algoperf — Benchmarking Neural Network Training Algorithms
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt

from whet.train.decayed import decay_groups


@dataclass(frozen=True)
class NAdamW:
    """``betas``: decay of the two moments; ``eps``: added to the root; ``weight_decay``: of matrices, per step and lr;
    ``momentum_decay``: how slowly the momentum rises to its full size."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: Annotated[float, Gt(0)] = 1e-8
    weight_decay: Annotated[float, Ge(0)] = 0.01
    momentum_decay: Annotated[float, Ge(0)] = 4e-3

    def __call__(self, parameters: list[tuple[str, torch.nn.Parameter]]) -> torch.optim.Optimizer:
        """An optimizer over the named parameters. Each group's ``lr`` is 1.0: the loop multiplies it with the step's rate."""
        return torch.optim.NAdam(
            decay_groups(parameters, self.weight_decay),
            lr=1.0,
            betas=self.betas,
            eps=self.eps,
            momentum_decay=self.momentum_decay,
            decoupled_weight_decay=True,
        )
