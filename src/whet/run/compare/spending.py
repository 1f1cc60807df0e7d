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
class StepCost:
    """One finished step: its ``identity`` and what it took."""

    name: str
    section: str
    identity: str
    tokens: int = 0
    flops: float = 0.0
    examples: int = 0
    seconds: float = 0.0
    kinds: Mapping[str, int] = field(default_factory=dict)
    """Tokens by what they were for."""


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


def step_cost(name: str, section: str, identity: str, receipt: Mapping[str, Any], cost: Mapping[str, Any]) -> StepCost:
    """What a step's record says that it took."""
    sampled, prepared = receipt.get("provider") or {}, receipt.get("data") or {}
    sampling = int(sampled.get("prefill_tokens", 0)) + int(sampled.get("decode_tokens", 0)) if section == "train" else 0
    scored = int(prepared.get("reference_tokens", 0)) + int(receipt.get("reference_tokens", 0))
    reference = scored if section == "train" else 0
    tokens = int(cost.get("tokens", 0))
    rest = {"train": "training", "data": "data passes", "quantize": "calibration", "edit": "selecting"}.get(section, section)
    kinds = {rest: tokens - sampling - reference, "sampling": sampling, "reference model": reference}
    return StepCost(
        name=name,
        section=section,
        identity=identity,
        tokens=tokens,
        flops=float(cost.get("flops", 0.0)),
        examples=int(receipt.get("rows", 0)) if section == "train" else 0,
        # What only watches the training does not count.
        seconds=float(cost.get("seconds_training", cost.get("seconds", 0.0))),
        kinds={kind: count for kind, count in kinds.items() if count},
    )


def spending(steps: Iterable[StepCost], shared: Collection[str] = ()) -> Spending:
    """The sum over the steps that make the model; ``shared`` are the names of those that count for no variant."""
    own = [step for step in steps if step.name not in shared and step.section not in ("measure", "export")]
    kinds: dict[str, int] = {}
    for step in own:
        for kind, count in step.kinds.items():
            kinds[kind] = kinds.get(kind, 0) + count
    return Spending(
        tokens=sum(step.tokens for step in own),
        flops=sum(step.flops for step in own),
        examples=sum(step.examples for step in own),
        seconds=sum(step.seconds for step in own),
        kinds=kinds,
    )


def total(several: Iterable[Spending]) -> Spending:
    """The sum of several."""
    found = list(several)
    kinds = {kind: sum(s.kinds.get(kind, 0) for s in found) for s in found for kind in s.kinds}
    return Spending(
        tokens=sum(s.tokens for s in found),
        flops=sum(s.flops for s in found),
        examples=sum(s.examples for s in found),
        seconds=sum(s.seconds for s in found),
        kinds=kinds,
    )


def matched(first: float, second: float) -> bool:
    """Whether two amounts are the same up to :data:`TOLERANCE`."""
    return abs(first - second) <= TOLERANCE * max(first, second)


def over(spent: float, budget: Budget) -> bool:
    """Whether a variant spent more than the budget."""
    return spent > budget.amount * (1 + TOLERANCE)
