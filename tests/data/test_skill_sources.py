"""Chains of bits, additions by digit, parities: right answers by brute force, disjoint splits, refusals."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from whet import parts
from whet.data.nanoworld.problem import SPLITS
from whet.data.skill_rows import FEATURES
from whet.data.sources.digit_addition import DigitAddition
from whet.data.sources.lego_chain import LegoChain
from whet.data.sources.parity_staircase import ParityStaircase
from whet.errors import DataError, RecipeError
from whet.generate.rewards.exact_answer import ExactAnswer


def chain_answer(prompt: str) -> str:
    """The value that the asked variable has in every assignment that satisfies all clauses, found by trying all."""
    given, asked = prompt.removesuffix(" = ?").split(" . ")
    clauses = [clause.split(" ") for clause in given.split(" , ")]
    names = [clause[0] for clause in clauses]
    found = set()
    for values in itertools.product((0, 1), repeat=len(names)):
        world: dict[str, int] = dict(zip(names, values))
        right = {n: int(v) if v in "01" else world[v] if how == "val" else 1 - world[v] for n, _, how, v in clauses}
        if right == world:
            found.add(world[asked])
    (value,) = found
    return str(value)


def digit_answer(prompt: str) -> str:
    first, rest = prompt.removeprefix("A = ").split(" + ")
    second, asked = rest.split(" , ")
    total = int(first.replace(" ", "")) + int(second.replace(" ", ""))
    return str(total // 10 ** int(asked.split(" ")[1]) % 10)


def parity_answer(prompt: str) -> str:
    skill, bits = prompt.removesuffix(" = ?").split(" : ")
    ones = bits.replace(" ", "")
    return str({"A": ones[:3], "B": ones[3:6], "C": ones[:6]}[skill].count("1") % 2)


BRUTE: list[tuple[Any, Any]] = [
    (LegoChain(rows=300), chain_answer),
    (LegoChain(length=8, rows=80, seed=3), chain_answer),
    (DigitAddition(rows=300), digit_answer),
    (DigitAddition(digits=6, rows=120, seed=1), digit_answer),
    (ParityStaircase(rows=300), parity_answer),
]


@pytest.mark.parametrize(("source", "answer"), BRUTE)
def test_answers_are_those_of_a_brute_force_evaluator(source: Any, answer: Any) -> None:
    rows = source("train").to_list()
    assert [row["answer"] for row in rows] == [answer(row["prompt"]) for row in rows]
    assert ExactAnswer()(rows, [row["completion"] for row in rows]) == [1.0] * len(rows)
    assert {row["answer"] for row in rows if row["skill"] == rows[-1]["skill"]} >= {"0", "1"}


@pytest.mark.parametrize(("source", "_"), BRUTE[::2])
def test_skills_take_turns_and_a_problem_has_one_split(source: Any, _: Any) -> None:
    rows = {split: source(split).to_list() for split in SPLITS}
    skills = sorted({row["skill"] for row in rows["train"]})
    counts = [sum(row["skill"] == skill for row in rows["train"]) for skill in skills]
    assert max(counts) - min(counts) <= 1 and len({row["prompt"] for row in rows["train"]}) == len(rows["train"])

    def problem(row: dict[str, Any]) -> Any:
        given = row["prompt"].split(" : ")[-1].split(" . ")[0].split(" , A ")[0]
        return frozenset(given.split(" , "))

    problems = {split: {problem(row) for row in rows[split]} for split in SPLITS}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not problems[a] & problems[b]


def test_more_rows_keep_the_earlier_ones() -> None:
    for name in ("lego-chain", "digit-addition", "parity-staircase"):
        few, many = (parts.build("source", {"name": name, "rows": rows})("test") for rows in (9, 30))
        assert many.to_list()[:9] == few.to_list() and many.features == FEATURES


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="did you mean 'train'"):
        LegoChain()("trian")
    with pytest.raises(RecipeError, match=r"digit-addition: the test split has only about \d+ problems"):
        DigitAddition(digits=1, rows=100)("test")
    with pytest.raises(RecipeError, match="two parities of 11 bits need more than the 20"):
        ParityStaircase(degree=11)
