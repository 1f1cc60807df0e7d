"""The fraction of correct intermediate states: prefix accuracy of the states that the completion writes down.

With s the row's ``states`` (intermediate ones and the final one) and t those of the completion, the reward is
PML / max(|s|, |t|), where PML counts the leading states that are equal. It is 1 only if every state is right and none is
added, and it says how far a wrong solution was right: a dense reward. A completion without states has 0. What counts as a
state of a completion: ``whet.generate.verify.states_of``.

Default: column ``states``.

Paper: procbench — ProcBench: Benchmark for Multi-Step Reasoning and Following Procedure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.data.rows import missing_column
from whet.errors import DataError
from whet.generate.verify import prefix_accuracy, states_of


@dataclass(frozen=True)
class Steps:
    """``column``: where the row's list of states stands."""

    column: str = "states"

    def __call__(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
        return [prefix_accuracy(states_of(text), self._states(row)) for row, text in zip(rows, completions)]

    def _states(self, row: Mapping[str, Any]) -> list[str]:
        if self.column not in row:
            raise DataError(missing_column(self.column, row))
        states = row[self.column]
        if not isinstance(states, Sequence) or isinstance(states, str) or not states:
            raise DataError(f"column {self.column!r}: expected a list of at least one state, got {states!r}")
        return [str(state) for state in states]
