"""Direct preference optimization and its relatives: a loss on a pair's two log-ratios to a frozen reference, no reward model.

A policy and its frozen reference define an implicit reward, beta * log(policy / reference). No reward model is trained and
nothing is sampled: the pair's two implicit rewards go into a classification loss. For completion y with tokens y_t,

    s(y) = sum_t [ log p(y_t) - log p_reference(y_t) ]        (``length_normalized``: the mean over tokens)
    h    = beta * ( s(chosen) - s(rejected) ) - gamma         (``reference_free``: without the reference's term)

and the loss, averaged over the pairs of the whole step, is one of

    sigmoid    -log sigmoid(h); with ``label_smoothing`` e (conservative DPO)  -(1-e) log sigmoid(h) - e log sigmoid(-h)
    robust     the same with weights (1-e)/(1-2e) and -e/(1-2e): unbiased if a share e of the labels is flipped
    ipo        (h/beta - 1/(2 beta))^2, a regression to a fixed margin instead of pushing it to infinity
    hinge      max(0, 1 - h)
    exo        KL(model's preference || label's), the reverse of the sigmoid loss's; needs e > 0
    nca        -log sigmoid(c) - (log sigmoid(-c) + log sigmoid(-r))/2: chosen and rejected against noise;
               c = beta s(chosen), r = beta s(rejected), here and below
    sppo       (s(chosen) - 1/(2 beta))^2 + (s(rejected) + 1/(2 beta))^2
    apo-zero   1 - sigmoid(c) + sigmoid(r): chosen up, rejected down
    apo-down   sigmoid(c) + 1 - sigmoid(c - r): for chosen completions that are worse than the model's own

Beta is not comparable between them. In ``sigmoid``, ``robust``, ``hinge`` and the others on sums it scales a difference of
*sums* (0.1 is usual). Under ``length_normalized`` it scales a difference of *means* per token and must be larger by about
the completion's length (5 in Tulu 3). In ``simpo`` it scales plain means without a reference (2 to 2.5, gamma about half).
In ``ipo`` it is the strength of the pull to the reference: the target margin is 1/(2 beta), so that a *larger* beta means a
smaller margin; the means of ``length_normalized`` are what its authors used.

Gradient of ``sigmoid``: beta * sigmoid(-h) * (grad log p(chosen) - grad log p(rejected)).

Defaults: beta 0.1, no smoothing (the values of the DPO paper); presets carry their own papers' values.

Paper: tulu3 — TÜLU 3: Pushing Frontiers in Open Language Model Post-Training
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch.nn.functional import logsigmoid

from whet.errors import RecipeError
from whet.train.objective import Loss
from whet.train.preference import PairScores, pair_scores, pair_terms

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch
    from whet.train.objective import Policy

PRESETS = {
    "ipo": {"about": "DPO that regresses the mean log-ratio to a margin 1/(2 beta)", "loss": "ipo", "length_normalized": True},
    "dpo-norm": {"about": "DPO on log-ratios averaged over tokens, beta 5 (Tulu 3)", "length_normalized": True, "beta": 5.0},
    "simpo": {
        "about": "DPO without a reference: mean log-probabilities and a target margin gamma",
        "reference_free": True,
        "length_normalized": True,
        "beta": 2.0,
        "gamma": 1.0,
    },
    "cdpo": {"about": "conservative DPO: the labels are taken to be wrong with probability 0.1", "label_smoothing": 0.1},
    "robust-dpo": {"about": "DPO made unbiased for a share 0.1 of flipped labels", "loss": "robust", "label_smoothing": 0.1},
    "hinge-dpo": {"about": "DPO with a hinge: pairs with a margin of 1 are left alone", "loss": "hinge"},
    "exo": {"about": "reverse KL between the model's preference and the label's", "loss": "exo", "label_smoothing": 0.001},
    "nca": {"about": "noise-contrastive alignment: also keeps the chosen likelihood from falling", "loss": "nca"},
    "sppo": {"about": "self-play preference optimization with hard labels", "loss": "sppo"},
    "apo-zero": {"about": "anchored preference optimization: chosen up, rejected down", "loss": "apo-zero"},
    "apo-down": {"about": "anchored preference optimization for pairs that are both worse than the model", "loss": "apo-down"},
}

_SMOOTHED = ("sigmoid", "robust", "exo")
_ON_MARGIN = ("sigmoid", "robust", "hinge")


@dataclass(frozen=True)
class DPO:
    """See the module. ``gamma``: target margin in the unit of h; read by ``sigmoid``, ``robust`` and ``hinge``."""

    loss: Literal["sigmoid", "robust", "ipo", "hinge", "exo", "nca", "sppo", "apo-zero", "apo-down"] = "sigmoid"
    beta: Annotated[float, Gt(0)] = 0.1
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    length_normalized: bool = False
    reference_free: bool = False
    gamma: float = 0.0

    def __post_init__(self) -> None:
        if self.label_smoothing and self.loss not in _SMOOTHED:
            raise RecipeError(f"label_smoothing: loss {self.loss!r} does not read it; only {', '.join(_SMOOTHED)} do")
        if self.loss == "exo" and not self.label_smoothing:
            raise RecipeError(
                "label_smoothing 0: loss 'exo' needs a positive one, such as 0.001: its target has no logarithm else"
            )
        if self.gamma and self.loss not in _ON_MARGIN:
            raise RecipeError(f"gamma {self.gamma}: loss {self.loss!r} does not read it; only {', '.join(_ON_MARGIN)} do")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"pairs"} if self.reference_free else {"pairs", "reference"})

    def __call__(self, policy: Policy, batch: Batch) -> Loss:
        scores = pair_scores(
            policy.logps(batch), batch, reference_free=self.reference_free, length_normalized=self.length_normalized
        )
        total = self.pair_losses(scores).sum() / batch.totals.units
        return Loss(total, {"loss": total.detach(), **pair_terms(scores, self.beta, batch)})

    def pair_losses(self, scores: PairScores) -> Tensor:
        """The loss of each pair, [U]."""
        c, r = self.beta * scores.chosen, self.beta * scores.rejected
        h, e = c - r - self.gamma, self.label_smoothing
        if self.loss == "sigmoid":
            return -(1 - e) * logsigmoid(h) - e * logsigmoid(-h)
        if self.loss == "robust":
            return (-(1 - e) * logsigmoid(h) + e * logsigmoid(-h)) / (1 - 2 * e)
        if self.loss == "hinge":
            return torch.relu(1 - h)
        if self.loss == "ipo":
            return (scores.chosen - scores.rejected - 1 / (2 * self.beta)) ** 2
        if self.loss == "exo":
            label = torch.log(h.new_tensor([1 - e, e]))
            return torch.sigmoid(h) * (logsigmoid(h) - label[0]) + torch.sigmoid(-h) * (logsigmoid(-h) - label[1])
        if self.loss == "nca":
            return -logsigmoid(c) - 0.5 * (logsigmoid(-c) + logsigmoid(-r))
        if self.loss == "sppo":
            return (scores.chosen - 1 / (2 * self.beta)) ** 2 + (scores.rejected + 1 / (2 * self.beta)) ** 2
        if self.loss == "apo-zero":
            return 1 - torch.sigmoid(c) + torch.sigmoid(r)
        return torch.sigmoid(c) + 1 - torch.sigmoid(c - r)
