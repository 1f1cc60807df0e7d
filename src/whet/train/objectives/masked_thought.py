"""Supervised fine-tuning on chains of thought with a random part of the input hidden.

Each input token of the solution is replaced with probability p_t, the labels stay: the model must predict every next
token, also from steps it cannot see, and so leans more on the question and earlier steps than on the last few tokens.
``L = - mean_t log pi(y_t | x, corrupt(y_<t))``, with ``p_t = p min(1, step / (warmup * steps))``. The prompt, padding
and tokens that are no targets are never touched; p = 0 is exactly ``sft``. Which tokens are replaced depends on (seed,
step, row) alone, not on the micro-batches. ``input_ids`` and ``labels`` are [N, S].
Defaults: p 0.2 and a rise over two thirds of training (the released settings: p 0.4 on GSM8K, 0.2 on larger sets),
replacement by a random token of the vocabulary, which needs no new token.

Paper: masked-thought — Masked Thought: Simply Masking Partial Reasoning Steps Can Improve Mathematical Reasoning Learning of Language Models
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Le, Lt

from whet.errors import RecipeError
from whet.train.objective import Loss, Policy
from whet.train.randomness import row_keys, uniform
from whet.train.supervised import Reduction, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch


@dataclass(frozen=True)
class MaskedThought:
    """``p``: share of solution tokens replaced after the rise; ``warmup``: share of training over which it rises from 0;
    ``mode``: ``random`` (any vocabulary id), ``mask`` (``token``, which must be given) or ``pad`` (the model's pad token).
    """

    p: Annotated[float, Ge(0), Lt(1)] = 0.2
    warmup: Annotated[float, Ge(0), Le(1)] = 2 / 3
    mode: Literal["random", "mask", "pad"] = "random"
    token: Annotated[int, Ge(0)] | None = None
    reduction: Reduction = "token"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if (self.mode == "mask") != (self.token is not None):
            raise RecipeError(
                f"masked-thought: 'token' (a vocabulary id) goes with mode 'mask' and only with it; mode is {self.mode!r}"
            )

    def __call__(self, policy: Policy, batch: Batch) -> Loss:
        corrupted, masked = self.corrupt(batch, policy)
        loss = cross_entropy(policy.logps(corrupted), batch, self.reduction)
        return Loss(loss, {"cross_entropy": loss.detach(), "masked_share": masked.sum() / batch.totals.tokens})

    def corrupt(self, batch: Batch, policy: Any) -> tuple[Batch, Tensor]:
        """The batch with replaced inputs, and where they are: bool [N, S]."""
        share = self.p * min(1.0, batch.step / max(1e-9, self.warmup * batch.steps)) if self.warmup else self.p
        if share == 0:
            return batch, torch.zeros_like(batch.mask)
        keys = row_keys(batch)
        masked = _solution(batch) & (uniform(keys, 0) < share)
        ids = torch.where(masked, self._replacement(batch, policy, keys), batch.input_ids)
        return batch.replace(input_ids=ids), masked

    def _replacement(self, batch: Batch, policy: Any, keys: Tensor) -> Tensor:
        if self.mode == "random":
            return (uniform(keys, 1) * policy.vocabulary).long().clamp(max=policy.vocabulary - 1)
        token = self.token if self.mode == "mask" else policy.pad_token
        if token is None:
            raise RecipeError(
                "masked-thought: mode 'pad' needs a model with a pad token; take mode 'random' or 'mask' with a 'token'"
            )
        if token >= policy.vocabulary:
            raise RecipeError(f"masked-thought: token {token} is outside the vocabulary of {policy.vocabulary}")
        return torch.full_like(batch.input_ids, token)


def _solution(batch: Batch) -> Tensor:
    """bool [N, S]: input positions that hold a trained token, which is the label of the position before."""
    target = torch.zeros_like(batch.mask)
    target[:, 1:] = batch.mask[:, :-1] & (batch.row[:, 1:] == batch.row[:, :-1])
    return target
