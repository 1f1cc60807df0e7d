"""How an annotation budget is divided between demonstrations and preference pairs, to the last cent."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from whet.errors import RecipeError
from whet.forecast.predicted import Forecasted, Prediction

ALL_SFT = 1000.0
"""Examples up to which demonstrations alone do best."""
LARGEST, LARGEST_SHARE = 20_000.0, 0.75
"""The largest budget studied, in examples, and the share of pairs there."""
CAP = 0.9
"""At least a tenth stays with demonstrations where the model does not have the form of the answer yet."""
COLD = 0.05
"""Share of a model's own replies that have the form, below which preferences alone fail."""


@dataclass(frozen=True)
class Split:
    """A divided budget. ``share``: of the cost that goes to preference pairs. ``demonstrations``, ``pairs``: how many. Costs:
    what each kind takes, and what is ``unspent`` because it buys no whole example; the three add up to the budget exactly.
    """

    budget: Fraction
    share: Fraction
    demonstrations: int
    pairs: int
    cost_demonstrations: Fraction
    cost_pairs: Fraction
    unspent: Fraction

    def data(self) -> dict[str, float]:
        """The split as plain numbers."""
        return {name: value if isinstance(value, int) else float(value) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        left = f", {float(self.unspent):g} unspent" if self.unspent else ""
        costs = f"cost {float(self.cost_demonstrations):g} + {float(self.cost_pairs):g}{left}"
        return f"{self.demonstrations:,} demonstrations and {self.pairs:,} preference pairs ({costs})"


def exact(value: float) -> Fraction:
    """The number as it is written, so that a tenth of a price is a tenth."""
    return Fraction(repr(float(value)))


def split(budget: float, share: float, price_sft: float = 1.0, price_preference: float = 1.0) -> Split:
    """Divides a budget: pairs for the share, demonstrations for what is left; none of one kind at a share of 0 or 1.

    Raises:
        RecipeError: a share outside [0, 1], a price that is not positive, or a budget that buys no example.

    >>> str(split(1000, 0.9))
    '100 demonstrations and 900 preference pairs (cost 100 + 900)'
    """
    if not 0 <= share <= 1:
        raise RecipeError(f"budget-split: share {share:g}: expected the part of the cost for preference pairs, from 0 to 1")
    if min(price_sft, price_preference) <= 0:
        raise RecipeError(f"budget-split: prices {price_sft:g} and {price_preference:g}: both must be positive")
    whole, part, sft, pair = map(exact, (budget, share, price_sft, price_preference))
    pairs = math.floor(part * whole / pair)
    demonstrations = 0 if part == 1 else math.floor((whole - pairs * pair) / sft) if part else math.floor(whole / sft)
    if not pairs + demonstrations:
        raise RecipeError(
            f"budget-split: {budget:g} buys no example at prices {price_sft:g} and {price_preference:g}; raise the budget"
        )
    spent = demonstrations * sft, pairs * pair
    return Split(whole, part, demonstrations, pairs, *spent, whole - sum(spent))


def default_share(examples: float, cap: float = CAP) -> float:
    """The share of preference pairs when nothing is known of one's own task: 0 up to 1,000 examples, then growing with the
    logarithm of the budget to 0.75 at 20,000, and no further; never above ``cap``.

    >>> default_share(500), default_share(20_000), default_share(10**9)
    (0.0, 0.75, 0.75)
    """
    if examples <= ALL_SFT:
        return 0.0
    return min(cap, LARGEST_SHARE * min(1.0, math.log(examples / ALL_SFT) / math.log(LARGEST / ALL_SFT)))


@dataclass(frozen=True)
class Choice:
    """The division of one budget: which, why, and where it was fitted: what is expected of every share, and in which part of the
    bootstrap's draws it was the best; ``likely`` are the shares between the 2.5% and the 97.5% quantile of those that were best.
    """

    split: Split
    why: str
    expected: dict[str, Prediction]
    best_in: dict[str, float]
    likely: tuple[float, float] | None = None
    doubt: str = ""


@dataclass(frozen=True)
class BudgetPlan(Forecasted):
    """A forecast by share, and for each budget the choice that follows."""

    choices: tuple[Choice, ...] = ()

    def data(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {**super().data(), "choices": [{**asdict(c), "split": c.split.data()} for c in self.choices]}

    def lines(self) -> list[str]:
        """The plan as text, one choice for each budget."""
        out = super().lines() if self.extrapolations else [self.law, *self.notes]
        for choice in self.choices:
            doubt = f"  NOT TO BE RELIED ON: {choice.doubt}" if choice.doubt else ""
            out.append(f"budget {float(choice.split.budget):g}: share {float(choice.split.share):.3g}: {choice.split}{doubt}")
            out.append(f"  {choice.why}")
            if choice.likely:
                drawn = ", ".join(f"{share} in {100 * part:.0f}%" for share, part in choice.best_in.items() if part)
                out.append(
                    f"  best in the bootstrap's draws: {drawn}; 95% of them lie in [{choice.likely[0]:g}, {choice.likely[1]:g}]"
                )
        return out
