"""What a variant spent: everything that it did beyond what all variants share.

A step that is the same in every variant (the same fine-tuning before the point where they part) is made once and counts for none. Of the rest everything counts: training, sampling, the reference model, selection and synthesis
passes, calibration. Measuring the result does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from whet.budget import Budget

TOLERANCE = 0.02
"""Share by which two variants' spending may differ and still count as the same budget."""


@dataclass(frozen=True)
class Spending:
    """Sums over steps, in every unit of :data:`whet.budget.UNITS`; ``kinds`` are tokens by what they were for."""

    tokens: int = 0
    flops: float = 0.0
    examples: int = 0
    seconds: float = 0.0
    kinds: Mapping[str, int] = field(default_factory=dict)

    def of(self, unit: str) -> float:
        """The amount in one unit."""
        return float(getattr(self, unit))

    def per(self, count: int) -> Spending:
        """One of ``count`` equal parts."""
        return Spending(
            tokens=round(self.tokens / count),
            flops=self.flops / count,
            examples=round(self.examples / count),
            seconds=self.seconds / count,
            kinds={kind: round(tokens / count) for kind, tokens in self.kinds.items()},
        )


@dataclass(frozen=True)
class StepCost:
    """One finished step: its ``identity`` and what it took."""

    name: str
    section: str
    identity: str
    spent: Spending = Spending()


def step_cost(name: str, section: str, identity: str, receipt: Mapping[str, Any], cost: Mapping[str, Any]) -> StepCost:
    """What a step's record says that it took."""
    sampled, prepared = receipt.get("provider") or {}, receipt.get("data") or {}
    sampling = int(sampled.get("prefill_tokens", 0)) + int(sampled.get("decode_tokens", 0)) if section == "train" else 0
    scored = int(prepared.get("reference_tokens", 0)) + int(receipt.get("reference_tokens", 0))
    reference = scored if section == "train" else 0
    graph = receipt.get("skills_graph") or {"cost": {"tokens": 0}}
    mixture = int(sampled.get("measured_tokens", 0)) + int(graph["cost"]["tokens"]) if section == "train" else 0
    tokens = int(cost.get("tokens", 0))
    rest = {"train": "training", "data": "data passes", "quantize": "calibration", "edit": "selecting"}.get(section, section)
    kinds = {
        rest: tokens - sampling - reference - mixture,
        "sampling": sampling,
        "reference model": reference,
        "deciding the mixture": mixture,
    }
    spent = Spending(
        tokens=tokens,
        flops=float(cost.get("flops", 0.0)),
        examples=int(cost.get("examples", receipt.get("rows", 0) if section == "train" else 0)),
        # What only watches the training does not count.
        seconds=float(cost.get("seconds_training", cost.get("seconds", 0.0))),
        kinds={kind: count for kind, count in kinds.items() if count},
    )
    return StepCost(name, section, identity, spent)


def spending(steps: Iterable[StepCost], shared: Collection[str] = ()) -> Spending:
    """The sum over the steps that make the model; ``shared`` are the names of those that count for no variant."""
    return total(step.spent for step in steps if step.name not in shared and step.section not in ("measure", "export"))


def total(several: Iterable[Spending]) -> Spending:
    """The sum of several."""
    found = list(several)
    return Spending(
        tokens=sum(s.tokens for s in found),
        flops=sum(s.flops for s in found),
        examples=sum(s.examples for s in found),
        seconds=sum(s.seconds for s in found),
        kinds={kind: sum(s.kinds.get(kind, 0) for s in found) for s in found for kind in s.kinds},
    )


def matched(first: float, second: float) -> bool:
    """Whether two amounts are the same up to :data:`TOLERANCE`."""
    return abs(first - second) <= TOLERANCE * max(first, second)


def over(spent: float, budget: Budget) -> bool:
    """Whether a variant spent more than the budget."""
    return spent > budget.amount * (1 + TOLERANCE)
