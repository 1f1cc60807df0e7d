"""A weighted sum of objectives is an objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whet.errors import RecipeError
from whet.train.objective import Loss, Objective

if TYPE_CHECKING:
    from whet.data.example import Batch
    from whet.train.objective import Policy


@dataclass(frozen=True)
class WeightedSum:
    """``parts``: (name, weight, objective); the objectives share one forward wherever their inputs are the same."""

    parts: tuple[tuple[str, float, Objective], ...]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(objective.needs for _, _, objective in self.parts))

    def __call__(self, policy: Policy, batch: Batch) -> Loss:
        losses = [(name, weight, objective(policy, batch)) for name, weight, objective in self.parts]
        total = sum(weight * loss.total for _, weight, loss in losses)
        terms = {f"{name}.{term}": value for name, _, loss in losses for term, value in loss.terms.items()}
        return Loss(total, terms | {f"{name}.loss": loss.total.detach() for name, _, loss in losses})  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """The states of those objectives that have one, by name."""
        return {name: o.state_dict() for name, _, o in self.parts if hasattr(o, "state_dict")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from :meth:`state_dict`."""
        for name, _, objective in self.parts:
            if name in state:
                objective.load_state_dict(state[name])  # type: ignore[attr-defined]


def combine(objectives: Objective | Sequence[tuple[float, Objective]]) -> Objective:
    """One objective of several with weights; a single objective passes through.

    Raises:
        RecipeError: an empty list.
    """
    if callable(objectives):
        return objectives
    if not objectives:
        raise RecipeError("objective: the list is empty; name at least one")
    names = [_name(objective) for _, objective in objectives]
    unique = [n if names.count(n) == 1 else f"{n}-{names[:i].count(n) + 1}" for i, n in enumerate(names)]
    return WeightedSum(tuple((name, weight, objective) for name, (weight, objective) in zip(unique, objectives)))


def _name(objective: Any) -> str:
    return type(objective).__module__.rpartition(".")[2].replace("_", "-")
