"""Distillation that keeps what the old model knew: follow it where the model in training errs, and the new one where it is right.

An update that is better on average still breaks examples that its predecessor solved (negative flips). For the trained tokens i of
a step, with logits z, temperature T and the softmax s,

    L = mean_i [ m_i KL(s(z_old/T) || s(z/T)) + (1 - m_i) KL(s(z_new/T) || s(z/T)) ],    m_i = 1 if argmax z_i is not the label

z_old: the train step's ``reference``. z_new: the model that training starts from. m has no gradient and is computed
anew in every step. Where m = 1, what the old model said is learnt; elsewhere the gain of the new one is kept. Rows that the model
predicts without an error give no signal: take rows that it was not trained on. Logits [m, V] of all models, by pieces of positions;
each step costs a forward pass of each reference. The mean is over trained tokens, the same whatever the micro-batches are.

Defaults: T = 2 (the paper fixes none); ``elsewhere: start``, the equation above; ``cross-entropy``, ``reference`` and ``none`` are its ablations.

Paper: muscle — MUSCLE: A Model Update Strategy for Compatible LLM Evolution
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Gt
from torch.nn.functional import cross_entropy, log_softmax

from whet.train.objective import Loss, Policy

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch


@dataclass(frozen=True)
class CompatDistill:
    """``temperature``: of both distributions.  ``elsewhere``: what is followed where the model is right: the model at the ``start``,
    the label (``cross-entropy``), the ``reference`` too (then the old model is followed everywhere), or ``none``.
    """

    temperature: Annotated[float, Gt(0)] = 2.0
    elsewhere: Literal["start", "cross-entropy", "reference", "none"] = "start"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference_logits", "start_logits"} if self.elsewhere == "start" else {"reference_logits"})

    def __call__(self, policy: Policy, batch: Batch) -> Loss:
        names = ("reference", "start") if self.elsewhere == "start" else ("reference",)
        lines = policy.per_token(batch, self.per_token, names)
        old, new, wrong = (lines[:, k].sum() / batch.totals.tokens for k in range(3))
        return Loss(old + new, {"old": old.detach(), "new": new.detach(), "wrong_share": wrong.detach()})

    def per_token(self, logits: Tensor, labels: Tensor, old: Tensor, new: Tensor | None = None) -> Tensor:
        """Each token's two parts of the loss, and m: [m, 3]."""
        wrong = (logits.detach().argmax(-1) != labels).to(logits.dtype)
        to_old = wrong * self._kl(old, logits)
        if new is not None:
            to_new = (1 - wrong) * self._kl(new, logits)
        elif self.elsewhere == "reference":
            to_new = (1 - wrong) * self._kl(old, logits)
        elif self.elsewhere == "cross-entropy":
            to_new = (1 - wrong) * cross_entropy(logits, labels, reduction="none")
        else:
            to_new = torch.zeros_like(to_old)
        return torch.stack([to_old, to_new, wrong], -1)

    def _kl(self, teacher: Tensor, logits: Tensor) -> Tensor:
        p, q = log_softmax(teacher / self.temperature, -1), log_softmax(logits / self.temperature, -1)
        return (p.exp() * (p - q)).sum(-1)
