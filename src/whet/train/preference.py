"""What the objectives that learn from preference pairs share: finding the pairs of a batch, and their log-ratios.

U pairs lie in a batch of R = 2 U examples, as ``values["chosen"]`` 1 and 0 of one ``unit``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from whet.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch


@dataclass(frozen=True)
class PairScores:
    """Of U pairs: ``chosen`` and ``rejected`` [U], each the log-probability of the completion given its prompt, less the
    reference's; summed over tokens, or averaged. ``chosen_logps`` [U] is the policy's own sum."""

    chosen: Tensor
    rejected: Tensor
    chosen_logps: Tensor


def pair_rows(batch: Batch) -> tuple[Tensor, Tensor]:
    """Rows of the chosen and of the rejected completions, int64 [U] each, in the order of their units.

    Raises:
        DataError: the batch has no ``chosen`` value, or a unit is not exactly one chosen and one rejected row.
    """
    if "chosen" not in batch.values:
        raise DataError("this objective learns from pairs, but the rows have no value 'chosen'; use format: preference")
    is_chosen = batch.values["chosen"] > 0.5
    rows = [torch.nonzero(part).flatten() for part in (is_chosen, ~is_chosen)]
    chosen, rejected = (part[torch.argsort(batch.unit[part], stable=True)] for part in rows)
    units = batch.unit[chosen]
    if not torch.equal(units, batch.unit[rejected]) or units.unique().numel() != units.numel():
        raise DataError(
            f"{chosen.numel()} chosen and {rejected.numel()} rejected rows do not pair up: each unit needs exactly one of both. "
            "Was a pair split over two batches, or half of it dropped?"
        )
    return chosen, rejected


def row_scores(logps: Tensor, batch: Batch, *, reference_free: bool = False, length_normalized: bool = False) -> Tensor:
    """Each row's sum over its trained tokens of ``logps - reference_logps``, or its mean: [R].

    Raises:
        DataError: the reference's log-probabilities are needed and missing.
    """
    if not reference_free:
        if "reference_logps" not in batch.token_values:
            raise DataError("the batch has no token_values['reference_logps']; give a reference model, or reference_free: true")
        logps = logps - batch.token_values["reference_logps"].detach()
    scores = batch.row_sum(logps)
    return scores / batch.row_tokens().to(scores.dtype).clamp(min=1) if length_normalized else scores


def pair_scores(logps: Tensor, batch: Batch, *, reference_free: bool = False, length_normalized: bool = False) -> PairScores:
    """The pairs of a batch with their scores; ``logps`` [N, S] is the policy's. See :func:`row_scores`."""
    chosen, rejected = pair_rows(batch)
    scores = row_scores(logps, batch, reference_free=reference_free, length_normalized=length_normalized)
    return PairScores(scores[chosen], scores[rejected], batch.row_sum(logps.detach())[chosen])


def pair_terms(scores: PairScores, beta: float, batch: Batch) -> Mapping[str, Tensor]:
    """What is logged of pairs, as shares of the step: ``chosen_reward`` and ``rejected_reward`` (beta times the score),
    ``margin``, ``accuracy`` (share of pairs whose chosen score is higher), ``chosen_logps``."""
    chosen, rejected = scores.chosen.detach(), scores.rejected.detach()
    terms = {
        "chosen_reward": beta * chosen,
        "rejected_reward": beta * rejected,
        "margin": beta * (chosen - rejected),
        "accuracy": (chosen > rejected).to(chosen.dtype),
        "chosen_logps": scores.chosen_logps,
    }
    return {name: term.sum() / batch.totals.units for name, term in terms.items()}
