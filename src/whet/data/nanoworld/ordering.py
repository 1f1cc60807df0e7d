"""Comparison and ordering: the larger of numbers, and who is tallest when only pairs were compared."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from whet.data.nanoworld.problem import Hand, Problem, Work
from whet.data.nanoworld.words import NAMES
from whet.data.nanoworld.world import World

QUESTIONS = ("Which number is the {k}: {n}?", "Find the {k} of {n}.", "Give the {k} number: {n}.")
QUALITIES = {
    "tall": ("taller", "shorter", "tallest", "shortest"),
    "old": ("older", "younger", "oldest", "youngest"),
    "fast": ("faster", "slower", "fastest", "slowest"),
}
"""Quality -> more, less, most, least."""


@dataclass(frozen=True)
class Numbers(Problem):
    """The ``largest`` or ``smallest`` (``kind``) of ``numbers``."""

    skill: ClassVar[str] = "ordering"
    topic: ClassVar[str] = "Comparison"
    numbers: tuple[int, ...]
    kind: str

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> Numbers:
        count, largest = (rng.randint(2, 4), 9) if level == 1 else (rng.randint(3, 4), 99)
        return cls(tuple(rng.sample(range(largest + 1), count)), rng.choice(("largest", "smallest")))

    def key(self) -> str:
        return f"ordering {sorted(self.numbers)} {self.kind}"

    def ask(self, rng: random.Random) -> str:
        return rng.choice(QUESTIONS).format(k=self.kind, n=", ".join(map(str, self.numbers)))

    def work(self, hand: Hand) -> Work:
        best, lines = self.numbers[0], []
        pick = max if self.kind == "largest" else min
        for number in self.numbers[1:]:
            right = pick(best, number)
            chosen = int(hand(str(right), (str(best), str(number))))
            lines.append(f"{best} or {number} = {chosen}")
            best = chosen
        return Work(tuple(lines), str(best))


@dataclass(frozen=True)
class Ordering(Problem):
    """``people`` from most to least; ``given`` is the order of the compared neighbours, ``rank`` who is asked for."""

    skill: ClassVar[str] = "ordering"
    topic: ClassVar[str] = "Ordering"
    people: tuple[str, ...]
    given: tuple[int, ...]
    turned: tuple[bool, ...]
    rank: int

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> Ordering | Numbers:
        if level <= 2:
            return Numbers.draw(rng, level, world)
        people = tuple(rng.sample(NAMES, level))
        given = list(range(level - 1))
        if level >= 4:
            rng.shuffle(given)
        turned = tuple(level == 5 and rng.random() < 0.3 for _ in given)
        ranks = (0, level - 1) if level == 3 else (0, 1, level - 1)
        return cls(people, tuple(given), turned, rng.choice(ranks))

    def key(self) -> str:
        return f"ordering {self.people} {self.rank}"

    def ask(self, rng: random.Random) -> str:
        more, less, most, least = QUALITIES[rng.choice(tuple(QUALITIES))]
        sentences = []
        for i, turned in zip(self.given, self.turned):
            a, b = self.people[i : i + 2]
            sentences.append(f"{b} is {less} than {a}." if turned else f"{a} is {more} than {b}.")
        asked = {0: f"the {most}", 1: f"the second {most}", len(self.people) - 1: f"the {least}"}[self.rank]
        return " ".join([*sentences, f"Who is {asked}?"])

    def work(self, hand: Hand) -> Work:
        line, lines = self.people[:1], []
        for a, b in zip(self.people, self.people[1:]):
            line = hand((*line, b))
            lines.append(f"{a} over {b} = {' '.join(line)}")
        place = {0: "first", 1: "second"}.get(self.rank, "last")
        answer = line[-1] if place == "last" else line[self.rank]
        lines.append(f"{place} of {' '.join(line)} = {answer}")
        return Work(tuple(lines), answer)

    def others(self) -> tuple[str, ...]:
        return self.people
