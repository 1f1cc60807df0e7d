"""Parities of bits: A and B of a few bits each, and C, their product, which is hard to learn without them.

A row is ``bits`` random bits and a skill. A asks for the parity of the first ``degree`` bits, B of the next ``degree``, C of both
together: ``C : 0 1 1 0 ... = ?`` has the reply ``#### 1``. Gradient descent finds a parity of few bits much faster than one of many;
a network that knows A and B has C at hand.

Columns and splits are those of :mod:`whet.data.skill_rows`. Defaults: 20 bits, parities of 3; 4,000 rows.

Paper: skill-it — Skill-it! A Data-Driven Skills Framework for Understanding and Training Language Models
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from whet.data.skill_rows import Asked, skill_rows
from whet.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

SKILLS = ("A", "B", "C")


@dataclass(frozen=True)
class ParityStaircase:
    """``bits`` of a row, ``degree`` of them for each of A and B. ``rows``: of a split. ``seed``: of the problems."""

    bits: Annotated[int, Ge(2)] = 20
    degree: Annotated[int, Ge(1)] = 3
    rows: Annotated[int, Gt(0)] = 4000
    seed: int = 0

    def __post_init__(self) -> None:
        if 2 * self.degree > self.bits:
            raise RecipeError(
                f"parity-staircase.degree: two parities of {self.degree} bits need more than the {self.bits} bits there are"
            )

    def __call__(self, split: str) -> Dataset:
        """The rows of ``train``, ``validation`` or ``test``."""
        return skill_rows("parity-staircase", split, self.rows, SKILLS, f"{self.seed}/{self.bits}/{self.degree}", self._draw)

    def places(self, skill: str) -> slice:
        """The bits that a skill's answer depends on."""
        d = self.degree
        return {"A": slice(0, d), "B": slice(d, 2 * d), "C": slice(0, 2 * d)}[skill]

    def answers(self, bits: NDArray[np.int64], skill: str) -> NDArray[np.int64]:
        """Right answers, [n], to bits [n, bits]."""
        parity: NDArray[np.int64] = bits[:, self.places(skill)].sum(1) % 2
        return parity

    def _draw(self, rng: random.Random, skill: str) -> Asked:
        bits = [rng.randrange(2) for _ in range(self.bits)]
        shown, place = " ".join(map(str, bits)), self.places(skill)
        return Asked(
            f"{skill} : {shown} = ?", str(int(self.answers(np.array([bits]), skill)[0])), shown, place.stop - place.start
        )
