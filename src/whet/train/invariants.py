"""Equalities that training must keep, measured on the user's own model and rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from whet.data.example import Example
from whet.data.packing import count, pack
from whet.generate.evaluation import without_dropout
from whet.train.objective import Objective
from whet.train.policy import HFPolicy
from whet.train.token_values import reader

if TYPE_CHECKING:
    from whet.model import Model


def check_accumulation(
    model: Model, examples: Sequence[Example], objective: Objective, *, step: int = 0, steps: int = 1
) -> dict[str, Any]:
    """Whether the gradient depends on how a step is split: all examples at once against one unit at a time, float32.

    Returns:
        ``gradient``: largest difference of any gradient entry, relative to the largest entry; ``loss``: relative difference
        of the losses; ``micro_batches``: of the split run. The model's gradients are cleared.
    """
    loss, gradient, _ = _gradient(model, examples, objective, 1 << 40, step, steps)
    split_loss, split_gradient, pieces = _gradient(model, examples, objective, 1, step, steps)
    scale = max(float(g.abs().max()) for g in gradient.values())
    worst = max(float((g - split_gradient[name]).abs().max()) for name, g in gradient.items())
    return {"gradient": worst / max(scale, 1e-30), "loss": _relative(split_loss, loss), "micro_batches": pieces}


def check_packing(model: Model, examples: Sequence[Example]) -> dict[str, Any]:
    """Whether packed rows see each other: log-probabilities packed against each row alone, float32.

    Returns:
        ``logps``: largest difference in nats; ``loss``: relative difference of their sums; ``packed``: whether this network's
        rows are packed at all (else each row has its own pack, and the check is of padding).
    """
    longest = max(map(len, examples))
    width = min(sum(map(len, examples)), max(longest, model.context))
    policy = HFPolicy(model.network)
    packed = reader(policy.logps, width=width, share=policy.shares_packs, device=policy.device)
    alone = reader(policy.logps, micro_tokens=1, share=False, device=policy.device)
    with without_dropout(model.network):
        together, apart = packed(examples), alone(examples)
    policy.forget()
    worst = max(abs(a - b) for left, right in zip(together, apart) for a, b in zip(left, right))
    loss = _relative(sum(map(sum, together)), sum(map(sum, apart)))
    return {"logps": worst, "loss": loss, "packed": policy.shares_packs}


def check_ratio(model: Model, samples: Sequence[tuple[Sequence[int], Sequence[int], Sequence[float]]]) -> dict[str, Any]:
    """Whether sampler and trainer speak of one distribution: the mean importance ratio on fresh samples at temperature 1 is 1.

    Args:
        samples: (prompt ids, completion ids, the sampler's log-probabilities) each.

    Returns:
        ``ratio``: distance of the mean of exp(trainer's - sampler's log-probability) from 1; ``tokens``: how many.
    """
    examples = [
        Example([*prompt, *ids], [False] * len(prompt) + [True] * len(ids), unit=i) for i, (prompt, ids, _) in enumerate(samples)
    ]
    policy = HFPolicy(model.network)
    with without_dropout(model.network):
        rows = reader(policy.logps, share=policy.shares_packs, device=policy.device)(examples)
    pairs = [(new, old) for (_, ids, logps), row in zip(samples, rows) for new, old in zip(row[len(row) - len(ids) :], logps)]
    ratios = [math.exp(new - old) for new, old in pairs]
    return {"ratio": abs(sum(ratios) / max(1, len(ratios)) - 1.0), "tokens": len(ratios)}


def _gradient(
    model: Model, examples: Sequence[Example], objective: Objective, micro_tokens: int, step: int, steps: int
) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradient by parameter name, and number of micro-batches."""
    policy = HFPolicy(model.network)
    trained = {name: p for name, p in model.network.named_parameters() if p.requires_grad}
    totals, loss = count(examples), 0.0
    model.network.zero_grad(set_to_none=True)
    batches = pack(
        examples,
        totals=totals,
        micro_tokens=micro_tokens,
        share=policy.shares_packs,
        step=step,
        steps=steps,
        device=policy.device,
    )
    with without_dropout(model.network):
        for batch in batches:
            part = objective(policy, batch).total
            part.backward()
            policy.forget()
            loss += float(part.detach())
    gradient = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
    model.network.zero_grad(set_to_none=True)
    return loss, gradient, len(batches)


def _relative(a: float, b: float) -> float:
    return abs(a - b) / max(abs(b), 1e-30)
