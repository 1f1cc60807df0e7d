"""Moves the mixture while training towards skills that help whatever is still badly learned.

A skill is a group of rows (``by``). Skills form a graph: A_ij > 0 where training on skill i lowers the loss on skill j. With L_j(t) the
loss of skill j in measurement t, the shares of the skills in the next round are

    p_i = exp(eta * sum_j A_ij * sum over the last ``window`` measurements of L_j(t)) / (the same summed over all skills)

computed anew from the losses each time, never as a running product. The first round has no losses yet and counts 1 for each. A step's
rows are drawn by the shares; within a skill every row comes once before one comes again.

Losses are negative log-probabilities per trained token, measured every ``measure_every`` steps on ``held_out`` rows of each skill: of the
source ``validation``, else set aside of the training rows. What is read for it counts against a budget. The window counts
measurements, not rounds. With ``targets`` only these skills' losses count, by the mean over the window; they may then be skills
without training rows, from ``validation``.

A: the diagonal is 1. ``influence`` holds the other entries, {i: {j: A_ij}}; or ``learn`` measures them by short runs of ``learn_steps``
steps, with the training step's own settings, before it begins (their cost counts, too):
``alone``  one run per skill; A_ij is the share of skill j's loss that training on i alone takes away.
``pairs``  one run per skill and per pair; A_ij is by what share skill j's loss is lower after training on i and j together, half
           the rows each, than after j alone. Costs about k^2 / 2 runs.
A graph with nearly no edges, or nearly all, carries no order, and there is nothing to gain from it.

Options: ``relative`` divides each loss by that of the untrained model; ``adaptive`` divides eta by the share of the first losses
that is left; ``halve`` halves the influences after every round; ``keep_isolated`` leaves skills without any edge at 1/k.

Defaults: eta 0.5 and window 3 (the paper's on its synthetic skills; eta 0.1 for addition); every 100 steps (the paper: a sixth of the
run). ``stratified`` gives all skills the same share throughout and measures nothing.

Paper: skill-it — Skill-it! A Data-Driven Skills Framework for Understanding and Training Language Models
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from whet.data.mixture import History, influence_matrix, mixture
from whet.errors import RecipeError, unknown
from whet.parts import Kind

PRESETS = {"stratified": {"eta": 0.0, "about": "The same share of every step to each skill, however many rows it has"}}


@dataclass(frozen=True)
class SkillIt:
    """``every``: steps of a round.  ``measure_every``: steps between measurements, default ``every``.  ``influence``: A off the
    diagonal, or ``learn``: how to measure it."""

    by: str = "skill"
    every: Annotated[int, Gt(0)] = 100
    eta: Annotated[float, Ge(0)] = 0.5
    window: Annotated[int, Gt(0)] = 3
    measure_every: Annotated[int, Gt(0)] | None = None
    influence: Mapping[str, Mapping[str, float]] | None = None
    learn: Literal["alone", "pairs"] | None = None
    learn_steps: Annotated[int, Gt(0)] = 50
    targets: tuple[str, ...] = ()
    relative: bool = False
    adaptive: bool = False
    halve: bool = False
    keep_isolated: bool = False
    held_out: Annotated[int, Gt(0)] = 32
    validation: Annotated[Any, Kind("source")] | None = None

    def __post_init__(self) -> None:
        if self.influence is not None and self.learn is not None:
            raise RecipeError("skill-it: give 'influence', or let 'learn' measure it, not both")
        if self.learn is not None and not self.eta:
            raise RecipeError(f"skill-it: with eta 0 nothing that 'learn: {self.learn}' measures is read; remove it")
        names = list(self.influence or {})
        influence_matrix(names, [target for helped in (self.influence or {}).values() for target in helped], self.influence)

    @property
    def measuring(self) -> int | None:
        """Steps between measurements; ``None`` where no loss would change anything."""
        return (self.measure_every or self.every) if self.eta else None

    def weights(self, history: History) -> dict[str, float]:
        """The share of each skill in the round that begins.

        Raises:
            RecipeError: skills that are not there; measured skills that are not those of the training rows, without ``targets``.
        """
        skills, targets = list(history.skills), self._targets(history)
        matrix = influence_matrix(skills, targets, self.influence)
        if self.halve:
            matrix = _halved(matrix, skills, targets, history.round)
        losses = [[found[target] for target in targets] for found in history.losses]
        start, seen = losses[:1], losses[1:][-self.window :]
        eta = self.eta
        if self.adaptive and seen:
            eta = self.eta * sum(start[0]) / max(sum(seen[-1]), 1e-12)
        if self.relative and seen:
            seen = [[now / max(first, 1e-12) for now, first in zip(row, start[0])] for row in seen]
        shares = mixture(seen, matrix, eta, mean=bool(self.targets))
        if self.keep_isolated:
            shares = _with_isolated(shares, [_is_isolated(skill, self.influence or {}) for skill in skills])
        return dict(zip(skills, shares.tolist()))

    def _targets(self, history: History) -> list[str]:
        """The skills whose losses count."""
        for target in self.targets:
            if target not in history.measured:
                raise RecipeError(f"skill-it: targets: {unknown('skill', target, list(history.measured))}")
        if not self.targets and set(history.measured) != set(history.skills):
            differing = sorted(set(history.measured) ^ set(history.skills))
            raise RecipeError(
                f"skill-it: the skills of the training and of the validation rows differ ({', '.join(differing[:5])}), so that A "
                "would not be square; name the skills to learn as 'targets'"
            )
        return list(self.targets) or list(history.skills)


def _halved(matrix: NDArray[np.float64], skills: Sequence[str], targets: Sequence[str], rounds: int) -> NDArray[np.float64]:
    same = np.array([[i == j for j in targets] for i in skills])
    return np.where(same, matrix, matrix * 0.5**rounds)


def _is_isolated(skill: str, influence: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether the skill neither helps another one nor is helped."""
    edges = [(i, j) for i, helped in influence.items() for j, weight in helped.items() if weight and i != j]
    return not any(skill in edge for edge in edges)


def _with_isolated(shares: NDArray[np.float64], isolated: Sequence[bool]) -> NDArray[np.float64]:
    """Isolated skills get 1/k, the others what is left, in proportion."""
    alone = np.asarray(isolated)
    rest = shares[~alone].sum()
    kept = np.full(len(shares), 1 / len(shares))
    kept[~alone] = shares[~alone] / rest * (1 - alone.mean()) if rest else kept[~alone]
    return kept
