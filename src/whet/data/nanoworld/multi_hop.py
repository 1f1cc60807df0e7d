"""Questions over several short documents: each hop looks one thing up in one of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from whet.data.nanoworld.problem import Hand, Problem, Work
from whet.data.nanoworld.words import NAMES, RIVERS, THINGS, TOWNS
from whet.data.nanoworld.world import World

POOLS = (THINGS, NAMES, TOWNS, RIVERS)
"""What is linked to what: a thing to its owner, a person to the town, a town to its river."""
SENTENCES = ("The {a} belongs to {b}.", "{a} lives in {b}.", "{a} lies on the {b}.")
LOOKUPS = ("owner of the {a}", "town of {a}", "river of {a}")
QUESTIONS = {
    (0, 1): "Who owns the {a}?",
    (1, 2): "Where does {a} live?",
    (2, 3): "On which river does {a} lie?",
    (0, 2): "In which town is the owner of the {a}?",
    (1, 3): "On which river is the town of {a}?",
    (0, 3): "On which river is the town of the owner of the {a}?",
}
"""(kind asked about, kind asked for) -> question; the difference is the number of hops."""
SHAPES = {1: (1, 1), 2: (2, 1), 3: (2, 2), 4: (3, 2), 5: (3, 4)}
"""Level -> hops, further documents."""


@dataclass(frozen=True)
class MultiHop(Problem):
    """``chain`` of things from the one asked about to the answer; ``first`` is the kind of its head; ``documents`` all links."""

    skill: ClassVar[str] = "multi-hop"
    topic: ClassVar[str] = "Notes"
    first: int
    chain: tuple[str, ...]
    documents: tuple[tuple[int, str, str], ...]

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> MultiHop:
        hops, further = SHAPES[level]
        first = rng.randint(0, 3 - hops)
        chain = tuple(rng.choice(POOLS[first + i]) for i in range(hops + 1))
        documents = [(first + i, a, b) for i, (a, b) in enumerate(pairwise(chain))]
        known = {a for _, a, _ in documents}
        while further:
            kind = rng.randint(first, first + hops - 1)
            a = rng.choice(POOLS[kind])
            if a not in known:
                known.add(a)
                documents.append((kind, a, rng.choice(POOLS[kind + 1])))
                further -= 1
        rng.shuffle(documents)
        return cls(first, chain, tuple(documents))

    def key(self) -> str:
        return f"multi-hop {self.chain[0]} {self.first} {len(self.chain)} {sorted(self.documents)}"

    def ask(self, rng: random.Random) -> str:
        documents = [f"[{i}] {SENTENCES[kind].format(a=a, b=b)}" for i, (kind, a, b) in enumerate(self.documents, 1)]
        return " ".join([*documents, QUESTIONS[self.first, self.first + len(self.chain) - 1].format(a=self.chain[0])])

    def work(self, hand: Hand) -> Work:
        links = {(kind, a): b for kind, a, b in self.documents}
        value, lines = self.chain[0], []
        for kind in range(self.first, self.first + len(self.chain) - 1):
            # After a slip the documents may say nothing about the value; the careless reader then goes on along the chain.
            found = hand(links.get((kind, value), self.chain[kind - self.first + 1]), POOLS[kind + 1])
            lines.append(f"{LOOKUPS[kind].format(a=value)} = {found}")
            value = found
        return Work(tuple(lines), value)

    def others(self) -> tuple[str, ...]:
        return POOLS[self.first + len(self.chain) - 1]
