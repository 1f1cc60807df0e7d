"""Arithmetic word problems: somebody has some things, things happen, how many are left?"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from whet.data.nanoworld.problem import Hand, Problem, Work
from whet.data.nanoworld.words import ITEMS, NAMES
from whet.data.nanoworld.world import World

EVENTS = {
    "+": ("{p} buys {n} more.", "{p} finds {n} more.", "{q} gives {p} {n} more."),
    "-": ("{p} loses {n}.", "{p} sells {n}.", "{p} gives {n} to {q}."),
    "x": ("Now {p} gets {n} times as many.", "By magic {p} has {n} times as many."),
    "/": ("{p} makes {n} equal heaps and keeps one.", "{p} splits them in {n} equal parts and keeps one."),
}
QUESTIONS = ("How many {i} does {p} have now?", "How many {i} are left?", "Count the {i} of {p} at the end.")
SIZES = {1: (30, 9, 1), 2: (60, 20, 1), 3: (30, 20, 2), 4: (60, 40, 3), 5: (99, 90, 4)}
"""Level -> largest start, largest change, number of events."""


@dataclass(frozen=True)
class WordProblem(Problem):
    """``start`` things and then ``events``: pairs of an operation (+ - x /) and a number."""

    skill: ClassVar[str] = "word-problems"
    topic: ClassVar[str] = "Word problem"
    start: int
    events: tuple[tuple[str, int], ...]
    distractor: int = 0

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> WordProblem:
        largest, change, count = SIZES[level]
        start = value = rng.randint(1, largest)
        events = []
        for _ in range(count):
            operation, number, value = _event(rng, value, change, level)
            events.append((operation, number))
        return cls(start, tuple(events), rng.randint(2, 9) if level >= 4 else 0)

    def key(self) -> str:
        return f"word-problems {self.start} " + " ".join(f"{o}{n}" for o, n in self.events)

    def ask(self, rng: random.Random) -> str:
        p, q = rng.sample(NAMES, 2)
        item, other = rng.sample(ITEMS, 2)
        sentences = [f"{p} has {self.start} {item}."]
        sentences += [rng.choice(EVENTS[o]).format(p=p, q=q, n=n) for o, n in self.events]
        if self.distractor:
            sentences.insert(rng.randint(1, len(sentences)), f"{q} has {self.distractor} {other}.")
        return " ".join([*sentences, rng.choice(QUESTIONS).format(i=item, p=p)])

    def work(self, hand: Hand) -> Work:
        value, lines = self.start, []
        for operation, number in self.events:
            result = hand(_apply(value, operation, number))
            lines.append(f"{value} {operation} {number} = {result}")
            value = result
        return Work(tuple(lines), str(value))


def _apply(value: int, operation: str, number: int) -> int:
    if operation == "/":
        return value // number
    return {"+": value + number, "-": value - number, "x": value * number}[operation]


def _event(rng: random.Random, value: int, change: int, level: int) -> tuple[str, int, int]:
    """An operation, its number and the new value, which stays a whole number from 0 to 200."""
    choices = ["+"] + ["-"] * (value > 0) + ["x"] * (level >= 2 and 1 <= value <= 20)
    divisors = [d for d in (2, 3, 4, 5) if value % d == 0 and value > 0] if level >= 4 else []
    operation = rng.choice(choices + ["/"] * bool(divisors))
    if operation == "/":
        number = rng.choice(divisors)
    elif operation == "x":
        number = rng.randint(2, 5)
    else:
        number = rng.randint(1, min(change, value) if operation == "-" else change)
    return operation, number, _apply(value, operation, number)
