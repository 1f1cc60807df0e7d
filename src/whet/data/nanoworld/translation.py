"""Translation between English and Talu, a small invented language.

Talu puts the verb last, adjectives after their noun, times at the end; ``pa`` after a noun makes it plural, ``ne`` before
the verb says never, ``lo`` is *the*, ``un`` is *a* or *some*. The reasoning glosses word by word in the target's order.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from whet.data.nanoworld.problem import Hand, Problem, Work
from whet.data.nanoworld.words import ADJECTIVES, NOUNS, TIMES, VERBS
from whet.data.nanoworld.world import World

QUESTIONS = {
    "talu": ("Translate to Talu: {s}", "Say in Talu: {s}", "What is this in Talu: {s}"),
    "en": ("Translate to English: {s}", "Say in English: {s}", "What is this in English: {s}"),
}
Gloss = tuple[str, str]
"""A piece of English and the piece of Talu that stands for it."""


@dataclass(frozen=True)
class Phrase:
    """An article, perhaps an adjective, and a noun, perhaps plural."""

    definite: bool
    noun: str
    adjective: str = ""
    plural: bool = False

    def glosses(self) -> tuple[Gloss, Gloss | None, Gloss]:
        """Article, adjective or none, noun: each in both languages."""
        article = ("the", "lo") if self.definite else ("some" if self.plural else "a", "un")
        noun = (f"{self.noun}s", f"{NOUNS[self.noun]} pa") if self.plural else (self.noun, NOUNS[self.noun])
        return article, (self.adjective, ADJECTIVES[self.adjective]) if self.adjective else None, noun


@dataclass(frozen=True)
class Translation(Problem):
    """A phrase, or a sentence with verb and object; ``target`` is the language to translate into."""

    skill: ClassVar[str] = "translation"
    topic: ClassVar[str] = "Translation"
    target: str
    subject: Phrase
    verb: str = ""
    object: Phrase | None = None
    never: bool = False
    time: str = ""

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> Translation:
        target = rng.choice(("talu", "en"))
        subject = _phrase(rng, rng.random() < 0.8 if level == 1 else level >= 3, level == 1 or level >= 4)
        if level == 1:
            return cls(target, subject)
        object_ = _phrase(rng, level >= 4, level >= 4)
        never, time = level == 5 and rng.random() < 0.5, rng.choice(tuple(TIMES)) if level == 5 else ""
        return cls(target, subject, rng.choice(tuple(VERBS)), object_, never, time)

    def key(self) -> str:
        return f"translation {' '.join(english for english, _ in self._glosses('en'))}"

    def language(self) -> str:
        return self.target

    def sentence(self, language: str) -> str:
        """The whole sentence in ``en`` or ``talu``."""
        return " ".join(gloss[language == "talu"] for gloss in self._glosses(language))

    def _glosses(self, order: str) -> list[Gloss]:
        """All pieces in the order of that language."""
        subject = _ordered(self.subject, order)
        object_ = _ordered(self.object, order) if self.object else []
        verb = [("never", "ne")] * self.never + ([(self.verb, VERBS[self.verb])] if self.verb else [])
        time = [(self.time, TIMES[self.time])] if self.time else []
        if order == "talu":
            return [*subject, *object_, *verb, *time]
        return [*time, *subject, *verb, *object_]

    def ask(self, rng: random.Random) -> str:
        return rng.choice(QUESTIONS[self.target]).format(s=self.sentence("en" if self.target == "talu" else "talu"))

    def work(self, hand: Hand) -> Work:
        to = self.target == "talu"
        pool = [pair[to] for lexicon in (NOUNS, ADJECTIVES, VERBS) for pair in lexicon.items()]
        lines, words = [], []
        for gloss in self._glosses(self.target):
            words.append(hand(gloss[to], pool))
            lines.append(f"{gloss[not to]} = {words[-1]}")
        return Work(tuple(lines), " ".join(words))

    def others(self) -> tuple[str, ...]:
        return (self.sentence("en" if self.target == "talu" else "talu"),)


def _phrase(rng: random.Random, adjective: bool, may_be_plural: bool) -> Phrase:
    return Phrase(
        rng.random() < 0.5,
        rng.choice(tuple(NOUNS)),
        rng.choice(tuple(ADJECTIVES)) if adjective else "",
        may_be_plural and rng.random() < 0.5,
    )


def _ordered(phrase: Phrase, order: str) -> list[Gloss]:
    article, adjective, noun = phrase.glosses()
    middle = [adjective] if adjective else []
    return [article, noun, *middle] if order == "talu" else [article, *middle, noun]
