"""A comparison as plain data: what the ledger, ``--json`` and the board show of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from whet.budget import UNITS, shown
from whet.run.compare.spending import Spending, total
from whet.run.compare.verdicts import variant_estimate
from whet.run.plain import finite

if TYPE_CHECKING:
    from whet.run.compare.arms import Arm, Comparison
    from whet.run.compare.target import Reached, TargetVerdict


def summary(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data, all of which JSON can hold: what the ledger keeps."""
    found = {
        "id": comparison.id,
        "unit": unit_of(comparison),
        "variants": {name: _arm(arm) for name, arm in comparison.arms.items()},
        "scores": {
            task: {name: dict(zip(("value", "low", "high"), variant_estimate(by_seed))) for name, by_seed in by_variant.items()}
            for task, by_variant in comparison.results.items()
        },
        "by_seed": {
            task: {name: {s: r.estimates[r.metric].value for s, r in by_seed.items()} for name, by_seed in by_variant.items()}
            for task, by_variant in comparison.results.items()
        },
        "verdicts": [v.plain() for v in comparison.verdicts],
        "targets": [target_row(t) for t in comparison.targets],
        "notes": list(comparison.notes),
        "seconds": comparison.seconds,
        "document": dict(comparison.plan.document),
    }
    return dict(finite(found))


def unit_of(comparison: Comparison) -> str:
    """What spending is shown in."""
    return comparison.plan.budget.unit if comparison.plan.budget else "tokens"


def mean_spending(arm: Arm) -> Spending:
    """Per seed, on average."""
    return total(arm.spent.values()).per(max(1, len(arm.spent)))


def _arm(arm: Arm) -> dict[str, Any]:
    mean = mean_spending(arm)
    return {
        "changes": dict(arm.variant.changes),
        "values": dict(arm.values),
        "runs": {seed: done.run for seed, done in arm.done.items()},
        "spent": {**{u: mean.of(u) for u in UNITS}, "kinds": dict(mean.kinds)},
        "tuning_tokens": arm.tuning.tokens,
        "failed": arm.failed,
        "stopped": arm.stopped,
    }


def target_row(verdict: TargetVerdict) -> dict[str, Any]:
    """A pair's budgets to the target; of a ``ratio`` that is no number ``ratio_text`` says why."""

    def costs(arm: Sequence[Reached]) -> str:
        return ", ".join(shown(r.cost) if r.cost != math.inf else f"> {shown(r.budget)} (never)" for r in arm)

    return {
        "metric": verdict.metric,
        "target": verdict.target,
        "unit": verdict.unit,
        "first": verdict.first,
        "second": verdict.second,
        "first_costs": costs(verdict.first_reached),
        "second_costs": costs(verdict.second_reached),
        "ratio": verdict.ratio,
        "ratio_text": _ratio(verdict),
        "p": verdict.p,
        "test": verdict.test,
        "censored": verdict.censored,
    }


def _ratio(verdict: TargetVerdict) -> str:
    """How much more the second needs, in words."""
    if math.isnan(verdict.ratio):
        return "neither reaches it in most seeds"
    if verdict.ratio in (0.0, math.inf):
        return f"only {verdict.first if verdict.ratio else verdict.second} reaches it in most seeds"
    return f"{verdict.ratio:.2f} times the {verdict.unit}"
