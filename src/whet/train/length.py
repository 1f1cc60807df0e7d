"""How long a run lasts and how far it is: a number of steps, or a budget that everything it spends counts against."""

from __future__ import annotations

from dataclasses import dataclass

from whet.budget import Budget

FINE = 1_000_000
"""Parts of a budget, so that the learning rate's schedule can count them as it counts steps."""


@dataclass
class Length:
    """``steps``, or a ``budget`` of which ``spent`` is gone, ``last`` of it in the last step."""

    steps: int | None
    budget: Budget | None = None
    spent: float = 0.0
    last: float = 0.0

    def finished(self, step: int) -> bool:
        """Whether another step would be too many: under a budget, whether it would end further from it than this."""
        if self.budget is None:
            return step >= (self.steps or 0)
        return self.spent + self.last / 2 >= self.budget.amount

    def count(self, spent: float) -> None:
        """Notes what the run has spent by now."""
        self.spent, self.last = spent, spent - self.spent

    def position(self, step: int) -> tuple[int, int]:
        """Where the step about to be done stands, of how much, for schedules; the middle of the step under a budget."""
        if self.budget is None:
            return step, self.steps or 1
        return round(FINE * min(1.0, (self.spent + self.last / 2) / self.budget.amount)), FINE

    def expected_steps(self, step: int) -> int:
        """How many steps there will be, by what the steps so far have spent."""
        if self.budget is None:
            return self.steps or 1
        return max(step + 1, round(step * self.budget.amount / self.spent)) if self.spent else step + 1

    def text(self, step: int) -> str:
        """``step 5 of 80``, or ``step 5 (12% of 2M tokens)``."""
        if self.budget is None:
            return f"step {step} of {self.steps}"
        return f"step {step} ({100 * self.spent / self.budget.amount:.0f}% of {self.budget})"
