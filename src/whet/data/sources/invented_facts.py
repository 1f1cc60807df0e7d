"""Facts about people that do not exist, and questions over several of them: the probe for knowledge that is new to a model.

``people`` names in each split, and for each relation (boss, friend, ...) one person of the split for every other: ``the boss of Bavo
is Mire``. No fact can have been read before and few are guessed, so what a model answers it has from the prompt or from training. A
question goes through ``hops`` facts, ``Who is the rival of the boss of Bavo?``, all people in it different, and its reply writes
every step: ``boss of Bavo = Mire``, ``rival of Mire = Todu``, ``#### Todu``. Each split has people of its own: the facts that the
test asks for are in no demonstration. ``form``:

``facts``      every fact of all splits, whatever the split, in ``wordings`` ways, a row each, as a reply to ``Tell me about Bavo.``; and
               ``demonstrations`` questions of the training people after them
``questions``  the questions of the split
``given``      the same questions, with their facts and ``others`` more, mixed, in the prompt
``reading``    ``given`` with facts that are drawn anew for each row, so that reading can be learned from them and nothing else

The probe of the paper compares a model that has the facts in the prompt (``given``), one that was trained on them (``facts``), and one
that was trained on them and n demonstrations, by the accuracy on the test ``questions``; recipe ``new-knowledge``.

Columns: ``prompt``, ``completion``, ``answer``, ``states`` (the person after each hop), ``steps`` and ``difficulty`` (hops), ``skill``
(``fact``, ``1 hop``, ``2 hops``), ``text``, ``document_id``. More ``rows`` or ``demonstrations`` keep the earlier ones.

Defaults (ours): 16 people a split and 4 relations, so 192 facts in 2 wordings, and some 240 questions of 2 hops a split.

Paper: superficial-alignment — Revisiting the Superficial Alignment Hypothesis
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from whet.data.nanoworld.problem import SPLITS, digest
from whet.errors import DataError, RecipeError, unknown

if TYPE_CHECKING:
    from datasets import Dataset

RELATIONS = ("boss", "friend", "rival", "pupil", "guest", "heir", "guard", "twin")
WORDINGS = ("{r} of {x} = {y}", "the {r} of {x} is {y}", "{x} has {y} as {r}", "{y} is the {r} of {x}")
"""The first is how replies write their steps."""
READING_ROWS = 4000

Facts = Mapping[tuple[str, str], str]
"""(person, relation) -> person."""


@dataclass(frozen=True)
class InventedFacts:
    """``people`` of a split.  ``relations`` between them.  ``hops`` of a question.  ``wordings`` of a fact.  ``demonstrations`` that
    follow the facts.  ``others``: facts in a prompt that the question does not need.  ``rows``: questions; default all, and 4,000
    of ``reading``.  ``seed``: of names and facts."""

    form: Literal["facts", "questions", "given", "reading"] = "questions"
    people: Annotated[int, Ge(3), Le(800)] = 16
    relations: Annotated[int, Gt(0), Le(len(RELATIONS))] = 4
    hops: Annotated[int, Gt(0), Le(4)] = 2
    wordings: Annotated[int, Gt(0), Le(len(WORDINGS))] = 2
    demonstrations: Annotated[int, Ge(0)] = 0
    others: Annotated[int, Ge(0)] = 2
    rows: Annotated[int, Gt(0)] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows is not None and self.form == "facts":
            raise RecipeError(f"invented-facts.rows: {self.rows} is of questions; form: facts gives every fact. Remove it")
        if self.demonstrations and self.form != "facts":
            raise RecipeError(
                f"invented-facts.demonstrations: {self.demonstrations} follow the facts; with form: {self.form} say 'rows'"
            )
        if self.hops >= self.people:
            raise RecipeError(
                f"invented-facts.hops: {self.hops} hops through different people need more than {self.people} people"
            )
        if self.others and self.form in ("given", "reading") and self.hops + self.others > self.people * self.relations:
            raise RecipeError(
                f"invented-facts.others: there are {self.people * self.relations} facts, fewer than {self.hops} + {self.others}"
            )

    def __call__(self, split: str) -> Dataset:
        """The rows of ``train``, ``validation`` or ``test``.

        Raises:
            DataError: an unknown split.
            RecipeError: there are fewer questions than rows asked for.
        """
        from datasets import Dataset

        if split not in SPLITS:
            raise DataError(f"invented-facts: {unknown('split', split, SPLITS)}")
        if self.form == "facts":
            rows = [*self._statements(), *self._questions("train", self.demonstrations)]
        elif self.form == "reading":
            rows = [self._read(split, number) for number in range(self.rows or READING_ROWS)]
        else:
            rows = self._questions(split, self.rows)
        return Dataset.from_list(rows)

    def names(self, split: str) -> list[str]:
        """The people of a split."""
        first = SPLITS.index(split) * self.people
        return _people(self.seed)[first : first + self.people]

    def facts(self, split: str) -> Facts:
        """What is true of the people of a split."""
        return self._drawn(self.names(split), random.Random(f"{self._origin}/{split}/facts"))

    @property
    def _origin(self) -> str:
        return f"invented-facts/{self.seed}/{self.people}/{self.relations}"

    def _drawn(self, names: Sequence[str], rng: random.Random) -> Facts:
        """Each relation gives every person another one, and no two the same."""
        found: dict[tuple[str, str], str] = {}
        for relation in RELATIONS[: self.relations]:
            circle = rng.sample(names, len(names))
            found |= {(x, relation): y for x, y in zip(circle, [*circle[1:], circle[0]])}
        return found

    def _statements(self) -> Iterator[dict[str, Any]]:
        for split, wording in itertools.product(SPLITS, WORDINGS[: self.wordings]):
            for (x, r), y in self.facts(split).items():
                yield _row(f"Tell me about {x}.", wording.format(r=r, x=x, y=y), y, [y], "fact")

    def _chains(self, facts: Facts) -> list[tuple[str, ...]]:
        """Every (person, relation, relation, ...) whose people are all different."""
        names = dict.fromkeys(x for x, _ in facts)
        chains = itertools.product(names, *[RELATIONS[: self.relations]] * self.hops)
        return [chain for chain in chains if len({chain[0], *_walk(facts, chain)}) == self.hops + 1]

    def _questions(self, split: str, count: int | None) -> list[dict[str, Any]]:
        facts, rng = self.facts(split), random.Random(f"{self._origin}/{split}/{self.hops}/questions")
        chains = self._chains(facts)
        rng.shuffle(chains)
        if count is not None and count > len(chains):
            raise RecipeError(
                f"invented-facts: there are {len(chains)} questions about the people of {split}, fewer than the {count} asked for; "
                "have more 'people' or 'relations'"
            )
        shown = self.form == "given"
        return [self._asked(facts, chain, rng if shown else None) for chain in (chains if count is None else chains[:count])]

    def _read(self, split: str, number: int) -> dict[str, Any]:
        rng = random.Random(f"{self._origin}/{split}/{self.hops}/reading/{number}")
        facts = self._drawn([name for s in SPLITS for name in self.names(s)], rng)
        while True:
            chain = (rng.choice(list(facts))[0], *rng.choices(RELATIONS[: self.relations], k=self.hops))
            if len({chain[0], *_walk(facts, chain)}) == self.hops + 1:
                return self._asked(facts, chain, rng)

    def _asked(self, facts: Facts, chain: Sequence[str], rng: random.Random | None) -> dict[str, Any]:
        """A question; with ``rng`` its facts and others stand before it."""
        reached = _walk(facts, chain)
        steps = list(zip([chain[0], *reached], chain[1:], reached))
        prompt = "Who is " + " of ".join(f"the {r}" for r in reversed(chain[1:])) + f" of {chain[0]}?"
        if rng is not None:
            others = [(x, r, y) for (x, r), y in facts.items() if (x, r, y) not in steps]
            shown = [*steps, *rng.sample(others, self.others)]
            stated = [WORDINGS[rng.randrange(self.wordings)].format(r=r, x=x, y=y) for x, r, y in rng.sample(shown, len(shown))]
            prompt = ". ".join([*stated, prompt])
        reply = "\n".join([*(WORDINGS[0].format(r=r, x=x, y=y) for x, r, y in steps), f"#### {reached[-1]}"])
        return _row(prompt, reply, reached[-1], reached, f"{self.hops} hop{'s' if self.hops > 1 else ''}")


@cache
def _people(seed: int) -> list[str]:
    """All names that there are, in the order of the seed."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    pool = ["".join(two).capitalize() for two in itertools.product(syllables, repeat=2)]
    return random.Random(f"invented-facts/{seed}/names").sample(pool, len(pool))


def _walk(facts: Facts, chain: Sequence[str]) -> list[str]:
    """The person after each relation of a chain."""
    return list(itertools.accumulate(chain[1:], lambda x, r: facts[x, r], initial=chain[0]))[1:]


def _row(prompt: str, completion: str, answer: str, states: Sequence[str], skill: str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "completion": completion,
        "answer": answer,
        "states": list(states),
        "steps": len(states),
        "difficulty": len(states),
        "skill": skill,
        "text": completion if skill == "fact" else f"{prompt}\n{completion}",
        "document_id": digest(f"{prompt}\n{completion}"),
    }
