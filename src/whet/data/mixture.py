"""What mixtures of skills share: the matrix of influences, the shares that follow from losses, and what a schedule is told.

A schedule that reacts has ``weights(history) -> {skill: share}`` and is asked at the start of every round. A *skill* is a group of
rows, named by a column. Shapes: S skills that are trained on, T skills whose losses count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whet.data.rows import missing_column
from whet.errors import DataError, RecipeError, unknown

Influence = Mapping[str, Mapping[str, float]]
"""``{i: {j: weight}}``: how much training on skill i helps skill j, for i other than j."""


@dataclass(frozen=True)
class History:
    """What a mixture may depend on.

    skills: the number of training rows of each skill.  measured: names of the skills whose losses are measured.
    round: number of the round that begins, from 0.  losses: of every measurement so far the loss of each measured skill; the
    first is that of the untrained model. There is none when round 0 begins.
    """

    skills: Mapping[str, int]
    measured: Sequence[str]
    round: int = 0
    losses: Sequence[Mapping[str, float]] = ()


class Reacting(Protocol):
    """A schedule that decides the mixture anew every ``every`` steps.

    ``by`` names the column of the skill. Losses are measured before the first step and every ``measuring`` steps (``None``:
    never), on ``held_out`` rows of each skill: of the source ``validation``, else set aside of the training rows.
    """

    @property
    def by(self) -> str: ...

    @property
    def every(self) -> int: ...

    @property
    def measuring(self) -> int | None: ...

    @property
    def held_out(self) -> int: ...

    @property
    def validation(self) -> Any: ...

    def weights(self, history: History) -> Mapping[str, float]: ...


def mixture(losses: ArrayLike, matrix: NDArray[np.float64], eta: float, *, mean: bool = False) -> NDArray[np.float64]:
    """Shares p of the skills: ``p_i`` proportional to ``exp(eta * sum_j A_ij * sum_t L_j(t))``.

    Args:
        losses: L, [measurements, T]; with none of them every skill counts 1.
        matrix: A, [S, T].
        eta: 0 gives equal shares.
        mean: takes the mean over the measurements instead of the sum.

    >>> mixture([[1.0, 1.0]], np.eye(2), 0.5).tolist()
    [0.5, 0.5]
    """
    seen = np.asarray(losses, np.float64).reshape(-1, matrix.shape[1])
    total = np.ones(matrix.shape[1]) if not len(seen) else seen.mean(0) if mean else seen.sum(0)
    scores = eta * (matrix @ total)
    weights = np.exp(scores - scores.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def influence_matrix(
    skills: Sequence[str], targets: Sequence[str], influence: Influence | None, part: str = "skill-it"
) -> NDArray[np.float64]:
    """A [S, T]: 1 where a skill meets itself, the given influences elsewhere.

    Raises:
        RecipeError: an influence of or on a skill that is not there, or a negative one.
    """
    known = list(dict.fromkeys([*skills, *targets]))
    matrix = np.array([[float(i == j) for j in targets] for i in skills])
    for source, helped in (influence or {}).items():
        if source not in skills:
            raise RecipeError(f"{part}: influence: {unknown('skill', source, list(skills))}")
        for target, weight in helped.items():
            if target not in known:
                raise RecipeError(f"{part}: influence: {unknown('skill', target, known)}")
            if not 0 <= weight < np.inf:
                raise RecipeError(f"{part}: influence of {source!r} on {target!r}: expected 0 or more, got {weight}")
            if target in targets:
                matrix[skills.index(source), targets.index(target)] = weight
    return matrix


def skill_of(row: Mapping[str, Any], by: str) -> str:
    """The skill of a row.

    Raises:
        DataError: there is no such column, or the row names no skill.
    """
    if by not in row:
        raise DataError(f"by: {missing_column(by, row)}")
    if row[by] is None or not str(row[by]).strip():
        raise DataError(f"column {by!r} names no skill in this row; fill it or remove the row")
    return str(row[by])


def refuse_unmixable(schedule: Any, needs: frozenset[str], where: str = "schedule") -> None:
    """Refuses a reacting schedule where there is no loss of single replies to react to.

    Raises:
        RecipeError: the objective samples its own rows, or reads pairs.
    """
    if hasattr(schedule, "weights") and (unfit := needs & {"rollouts", "pairs"}):
        raise RecipeError(
            f"{where}: this schedule reacts to the losses of single replies, and the objective learns from {min(unfit)}; take "
            "shuffle, or an objective on replies"
        )
