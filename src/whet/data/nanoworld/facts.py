"""Closed-book facts about invented people, places and things.

A fact may be asked for in one split only (its key is hashed as for every problem), but the plain training text *states* every
fact: held-out questions ask for knowledge that was read and never asked for. Each relation has a wording that only the
held-out splits use, beside the common ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from whet.data.nanoworld.problem import Hand, Problem, Work, split_of
from whet.data.nanoworld.world import Entity, Fact, World

QUESTIONS = {
    "home": ("Where does {s} live?", "What is the home of {s}?", "In which place does {s} live?"),
    "job": ("What is the job of {s}?", "What does {s} work as?", "Which job does {s} do?"),
    "pet": ("What pet does {s} have?", "What is the pet of {s}?", "Which animal does {s} keep?"),
    "food": ("What does {s} like to eat?", "What is the food of {s}?", "Which food does {s} like?"),
    "river": ("On which river is {s}?", "What is the river of {s}?", "Which river runs through {s}?"),
    "region": ("In which region is {s}?", "What is the region of {s}?", "Which region holds {s}?"),
    "product": ("What is {s} known for?", "What is the product of {s}?", "Which good comes from {s}?"),
    "colour": ("What colour is the {s}?", "What is the colour of the {s}?", "Which colour does the {s} have?"),
    "material": ("What is the {s} made of?", "What is the material of the {s}?", "Which material is in the {s}?"),
    "maker": ("Who made the {s}?", "Who is the maker of the {s}?", "Which person made the {s}?"),
}
"""Relation -> wordings; the last is for validation and test alone."""
STATEMENTS = {
    "home": ("{s} lives in {o}.", "The home of {s} is {o}."),
    "job": ("{s} works as a {o}.", "The job of {s} is {o}."),
    "pet": ("{s} has a pet {o}.", "The pet of {s} is a {o}."),
    "food": ("{s} likes to eat {o}.", "The food of {s} is {o}."),
    "river": ("{s} lies on the river {o}.", "The river of {s} is {o}."),
    "region": ("{s} is in {o}.", "The region of {s} is {o}."),
    "product": ("{s} is known for {o}.", "The product of {s} is {o}."),
    "colour": ("The {s} is {o}.", "The colour of the {s} is {o}."),
    "material": ("The {s} is made of {o}.", "The material of the {s} is {o}."),
    "maker": ("The {s} was made by {o}.", "The maker of the {s} is {o}."),
}


@dataclass(frozen=True)
class FactQuestion(Problem):
    """One fact, asked for."""

    skill: ClassVar[str] = "facts"
    topic: ClassVar[str] = "Facts"
    fact: Fact

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> FactQuestion:
        return cls(rng.choice(world.by_level[level]))

    def key(self) -> str:
        return self.fact.key

    def ask(self, rng: random.Random) -> str:
        wordings = QUESTIONS[self.fact.relation]
        return rng.choice(wordings[:-1] if split_of(self.key()) == "train" else wordings).format(s=self.fact.subject)

    def work(self, hand: Hand) -> Work:
        return Work((), hand(self.fact.object, self.fact.others))

    def others(self) -> tuple[str, ...]:
        return self.fact.others


def describe(entity: Entity, style: str, rng: random.Random) -> list[str]:
    """The sentences that state each fact of the entity once, in a random order; asked and answered where the style is ``qa``."""
    facts = list(entity.facts)
    rng.shuffle(facts)
    return [_ask(fact, rng) if style == "qa" and split_of(fact.key) == "train" else _state(fact, rng) for fact in facts]


def _state(fact: Fact, rng: random.Random) -> str:
    return rng.choice(STATEMENTS[fact.relation]).format(s=fact.subject, o=fact.object)


def _ask(fact: Fact, rng: random.Random) -> str:
    question = rng.choice(QUESTIONS[fact.relation][:-1]).format(s=fact.subject)
    return f"question: {question}\nanswer: {fact.object}"
