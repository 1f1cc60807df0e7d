"""What the 23 tasks share: how a state is written, and how an instance with exactly the wanted number of steps is drawn."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from whet.errors import RecipeError

State: TypeAlias = "int | str | list[int] | list[str] | list[str | int]"
TRIES = 2000
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Instance:
    """``given``: name of an input -> how it stands in the prompt; ``states``: the initial one, then one after each step."""

    given: Mapping[str, str]
    states: Sequence[State]


@dataclass(frozen=True)
class Task:
    """One procedure: ``rule`` says it in words, ``make(rng, steps)`` draws an instance that often has that many steps.

    ``most``: the longest procedure that can be drawn.
    """

    name: str
    rule: str
    make: Callable[[random.Random, int], Instance]
    most: int = 100

    def draw(self, rng: random.Random, steps: int, wanted: Callable[[str], bool] = lambda key: True) -> tuple[str, list[str]]:
        """The prompt and the written states (without the initial one) of an instance with exactly ``steps`` steps.

        ``wanted`` says whether a problem, known by its key, may be taken.

        Raises:
            RecipeError: no such instance, or none found in ``TRIES`` draws.
        """
        self.reach(steps)
        for _ in range(TRIES):
            instance = self.make(rng, steps)
            changes = [after for before, after in pairwise(instance.states) if before != after]
            key = f"{self.name} {dict(instance.given)}"
            if len(changes) == steps == len(instance.states) - 1 and wanted(key):
                return _prompt(self.rule, instance.given), [write(state) for state in changes]
        raise RecipeError(
            f"procbench: task {self.name!r}: no new problem with {steps} steps in {TRIES} draws; "
            "ask for fewer problems or other steps"
        )

    def reach(self, steps: int) -> None:
        """Refuses a number of steps that the task cannot have.

        Raises:
            RecipeError: it is below 1 or above ``most``.
        """
        if not 1 <= steps <= self.most:
            has = f"task {self.name!r} has 1 to {self.most} steps, got {steps}"
            raise RecipeError(f"procbench.steps: {has}; narrow 'steps' or leave the task out")


def write(state: State) -> str:
    """How a state stands in a prompt and in a reply: lists as JSON, text and numbers as they are."""
    return json.dumps(state) if isinstance(state, list) else str(state)


def word(rng: random.Random, length: int, alphabet: str = LETTERS) -> str:
    """Random letters."""
    return "".join(rng.choices(alphabet, k=length))


def _prompt(rule: str, given: Mapping[str, str]) -> str:
    inputs = "\n".join(f"{name}: {value}" for name, value in given.items())
    return f"{rule}\n{inputs}\nWrite the state after each step on its own line, the last one as: final: state"
