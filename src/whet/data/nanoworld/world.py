"""The closed world of facts: invented people, places and things, the same in every split.

Each entity has a class of frequency; entities of class i are described ``occurrences[i]`` times in the plain training text,
each description stating every fact of the entity once. Class i is also the facts' difficulty, i + 1: the rarer, the harder.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from whet.data.nanoworld.words import COLOURS, FOODS, JOBS, MATERIALS, PETS, REGIONS, RIVERS

KINDS = ("person", "place", "thing")
RELATIONS = {
    "person": ("home", "job", "pet", "food"),
    "place": ("river", "region", "product"),
    "thing": ("colour", "material", "maker"),
}
OCCURRENCES = (400, 200, 100, 40, 10)
"""Descriptions of an entity of level 1 to 5: about 25,000 in all, the share of facts in 250,000 rows of plain text."""
_WORLD_SYLLABLES = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
_FILLER_SYLLABLES = [c + v for c in ("z", "v", "j", "h", "w", "y") for v in "aeiou"]


@dataclass(frozen=True)
class Fact:
    """``relation`` of ``subject`` is ``object``; ``others`` are the wrong objects it could be taken for."""

    kind: str
    subject: str
    relation: str
    object: str
    others: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The fact's identity, whatever its wording; its hash decides in which split it may be asked for."""
        return f"facts {self.relation} of {self.subject}"


@dataclass(frozen=True)
class Entity:
    """A person, place or thing with its facts; ``level`` 1 (often described) to 5 (seldom)."""

    name: str
    kind: str
    level: int
    facts: tuple[Fact, ...]


class World:
    """All entities, made from ``seed`` alone: ``people`` people, a third as many places, a third as many things."""

    def __init__(self, seed: int = 0, people: int = 99, occurrences: Sequence[int] = OCCURRENCES) -> None:
        rng = random.Random(f"world/{seed}")
        self.seed, self.occurrences = seed, tuple(occurrences)
        third = max(people // 3, 3)
        names = _names(rng, people + 2 * third)
        groups = {"person": names[:people], "place": names[people : people + third], "thing": names[people + third :]}
        self.pools = {
            "home": tuple(groups["place"]), "job": JOBS, "pet": PETS, "food": FOODS, "river": RIVERS, "region": REGIONS,
            "product": MATERIALS, "colour": COLOURS, "material": MATERIALS, "maker": tuple(groups["person"]),
        }  # fmt: skip
        self.entities: list[Entity] = []
        for kind, members in groups.items():
            levels = [i % 5 + 1 for i in range(len(members))]
            rng.shuffle(levels)
            self.entities += [self._entity(rng, name, kind, level) for name, level in zip(members, levels)]

    def _entity(self, rng: random.Random, name: str, kind: str, level: int) -> Entity:
        facts = []
        for relation in RELATIONS[kind]:
            pool = self.pools[relation]
            facts.append(Fact(kind, name, relation, rng.choice(pool), pool))
        return Entity(name, kind, level, tuple(facts))

    @cached_property
    def facts(self) -> dict[str, Fact]:
        """Every fact by its key."""
        return {fact.key: fact for entity in self.entities for fact in entity.facts}

    @cached_property
    def by_level(self) -> dict[int, list[Fact]]:
        """The facts of each level."""
        return {level: [f for e in self.entities if e.level == level for f in e.facts] for level in range(1, 6)}

    def descriptions(self, seed: int, levels: tuple[int, int]) -> list[Entity]:
        """The entities in the order in which the training text describes them, each exactly as often as asked."""
        low, high = levels
        order = [e for e in self.entities if low <= e.level <= high for _ in range(self.occurrences[e.level - 1])]
        random.Random(f"descriptions/{self.seed}/{seed}").shuffle(order)
        return order

    def filler(self, number: int, rng: random.Random) -> Entity:
        """Passing entity ``number``: described once, never asked for in chat form; its name is no name of the world.

        It keeps the counts of the world's facts exact however many rows are asked for.
        """
        places, rest = [number % 30, number // 30 % 30], number // 900
        while rest or len(places) < 3:
            places.append(rest % 30)
            rest //= 30
        return self._entity(rng, "".join(_FILLER_SYLLABLES[i] for i in places).capitalize(), rng.choice(KINDS), 5)


def _names(rng: random.Random, count: int) -> list[str]:
    """Different names: of two syllables while a third of these suffices, else of three."""
    parts = 2 if count <= 1200 else 3
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(rng.sample(_WORLD_SYLLABLES, parts)).capitalize()] = None
    return list(names)
