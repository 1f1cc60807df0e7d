"""Chains of bits, each the one before or its opposite: skill s asks for the s-th, which depends on all before it.

A problem is ``length`` variables, letters drawn anew for each: the first has a value, every other one is the one before
(``val``) or its opposite (``not``). The clauses come in random order: ``c = not k , k = val 1 , q = val c . c = ?``, and the
reply is ``#### 0``. Skill ``s`` (``1`` to ``length``) asks for the s-th variable of the chain. Each skill is learned faster by a
network that has the one before it, which makes the skills a chain too.

Columns and splits are those of :mod:`whet.data.skill_rows`. Defaults: 5 variables, as in the paper; 4,000 rows.

Paper: skill-it — Skill-it! A Data-Driven Skills Framework for Understanding and Training Language Models
"""

from __future__ import annotations

import itertools
import random
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from whet.data.skill_rows import Asked, skill_rows

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class LegoChain:
    """``length``: variables of a chain, and skills. ``rows``: of a split. ``seed``: of the problems."""

    length: Annotated[int, Ge(1), Le(26)] = 5
    rows: Annotated[int, Gt(0)] = 4000
    seed: int = 0

    def __call__(self, split: str) -> Dataset:
        """The rows of ``train``, ``validation`` or ``test``."""
        skills = [str(s) for s in range(1, self.length + 1)]
        return skill_rows("lego-chain", split, self.rows, skills, f"{self.seed}/{self.length}", self._draw)

    def _draw(self, rng: random.Random, skill: str) -> Asked:
        names = rng.sample(string.ascii_lowercase, self.length)
        value = rng.randrange(2)
        values, clauses = [value], [f"{names[0]} = val {value}"]
        for before, name in itertools.pairwise(names):
            link = rng.choice(("val", "not"))
            value = value if link == "val" else 1 - value
            values.append(value)
            clauses.append(f"{name} = {link} {before}")
        key, place = " , ".join(clauses), int(skill) - 1
        rng.shuffle(clauses)
        return Asked(f"{' , '.join(clauses)} . {names[place]} = ?", str(values[place]), key, place + 1)
