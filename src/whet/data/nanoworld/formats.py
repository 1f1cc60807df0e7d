"""Following a format: the answer in a box, as JSON, or in at most k words."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import ClassVar

from whet.data.nanoworld.problem import Hand, Problem, Work
from whet.data.nanoworld.words import COLOURS, FOODS, PETS, THINGS
from whet.data.nanoworld.world import World

BOX = ("What is {e}? Put the answer in a box.", "Work out {e}. Answer in a box.")
JSON = ("Take {a} and {b}. Answer as JSON with {k}.", "The numbers are {a} and {b}. Give JSON with {k}.")
WORDS = ("Name the first {k} of: {w}. Use at most {k} words.", "In at most {k} words, what are the first {k} of: {w}?")
NUMBERS = {1: 9, 2: 20, 3: 20, 4: 50, 5: 99}
"""Level -> largest number."""


@dataclass(frozen=True)
class Formats(Problem):
    """``kind`` box: the sum of ``numbers``; json: sum and so on of two numbers; words: the first ``take`` of ``words``."""

    skill: ClassVar[str] = "formats"
    topic: ClassVar[str] = "Format"
    kind: str
    numbers: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    take: int = 0

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> Formats:
        kind = rng.choice(("box", "json", "words"))
        if kind == "words":
            take = (1, 1, 2, 3, 4)[level - 1]
            return cls(kind, words=tuple(rng.sample(COLOURS + FOODS + PETS + THINGS, take + rng.randint(1, 2))), take=take)
        count = 2 if kind == "json" or level <= 2 else 3
        numbers = tuple(rng.randint(0, NUMBERS[level]) for _ in range(count))
        if kind == "box":
            return cls(kind, numbers)
        names = ("sum", "larger", "smaller", "difference")
        keys = tuple(sorted(rng.sample(names, (1, 1, 2, 2, 3)[level - 1]), key=names.index))
        return cls(kind, (max(numbers), min(numbers)), keys)

    def key(self) -> str:
        return f"formats {self.kind} {self.numbers} {self.keys} {self.words} {self.take}"

    def ask(self, rng: random.Random) -> str:
        if self.kind == "box":
            return rng.choice(BOX).format(e=" + ".join(map(str, self.numbers)))
        if self.kind == "json":
            a, b = rng.sample(self.numbers, 2)
            return rng.choice(JSON).format(a=a, b=b, k=" and ".join(self.keys))
        return rng.choice(WORDS).format(k=self.take, w=" ".join(self.words))

    def work(self, hand: Hand) -> Work:
        return {"box": self._box, "json": self._json, "words": self._words}[self.kind](hand)

    def _box(self, hand: Hand) -> Work:
        value, lines = self.numbers[0], []
        for number in self.numbers[1:]:
            total = hand(value + number)
            lines.append(f"{value} + {number} = {total}")
            value = total
        return Work(tuple(lines), f"\\boxed{{{value}}}")

    def _json(self, hand: Hand) -> Work:
        a, b = self.numbers
        right = {"sum": (f"{a} + {b}", a + b), "larger": (f"larger of {a} and {b}", a), "smaller": (f"smaller of {a} and {b}", b)}
        right["difference"] = (f"{a} - {b}", a - b)
        found = {key: hand(right[key][1]) for key in self.keys}
        return Work(tuple(f"{right[key][0]} = {found[key]}" for key in self.keys), json.dumps(found))

    def _words(self, hand: Hand) -> Work:
        chosen = [hand(word, self.words) for word in self.words[: self.take]]
        return Work(tuple(f"word {i} = {word}" for i, word in enumerate(chosen, 1)), " ".join(chosen))

    def bare(self, answer: str) -> str:
        """The content of an answer in a format that was not asked for: no box, no JSON, too many words."""
        if self.kind == "box":
            return answer.removeprefix("\\boxed{").removesuffix("}")
        if self.kind == "json":
            return " ".join(f"{key} {value}" for key, value in json.loads(answer).items())
        return f"the first {self.take} of them are {answer}"

    def others(self) -> tuple[str, ...]:
        return self.words
