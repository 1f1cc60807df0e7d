"""Supervised fine-tuning: the cross-entropy of the trained tokens.

Over a step with rows i of l_i trained tokens: ``L = - sum_i w_i sum_t logp[i, t] / sum_i w_i l_i``, the same whatever the
micro-batches are. ``reduction`` chooses the weights: ``token``: w = 1, every token counts the same; ``row``: w = 1 / l,
every row counts the same (a long row's tokens count little); ``square``: w = l^-0.5, between the two.
Labels are the batch's, [N, S], already shifted.

Paper: internvl3 — InternVL3: Exploring Advanced Training and Test-Time Recipes for Open-Source Multimodal Models
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from whet.train.objective import Loss, Policy
from whet.train.supervised import Reduction, cross_entropy

if TYPE_CHECKING:
    from whet.data.example import Batch


@dataclass(frozen=True)
class SFT:
    """``reduction``: ``token`` (every token counts the same), ``row`` or ``square``."""

    reduction: Reduction = "token"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, policy: Policy, batch: Batch) -> Loss:
        loss = cross_entropy(policy.logps(batch), batch, self.reduction)
        return Loss(loss, {"cross_entropy": loss.detach()})
