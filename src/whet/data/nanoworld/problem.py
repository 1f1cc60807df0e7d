"""What every skill of the world shares: a problem, its worked solution, the hand that works it out, and its split.

A reply has one layout in every skill: reasoning lines ``<what is done> = <state>``, then the line ``answer: <answer>``.
``read_reply`` takes such a reply apart again.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar, TypeVar

if TYPE_CHECKING:
    from whet.data.nanoworld.world import World

SPLITS = ("train", "validation", "test")
LEVELS = (1, 2, 3, 4, 5)
ANSWER = "answer: "

T = TypeVar("T", int, str, tuple[int, ...], tuple[str, ...])


def digest(text: str) -> str:
    """12 hex digits of the text's blake2b hash."""
    return blake2b(text.encode(), digest_size=6).hexdigest()


def split_of(key: str) -> str:
    """The only split in which the problem with this key may appear: train 80%, validation 10%, test 10% of all keys."""
    bucket = int(digest(key), 16) % 10
    return "train" if bucket < 8 else SPLITS[bucket - 7]


@dataclass(frozen=True)
class Work:
    """A worked solution: the reasoning lines and the answer that they lead to."""

    lines: tuple[str, ...]
    answer: str

    @property
    def states(self) -> list[str]:
        """The value after each reasoning line, ending in the answer."""
        return states_of(self.lines, self.answer)

    @property
    def reply(self) -> str:
        """The lines, then ``answer: ...``."""
        return "\n".join((*self.lines, ANSWER + self.answer))


def states_of(lines: Sequence[str], answer: str) -> list[str]:
    """What stands after the last `` = `` of each line that has one; the answer is added unless the last state is it.

    >>> states_of(["3 + 4 = 7"], "7"), states_of(["word 1 = red", "word 2 = cup"], "red cup")
    (['7'], ['red', 'cup', 'red cup'])
    """
    states = [line.rpartition(" = ")[2].strip() for line in lines if " = " in line]
    return states if states and states[-1] == answer else [*states, answer]


def read_reply(reply: str) -> tuple[list[str], str | None]:
    """The states and the answer of a reply in the world's layout; the answer is ``None`` where no answer line is."""
    lines = reply.strip().split("\n")
    at = next((i for i in range(len(lines) - 1, -1, -1) if lines[i].startswith(ANSWER.strip())), None)
    if at is None:
        return [line.rpartition(" = ")[2].strip() for line in lines if " = " in line], None
    answer = lines[at].partition(":")[2].strip()
    return states_of(lines[:at], answer), answer


class Hand:
    """Carries each small operation out, and slips at operation ``wrong_at`` (counted from 1; 0 never).

    A solution passes every result through the hand, so that a wrong one is carried on to the end like in real reasoning.
    """

    def __init__(self, wrong_at: int = 0, rng: random.Random | None = None) -> None:
        self.wrong_at = wrong_at
        self.rng = rng or random.Random(0)
        self.count = 0

    def __call__(self, value: T, others: Sequence[str] = ()) -> T:
        """The value, or near it at the slip; ``others`` are what a word can be mistaken for."""
        self.count += 1
        return self._slip(value, others) if self.count == self.wrong_at else value

    def _slip(self, value: T, others: Sequence[str]) -> T:
        if isinstance(value, int):
            off = self.rng.choice((-2, -1, 1, 2, 10 if value > 9 else 1))
            return value + (off if value + off >= 0 else -off)
        if isinstance(value, str):
            return self.rng.choice([other for other in others if other != value])
        return self._slip_list(value)

    def _slip_list(self, values: tuple) -> tuple:
        items = list(values)
        places = [i for i in range(len(items) - 1) if items[i] != items[i + 1]]
        if places:
            i = self.rng.choice(places)
            items[i], items[i + 1] = items[i + 1], items[i]
        elif items and isinstance(items[0], int):
            items[-1] += 1
        else:
            items.append(items[0] if items else 1)
        return tuple(items)


class Problem(ABC):
    """One problem of a skill, without its wording. Subclasses are frozen dataclasses."""

    skill: ClassVar[str]
    topic: ClassVar[str]

    @classmethod
    @abstractmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> Problem:
        """A random problem of difficulty ``level`` (1 easy to 5 hard)."""

    @abstractmethod
    def key(self) -> str:
        """What makes it this problem whatever its wording; its hash decides the split."""

    @abstractmethod
    def ask(self, rng: random.Random) -> str:
        """The prompt, in one of several wordings."""

    @abstractmethod
    def work(self, hand: Hand) -> Work:
        """The one canonical solution; every operation goes through ``hand``."""

    def language(self) -> str:
        """The language of the answer: ``en`` or ``talu``."""
        return "en"

    def others(self) -> Sequence[str]:
        """Words that a wrong answer can be taken from, where the answer is a word."""
        return ()
