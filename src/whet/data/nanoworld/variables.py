"""Variable chains: each variable is defined from the one before; longer chains need the shorter ones as a skill."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from whet.data.nanoworld.problem import Hand, Problem, Work
from whet.data.nanoworld.world import World

LETTERS = "abcdefghkmnpqrstuvwxyz"
QUESTIONS = ("What is {v}?", "Find {v}.", "Give the value of {v}.")
SHAPES = {1: (1, 2, False, 0), 2: (2, 3, False, 0), 3: (3, 3, True, 0), 4: (4, 4, True, 1), 5: (5, 6, True, 2)}
"""Level -> fewest and most links, whether the definitions are shuffled, number of variables that do not matter."""


@dataclass(frozen=True)
class Variables(Problem):
    """``start`` is the first variable's value; each of ``links`` (sign, number) defines the next from the one before."""

    skill: ClassVar[str] = "variables"
    topic: ClassVar[str] = "Variables"
    start: int
    links: tuple[tuple[str, int], ...]
    letters: str
    shuffled: bool
    extra: tuple[int, ...]

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> Variables:
        fewest, most, shuffled, extra = SHAPES[level]
        start = value = rng.randint(0, 9)
        links: list[tuple[str, int]] = []
        for _ in range(rng.randint(fewest, most)):
            sign = rng.choice("+-") if 0 < value < 15 else "-" if value else "+"
            number = rng.randint(1, min(9, value)) if sign == "-" else rng.randint(1, 9)
            links.append((sign, number))
            value += number if sign == "+" else -number
        letters = "".join(rng.sample(LETTERS, len(links) + 1 + extra))
        return cls(start, tuple(links), letters, shuffled, tuple(rng.randint(0, 9) for _ in range(extra)))

    def key(self) -> str:
        return f"variables {self.start} {self.links}"

    def ask(self, rng: random.Random) -> str:
        chain = self.letters[: len(self.links) + 1]
        sentences = [f"{chain[0]} = {self.start}."]
        sentences += [f"{new} = {old} {s} {n}." for old, new, (s, n) in zip(chain, chain[1:], self.links)]
        sentences += [f"{letter} = {value}." for letter, value in zip(self.letters[len(chain) :], self.extra)]
        if self.shuffled:
            rng.shuffle(sentences)
        return " ".join([*sentences, rng.choice(QUESTIONS).format(v=chain[-1])])

    def work(self, hand: Hand) -> Work:
        value = hand(self.start)
        lines = [f"{self.letters[0]} = {value}"]
        for letter, (sign, number) in zip(self.letters[1:], self.links):
            result = hand(value + number if sign == "+" else value - number)
            lines.append(f"{letter} = {value} {sign} {number} = {result}")
            value = result
        return Work(tuple(lines), str(value))
