"""Invented facts: answers by following the stated facts, splits without a person in common, prompts that hold what they ask for."""

from __future__ import annotations

import re
from typing import Any

import pytest

from whet.data.nanoworld.problem import SPLITS
from whet.data.sources.invented_facts import RELATIONS, WORDINGS, InventedFacts
from whet.errors import DataError, RecipeError
from whet.generate.rewards.exact_answer import ExactAnswer
from whet.generate.verify import states_of

Stated = dict[tuple[str, str], str]


def read(sentence: str) -> tuple[tuple[str, str], str]:
    """A fact, read off its sentence."""
    for wording in WORDINGS:
        pattern = re.sub(r"\{(\w)\}", r"(?P<\1>\\w+)", re.escape(wording).replace(r"\{", "{").replace(r"\}", "}"))
        if found := re.fullmatch(pattern, sentence):
            return (found["x"], found["r"]), found["y"]
    raise AssertionError(sentence)


def states(question: str, facts: Stated) -> list[str]:
    """The people whom a question leads to, hop by hop."""
    relations, start = re.findall(r"the (\w+)", question), question.rstrip("?").split(" ")[-1]
    reached = [start]
    for relation in reversed(relations):
        reached.append(facts[reached[-1], relation])
    return reached[1:]


def world(**settings: Any) -> Stated:
    """All that the facts state; each is checked to be the same in every wording."""
    found: Stated = {}
    for row in InventedFacts(form="facts", **settings)("train"):
        key, y = read(row["completion"])
        assert found.setdefault(key, y) == y and row["text"] == row["completion"] and key[0] in row["prompt"]
    return found


@pytest.mark.parametrize("settings", [{}, {"hops": 1, "people": 5}, {"hops": 3, "relations": 8, "people": 9, "seed": 4}])
def test_questions_follow_the_facts_that_are_trained(settings: dict[str, Any]) -> None:
    facts, seen = world(**settings), set()
    for split in SPLITS:
        for row in InventedFacts(**settings)(split):
            expected = states(row["prompt"], facts)
            assert row["states"] == states_of(row["completion"]) == expected and row["answer"] == expected[-1]
            assert len(set(expected)) == len(expected) == row["steps"] and row["prompt"].split(" ")[-1][:-1] not in expected
            assert ExactAnswer()([row], [row["completion"]]) == [1.0]
            seen.add(row["prompt"])
    assert len(seen) == sum(len(InventedFacts(**settings)(split)) for split in SPLITS)


def test_facts_are_all_there_in_every_wording_and_nobody_is_in_two_splits() -> None:
    source = InventedFacts(form="facts", people=10, relations=3, wordings=4)
    assert len(source("train")) == len(source("test")) == 3 * 10 * 3 * 4
    people = {split: set(source.names(split)) for split in SPLITS}
    assert len(set().union(*people.values())) == 30
    for split in SPLITS:
        facts = source.facts(split)
        for relation in RELATIONS[:3]:
            to = {y for (_, r), y in facts.items() if r == relation}
            assert to == people[split] and all(x != y for (x, _), y in facts.items())


@pytest.mark.parametrize("form", ["given", "reading"])
def test_prompts_hold_the_facts_that_they_ask_for(form: Any) -> None:
    said = []
    for row in InventedFacts(form=form, people=8, others=3, wordings=4, rows=60)("test"):
        *stated, question = row["prompt"].split(". ")
        facts = dict(map(read, stated))
        assert len(facts) == 5 and states(question, facts) == row["states"]
        said.append(facts)
    known = world(people=8)
    assert all(facts.items() <= known.items() for facts in said) == (form == "given")


def test_given_asks_what_questions_ask_and_more_rows_keep_the_earlier() -> None:
    asked, given = (InventedFacts(form=form)("test")["prompt"] for form in ("questions", "given"))
    assert [prompt.split(". ")[-1] for prompt in given] == list(asked)
    assert InventedFacts(rows=7)("test").to_list() == InventedFacts(rows=20)("test").to_list()[:7]
    read_rows = (InventedFacts(form="reading", rows=n)("train").to_list() for n in (5, 9))
    assert next(read_rows) == next(read_rows)[:5]


def test_demonstrations_follow_the_facts_and_are_of_the_training_people() -> None:
    plain, more = InventedFacts(form="facts")("train"), InventedFacts(form="facts", demonstrations=9)("train")
    assert more.to_list()[: len(plain)] == plain.to_list()
    assert more.to_list()[len(plain) :] == InventedFacts(rows=9)("train").to_list()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "facts", "rows": 5}, "rows: 5 is of questions; form: facts gives every fact"),
        ({"demonstrations": 5}, "demonstrations: 5 follow the facts; with form: questions say 'rows'"),
        ({"hops": 4, "people": 4}, "hops: 4 hops through different people need more than 4 people"),
        ({"form": "given", "people": 3, "relations": 1, "others": 5}, "others: there are 3 facts, fewer than 2"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        InventedFacts(**settings)


def test_too_many_questions_and_an_unknown_split_are_refused() -> None:
    with pytest.raises(RecipeError, match="fewer than the 9000 asked for; have more 'people' or 'relations'"):
        InventedFacts(rows=9000)("test")
    with pytest.raises(DataError, match="unknown split 'dev'"):
        InventedFacts()("dev")
