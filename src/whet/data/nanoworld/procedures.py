"""List procedures: every operation is written in the prompt and every state of the list in the reply."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from whet.data.nanoworld.problem import Hand, Problem, Work
from whet.data.nanoworld.world import World

OPERATIONS = ("reverse", "sort", "drop first", "drop last", "first to end", "last to front", "swap ends", "append")
STARTS = ("Start with {s}.", "The list is {s}.", "Take the list {s}.")
ENDS = ("What is the list at the end?", "Write the list after each step.", "Give the last list.")

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Procedure(Problem):
    """A list of digits ``start`` and the ``operations`` done to it in turn (``append 7`` carries its number)."""

    skill: ClassVar[str] = "procedures"
    topic: ClassVar[str] = "List procedure"
    start: Numbers
    operations: tuple[str, ...]

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> Procedure:
        start = state = tuple(rng.randint(0, 9) for _ in range(rng.randint(2, 3) + level // 2))
        operations: list[str] = []
        while len(operations) < level:
            operation = rng.choice(OPERATIONS)
            if operation == "append":
                operation = f"append {rng.randint(0, 9)}"
            if len(state) <= 2 and operation.startswith("drop"):
                continue
            operations.append(operation)
            state = apply(state, operation)
        return cls(start, tuple(operations))

    def key(self) -> str:
        return f"procedures {self.start} {self.operations}"

    def ask(self, rng: random.Random) -> str:
        opening = rng.choice(STARTS).format(s=_show(self.start))
        steps = " ".join(f"{i}. {o}." for i, o in enumerate(self.operations, 1))
        return f"{opening} {steps} {rng.choice(ENDS)}"

    def work(self, hand: Hand) -> Work:
        state, lines = self.start, []
        for operation in self.operations:
            result = hand(apply(state, operation))
            lines.append(f"{operation}: {_show(state)} = {_show(result)}")
            state = result
        return Work(tuple(lines), _show(state))


def _show(numbers: Numbers) -> str:
    return " ".join(map(str, numbers))


def apply(state: Numbers, operation: str) -> Numbers:
    """The list after one operation."""
    name, _, number = operation.partition("append ")
    if number:
        return (*state, int(number))
    return {
        "reverse": state[::-1],
        "sort": tuple(sorted(state)),
        "drop first": state[1:],
        "drop last": state[:-1],
        "first to end": state[1:] + state[:1],
        "last to front": state[-1:] + state[:-1],
        "swap ends": state[-1:] + state[1:-1] + state[:1] if len(state) > 1 else state,
    }[name]
