"""Stochastic gradient descent, plain or with momentum (heavy ball, Nesterov).

``b = momentum b + (g + weight_decay w)``; plain momentum (heavy ball, Polyak 1964) steps ``w -= lr b``, Nesterov's form
``w -= lr (g + weight_decay w + momentum b)``. Matrices decay; biases, norms and other vectors do not. Learning rates are some
hundred times those of Adam, whose steps do not shrink with the gradient.
Defaults: no momentum, no decay; 0.9 for the two presets, which are two of the reference optimizers that AlgoPerf sets targets
with. torch does the arithmetic.

Paper: algoperf — Benchmarking Neural Network Training Algorithms
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Lt

from whet.errors import RecipeError
from whet.train.decayed import decay_groups

PRESETS = {
    "heavy-ball": {"about": "Gradient descent with momentum 0.9.", "momentum": 0.9},
    "nesterov": {"about": "Gradient descent with Nesterov's momentum 0.9.", "momentum": 0.9, "nesterov": True},
}


@dataclass(frozen=True)
class SGD:
    """``momentum``: share of the last step's direction that is kept; ``nesterov``: look one gradient ahead; ``weight_decay``: of
    matrices, added to the gradient."""

    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise RecipeError("nesterov: needs a momentum above 0, such as 0.9; or leave nesterov out")

    def __call__(self, parameters: list[tuple[str, torch.nn.Parameter]]) -> torch.optim.Optimizer:
        """An optimizer over the named parameters. Each group's ``lr`` is 1.0: the loop multiplies it with the step's rate."""
        # The fused kernel cannot step weights that are spread over processes.
        groups = decay_groups(parameters, self.weight_decay)
        return torch.optim.SGD(groups, lr=1.0, momentum=self.momentum, nesterov=self.nesterov)
