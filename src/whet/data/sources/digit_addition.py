"""Additions of which one digit is asked for: skill d asks for digit d of the sum, which depends on all digits below it.

``A = 5 7 + 3 9 , A 1 = ?`` has the reply ``#### 9``: digit 0 is that of the ones. The sum is taken modulo ``10 ** digits``, so that
there are as many skills as digits. Digit d needs the carry of the digits below, so its skill builds on theirs.

Columns and splits are those of :mod:`whet.data.skill_rows`. Defaults: 3 digits, as in the paper; 4,000 rows.

Paper: skill-it — Skill-it! A Data-Driven Skills Framework for Understanding and Training Language Models
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from whet.data.skill_rows import Asked, skill_rows

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class DigitAddition:
    """``digits``: of both summands, and skills. ``rows``: of a split. ``seed``: of the problems."""

    digits: Annotated[int, Ge(1)] = 3
    rows: Annotated[int, Gt(0)] = 4000
    seed: int = 0

    def __call__(self, split: str) -> Dataset:
        """The rows of ``train``, ``validation`` or ``test``."""
        skills = [str(d) for d in range(self.digits)]
        return skill_rows("digit-addition", split, self.rows, skills, f"{self.seed}/{self.digits}", self._draw)

    def _draw(self, rng: random.Random, skill: str) -> Asked:
        place = int(skill)
        # Lowest digit first.
        first, second = ([rng.randrange(10) for _ in range(self.digits)] for _ in range(2))
        digit = carry = 0
        for a, b in zip(first[: place + 1], second):
            carry, digit = divmod(a + b + carry, 10)
        sums = f"A = {' '.join(map(str, reversed(first)))} + {' '.join(map(str, reversed(second)))}"
        return Asked(f"{sums} , A {place} = ?", str(digit), sums, place + 1)
