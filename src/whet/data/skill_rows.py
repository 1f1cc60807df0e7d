"""Rows of sources that ask several skills of the same kind of problem, one skill after the other.

Columns: ``prompt``, ``completion`` (the mark ``####`` and the answer), ``answer``, ``skill``, ``steps`` and ``difficulty`` (how many
values the answer depends on), ``text``, ``document_id``. Prompts are unique within a split. The hash of the problem, without what is
asked of it, decides its split (80% train, 10% validation, 10% test), so that no problem is trained on and tested in another skill.
More ``rows`` keep the earlier ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, Value

from whet.data.nanoworld.problem import SPLITS, digest, split_of
from whet.errors import DataError, RecipeError, unknown

FEATURES = Features(
    {
        **{name: Value("string") for name in ("prompt", "completion", "answer", "skill", "text", "document_id")},
        "steps": Value("int64"),
        "difficulty": Value("int64"),
    }
)
_TRIES = 2000
"""Draws in vain after which the problems of a split are taken to be used up."""


@dataclass(frozen=True)
class Asked:
    """A problem and what is asked of it; ``key`` is the same for all that can be asked of one problem."""

    prompt: str
    answer: str
    key: str
    steps: int


def skill_rows(
    source: str, split: str, rows: int, skills: Sequence[str], seed: str, draw: Callable[[random.Random, str], Asked]
) -> Dataset:
    """The rows of a split; row n asks the skill ``skills[n % len(skills)]``.

    Args:
        source: its name, for messages.
        split: ``train``, ``validation`` or ``test``.
        rows: how many.
        skills: their names.
        seed: of the draws: the source's seed and settings as text.
        draw: a random problem of a skill.

    Raises:
        DataError: an unknown split.
        RecipeError: there are fewer problems than rows asked for.
    """
    if split not in SPLITS:
        raise DataError(f"{source}: {unknown('split', split, SPLITS)}")
    used: set[str] = set()
    made = []
    for number in range(rows):
        skill, rng = skills[number % len(skills)], random.Random(f"{source}/{seed}/{split}/{number}")
        asked = _fresh(rng, skill, split, used, draw)
        if asked is None:
            raise RecipeError(
                f"{source}: the {split} split has only about {number} problems; ask for fewer 'rows' or larger ones"
            )
        used.add(asked.prompt)
        made.append(_row(asked, skill))
    return Dataset.from_dict({name: [row[name] for row in made] for name in FEATURES}, features=FEATURES)


def _fresh(
    rng: random.Random, skill: str, split: str, used: set[str], draw: Callable[[random.Random, str], Asked]
) -> Asked | None:
    for _ in range(_TRIES):
        asked = draw(rng, skill)
        if asked.prompt not in used and split_of(asked.key) == split:
            return asked
    return None


def _row(asked: Asked, skill: str) -> dict[str, Any]:
    completion = f"#### {asked.answer}"
    return {
        "prompt": asked.prompt,
        "completion": completion,
        "answer": asked.answer,
        "skill": skill,
        "text": f"{asked.prompt} {completion}",
        "document_id": digest(asked.prompt),
        "steps": asked.steps,
        "difficulty": asked.steps,
    }
