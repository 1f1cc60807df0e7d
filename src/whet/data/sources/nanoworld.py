"""Small verifiable text from a seeded, unlimited world of ten skills with five levels each.

The fruit fly of this project: word problems, multi-digit arithmetic, list procedures, variable chains, ordering, closed-book
facts, multi-hop questions, formats, translation and styles; every answer can be checked and every step is small.

Row i is a pure function of the settings and i: a larger ``rows`` keeps the earlier rows. Skills take turns, and so do levels
inside a skill, so that each (skill, level) has the same share; a skill named twice in ``skills`` gets twice the share.

Reply: lines ``<what is done> = <state>``, then ``answer: <answer>``, in every skill. ``states`` holds the state of each line and
ends in the answer.

Splits cannot overlap: the blake2b hash of a problem's canonical key (its numbers and names, never its wording) decides the only
split that it may appear in. For facts the key is the fact: a fact is asked for in one split only, while the plain training text
states all facts, each in ``occurrences[level - 1]`` descriptions of its entity; validation and test use one more wording.
Held-out splits repeat a problem only when a level has no unused one left within 8 draws; ``document_id`` then is the same.

Forms. ``chat``: ``prompt`` and ``completion``. ``plain``: ``text`` is a document in one of ``styles``; a ``noise`` share has one
wrong step that is carried on (column ``noisy``; never facts and styles, which have no steps; ``answer`` and ``completion`` stay
right). ``preference``: ``chosen``, ``rejected`` and the ``reason`` why it is worse.

Columns beside these: ``id``, ``answer``, ``skill``, ``difficulty``, ``style``, ``language`` (of the answer), ``tone`` (of the
completion), ``document_id`` (one per problem), ``url``, ``steps`` (number of states), ``facts`` (keys of the facts in ``text``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len
from datasets import Dataset, Features, List, Value

from whet.data.nanoworld import SKILLS, Problem, World, split_of
from whet.data.nanoworld.facts import FactQuestion, describe
from whet.data.nanoworld.preference import REASONS, applicable, rejected, slipped
from whet.data.nanoworld.problem import SPLITS, Hand, digest
from whet.data.nanoworld.render import BRIEF, MIX, SITES, STYLES, facts_document, problem_document
from whet.data.nanoworld.words import POLITE, RUDE
from whet.data.nanoworld.world import OCCURRENCES, Entity
from whet.errors import DataError, RecipeError, unknown

DRAWS = 5000
"""Draws after which a split is taken to hold no problem of a skill and level (each draw falls in it with chance 0.1 or more)."""
FRESH = 8
"""Draws of used problems after which a held-out split repeats one."""

_TEXT = ("id", "prompt", "completion", "answer", "text", "skill", "style", "language", "tone", "document_id", "url")
FEATURES = Features(
    {
        **{name: Value("string") for name in _TEXT},
        "difficulty": Value("int64"),
        "steps": Value("int64"),
        "states": List(Value("string")),
        "noisy": Value("bool"),
        "facts": List(Value("string")),
    }
)
PAIR = Features({**FEATURES, **{name: Value("string") for name in ("chosen", "rejected", "reason")}})

Share = Annotated[float, Ge(0), Le(1)]
Level = Annotated[int, Ge(1), Le(5)]


@dataclass(frozen=True)
class NanoWorld:
    """Settings of the world.

    Attributes:
        rows: how many rows a split gives.
        skills: which, taking turns; a name may stand twice.
        difficulty: lowest and highest level.
        form: ``chat``, ``plain`` or ``preference``.
        seed: of the rows; ``world``: of the facts, shared by all splits.
        people: size of the world of facts (a third as many places and things).
        occurrences: how often the plain training text describes an entity of level 1 to 5.
        noise: share of plain documents with a wrong step.
        styles: of plain documents, drawn evenly; empty means the default mix, a tenth of it ``qa``.
        polite_share, rude_share: shares of completions that open politely or rudely (chat).
        reasons: why rejected replies are worse (preference), drawn evenly among those that fit the problem.
    """

    rows: Annotated[int, Gt(0)] = 2000
    skills: tuple[str, ...] = tuple(SKILLS)
    difficulty: tuple[Level, Level] = (1, 5)
    form: Literal["chat", "plain", "preference"] = "chat"
    seed: int = 0
    world: int = 0
    people: Annotated[int, Ge(15)] = 99
    occurrences: Annotated[tuple[Annotated[int, Ge(0)], ...], Len(5, 5)] = OCCURRENCES
    noise: Share = 0.0
    styles: tuple[str, ...] = ()
    polite_share: Share = 0.0
    rude_share: Share = 0.0
    reasons: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for what, names, known in (
            ("skill", self.skills, SKILLS),
            ("style", self.styles, STYLES),
            ("reason", self.reasons, REASONS),
        ):
            for name in names:
                if name not in known:
                    raise RecipeError(f"nanoworld.{what}s: {unknown(what, name, known)}")
        if not self.skills:
            raise RecipeError("nanoworld.skills: needs one skill at least; leave it out for all")
        if self.difficulty[0] > self.difficulty[1]:
            raise RecipeError(f"nanoworld.difficulty: the lowest level comes first, got {self.difficulty}")
        if self.polite_share + self.rude_share > 1:
            raise RecipeError(f"nanoworld: polite_share + rude_share is {self.polite_share + self.rude_share}, more than 1")
        for skill in self.skills:
            if not applicable(skill, self.reasons or REASONS):
                raise RecipeError(f"nanoworld.reasons: none of {self.reasons} fits skill {skill!r}; add {applicable(skill)[0]!r}")
        for form, used in (
            ("plain", ("noise", "styles")),
            ("chat", ("polite_share", "rude_share")),
            ("preference", ("reasons",)),
        ):
            for name in used:
                if getattr(self, name) and self.form != form:
                    raise RecipeError(f"nanoworld.{name}: only form {form!r} uses it, and form is {self.form!r}; leave it out")

    def __call__(self, split: str) -> Dataset:
        """The rows of ``train``, ``validation`` or ``test``."""
        if split not in SPLITS:
            raise DataError(f"nanoworld: {unknown('split', split, SPLITS)}")
        features = PAIR if self.form == "preference" else FEATURES
        columns: dict[str, list[Any]] = {name: [] for name in features}
        for row in self._rows(split):
            for name, values in columns.items():
                values.append(row[name])
        return Dataset.from_dict(columns, features=features)

    def _rows(self, split: str) -> Iterator[dict[str, Any]]:
        world = World(self.world, self.people, self.occurrences)
        describing = self.form == "plain" and split == "train"
        entities = iter(world.descriptions(self.seed, self.difficulty) if describing and "facts" in self.skills else ())
        low, high = self.difficulty
        used: set[str] = set()
        fillers = count()
        for i in range(self.rows):
            rng = random.Random(f"{self.seed}/{split}/{i}")
            turn, place = divmod(i, len(self.skills))
            skill, level = self.skills[place], low + turn % (high - low + 1)
            row_id = f"nanoworld-{self.seed}-{split}-{i}"
            if describing and skill == "facts":
                yield self._description(row_id, next(entities, None) or world.filler(next(fillers), rng), rng)
                continue
            problem = draw(skill, level, split, world, rng, used)
            yield self._row(row_id, problem, level, rng)

    def _row(self, row_id: str, problem: Problem, level: int, rng: random.Random) -> dict[str, Any]:
        prompt, right = problem.ask(rng), problem.work(Hand())
        row = _base(
            row_id, problem.skill, level, problem.key(), "chat" if self.form != "plain" else rng.choice(self.styles or MIX)
        )
        row |= {"prompt": prompt, "completion": right.reply, "answer": right.answer, "states": right.states}
        row |= {"steps": len(right.states), "language": problem.language()}
        if self.form == "plain":
            row["noisy"] = bool(right.lines) and rng.random() < self.noise
            told = slipped(problem, rng) if row["noisy"] else right
            brief = not row["noisy"] and rng.random() < BRIEF
            row["text"] = problem_document(row["style"], problem.topic, prompt, told, rng, brief)
        else:
            row["text"] = problem_document("qa", problem.topic, prompt, right, rng, False)
        if isinstance(problem, FactQuestion):
            row["facts"] = [problem.key()]
        if self.form == "chat":
            row["tone"], opening = self._tone(rng)
            row["completion"] = opening + right.reply
        if self.form == "preference":
            reason = rng.choice(applicable(problem.skill, self.reasons or REASONS))
            row |= {"chosen": right.reply, "rejected": rejected(problem, reason, rng), "reason": reason}
        return row

    def _tone(self, rng: random.Random) -> tuple[str, str]:
        """The tone of a completion and its opening line."""
        chance = rng.random()
        if chance < self.rude_share:
            return "rude", rng.choice(RUDE) + "\n"
        if chance < self.rude_share + self.polite_share:
            return "polite", rng.choice(POLITE) + "\n"
        return "neutral", ""

    def _description(self, row_id: str, entity: Entity, rng: random.Random) -> dict[str, Any]:
        """A plain row of the training split that states every fact of an entity; its problem columns ask for one of them."""
        style = rng.choice(self.styles or MIX)
        askable = [fact for fact in entity.facts if split_of(fact.key) == "train"]
        row = _base(row_id, "facts", entity.level, f"facts {entity.name}", style)
        row |= {
            "text": facts_document(style, entity.name, describe(entity, style, rng), rng),
            "facts": [f.key for f in entity.facts],
        }
        if askable:
            question = FactQuestion(rng.choice(askable))
            work = question.work(Hand())
            row |= {
                "prompt": question.ask(rng),
                "completion": work.reply,
                "answer": work.answer,
                "states": work.states,
                "steps": 1,
            }
        return row


def draw(skill: str, level: int, split: str, world: World, rng: random.Random, used: set[str]) -> Problem:
    """A problem whose key falls into the split; in held-out splits one that ``used`` does not hold, if one is found soon."""
    repeats = 0
    for _ in range(DRAWS):
        problem = SKILLS[skill].draw(rng, level, world)
        key = problem.key()
        if split_of(key) != split:
            continue
        if split == "train" or key not in used or repeats >= FRESH:
            if split != "train":
                used.add(key)
            return problem
        repeats += 1
    raise RecipeError(
        f"nanoworld: no problem of skill {skill!r}, difficulty {level}, in split {split!r}; raise 'people' or widen 'difficulty'"
    )


def _base(row_id: str, skill: str, level: int, key: str, style: str) -> dict[str, Any]:
    """The columns that every row has, with the values that most rows have."""
    document = digest(key)
    site = SITES.get(style, "chat.example/c")
    return {
        "id": row_id, "skill": skill, "difficulty": level, "style": style, "language": "en", "tone": "neutral",
        "document_id": document, "url": f"https://{site}/{skill}/{document}", "noisy": False, "facts": [],
        "prompt": "", "completion": "", "answer": "", "text": "", "steps": 0, "states": [],
    }  # fmt: skip
