"""Mixed preference optimization: relative preference, absolute quality and generation, in one weighted sum.

DPO alone teaches which of two completions is better; long reasoning chains then degrade, because nothing holds the
likelihood of the chosen one. Two terms are added: each completion is judged by itself as good or bad (binary classifier
optimization), and the chosen one is also imitated:

    L   = w_p L_p + w_q L_q + w_g L_g                                             (0.8, 0.2, 1.0)
    L_p = -log sigmoid(c - r)                                                     DPO; c, r = beta * log-ratio of chosen, rejected
    L_q = -log sigmoid(c - shift) - log sigmoid(-(r - shift))
    L_g = mean over the chosen completion's tokens of -log p

each averaged over the pairs of the whole step. ``shift`` is the running mean of all implicit rewards c and r seen in
*earlier* steps, a constant for the gradient; 0 in the first step, where policy and reference agree. It changes only
between steps, so the loss does not depend on how a step is split into micro-batches, and is part of the checkpoint.
With several processes each keeps the mean of its own share of the rows.

Weights (1, 0, 0) give DPO; (0, 0, 1) give supervised training on the chosen completions with row means.

Defaults: weights 0.8, 0.2, 1.0 and beta 0.1 (InternVL3).

Paper: internvl3 — InternVL3: Exploring Advanced Training and Test-Time Recipes for Open-Source Multimodal Models
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch.nn.functional import logsigmoid

from whet.train.objective import Loss
from whet.train.preference import pair_rows, pair_scores, pair_terms

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch
    from whet.train.objective import Policy

Weight = Annotated[float, Ge(0)]


@dataclass
class _RunningMean:
    """Mean over everything seen in steps before ``step``; ``pending`` is what was seen in it."""

    mean: float = 0.0
    count: float = 0.0
    step: int = -1
    pending_sum: float = 0.0
    pending_count: float = 0.0

    def before(self, step: int) -> float:
        if step != self.step:
            if self.pending_count:
                self.count += self.pending_count
                self.mean += (self.pending_sum - self.pending_count * self.mean) / self.count
            self.step, self.pending_sum, self.pending_count = step, 0.0, 0.0
        return self.mean

    def add(self, values: Tensor) -> None:
        self.pending_sum += float(values.double().sum())
        self.pending_count += values.numel()


@dataclass(frozen=True)
class MPO:
    """``preference``, ``quality``, ``generation``: the weights of the three terms."""

    needs: ClassVar[frozenset[str]] = frozenset({"pairs", "reference"})

    beta: Annotated[float, Gt(0)] = 0.1
    preference: Weight = 0.8
    quality: Weight = 0.2
    generation: Weight = 1.0
    _rewards: _RunningMean = field(default_factory=_RunningMean, init=False, repr=False, compare=False)

    def __call__(self, policy: Policy, batch: Batch) -> Loss:
        logps = policy.logps(batch)
        scores = pair_scores(logps, batch)
        c, r = self.beta * scores.chosen, self.beta * scores.rejected
        shift = self._shift(torch.cat([c, r]).detach(), batch.step)
        chosen, _ = pair_rows(batch)
        row_means = batch.row_sum(logps) / batch.row_tokens().to(logps.dtype).clamp(min=1)
        losses = {
            "preference": -logsigmoid(c - r),
            "quality": -logsigmoid(c - shift) - logsigmoid(-(r - shift)),
            "generation": -row_means[chosen],
        }
        shares = {name: loss.sum() / batch.totals.units for name, loss in losses.items()}
        total = self.preference * shares["preference"] + self.quality * shares["quality"] + self.generation * shares["generation"]
        terms = {name: share.detach() for name, share in shares.items()}
        return Loss(total, {"loss": total.detach(), **terms, **pair_terms(scores, self.beta, batch)})

    def _shift(self, rewards: Tensor, step: int) -> float:
        if not torch.is_grad_enabled():
            return self._rewards.mean  # a validation pass must leave no trace in training
        shift = self._rewards.before(step)
        self._rewards.add(rewards)
        return shift

    def state_dict(self) -> dict[str, float]:
        """The running mean of the implicit rewards."""
        return dict(vars(self._rewards))

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Goes on from a state that :meth:`state_dict` gave."""
        for name, value in state.items():
            setattr(self._rewards, name, value)
