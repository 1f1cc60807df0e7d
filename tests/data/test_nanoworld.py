"""The bundled world: determinism, disjoint splits, answers solved again by other means, fact counts, preference pairs."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from whet.data.nanoworld import SKILLS, World, read_reply, split_of
from whet.data.nanoworld.check import facts_in, read_facts, solve
from whet.data.nanoworld.preference import REASONS
from whet.data.nanoworld.problem import SPLITS, digest
from whet.data.nanoworld.words import RUDE
from whet.data.sources.nanoworld import FEATURES, NanoWorld
from whet.errors import DataError, RecipeError
from whet.parts import build

SMALL = {"people": 15, "occurrences": (6, 5, 4, 3, 2)}


def rows(split: str = "train", **settings: object) -> list[dict]:
    return NanoWorld(**settings)(split).to_list()  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["chat", "plain", "preference"])
def test_rows_are_a_function_of_the_settings(form: str) -> None:
    first, second = rows(rows=150, form=form, seed=3), rows(rows=150, form=form, seed=3)
    assert first == second
    assert first != rows(rows=150, form=form, seed=4)


def test_rows_are_the_same_for_ever() -> None:
    """Fails when any wording, draw or column changes: a deliberate change of the world updates the digest."""
    text = json.dumps([rows(split, rows=200, form=form) for form in ("chat", "plain", "preference") for split in SPLITS])
    assert digest(text) == "a25a771abf23"


@pytest.mark.parametrize("form", ["chat", "plain", "preference"])
@pytest.mark.parametrize("split", SPLITS)
def test_more_rows_keep_the_earlier_ones(form: str, split: str) -> None:
    assert rows(split, rows=230, form=form)[:77] == rows(split, rows=77, form=form)


def test_splits_are_disjoint_by_key() -> None:
    seen = {split: {(r["skill"], r["document_id"]) for r in rows(split, rows=3000, seed=1)} for split in SPLITS}
    assert not seen["train"] & seen["test"] | seen["train"] & seen["validation"] | seen["validation"] & seen["test"]
    prompts = {split: {r["prompt"] for r in rows(split, rows=3000, seed=2)} for split in SPLITS}
    assert not prompts["train"] & prompts["test"]


def test_held_out_rows_are_mostly_different_problems() -> None:
    held_out = rows("test", rows=1000, skills=tuple(s for s in SKILLS if s != "facts"))
    assert len({r["document_id"] for r in held_out}) > 970


def test_skills_and_levels_share_the_rows_evenly() -> None:
    counts = Counter((r["skill"], r["difficulty"]) for r in rows(rows=500))
    assert set(counts.values()) == {10} and len(counts) == 50
    doubled = Counter(r["skill"] for r in rows(rows=30, skills=("arithmetic", "arithmetic", "facts"), difficulty=(2, 3)))
    assert doubled == {"arithmetic": 20, "facts": 10}


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, str], str]:
    """What the plain training text teaches about the world."""
    return read_facts(r["text"] for r in rows(rows=170, form="plain", skills=("facts",), occurrences=(1,) * 5))


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_are_solved_again_from_the_prompt(skill: str, split: str, known: dict[tuple[str, str], str]) -> None:
    for row in rows(split, rows=1000, skills=(skill,), seed=7):
        assert solve(row, known) == row["answer"], row["prompt"]
        states, answer = read_reply(row["completion"])
        assert answer == row["answer"] == row["states"][-1]
        assert states == row["states"] and row["steps"] == len(states)
        assert row["completion"].isascii() and len(row["prompt"] + row["completion"]) < 500
        assert row["document_id"] in row["url"]


@pytest.mark.parametrize("skill", ["arithmetic", "word-problems", "variables"])
def test_every_arithmetic_line_is_true(skill: str) -> None:
    for row in rows(rows=500, skills=(skill,)):
        for line in row["completion"].split("\n")[:-1]:
            left, _, state = line.rpartition(" = ")
            expression = left.rpartition(" = ")[2].replace("x", "*").replace("/", "//")
            if expression.startswith("join"):
                assert int(expression.replace("join", "").replace(" ", "")) == int(state)
            elif re.search("[0-9]", expression):
                assert eval(expression) == int(state), line


@pytest.mark.parametrize("styles", [(), ("qa",), ("web", "chatty")])
def test_each_fact_is_stated_as_often_as_asked(styles: tuple[str, ...]) -> None:
    world = World(5, SMALL["people"], SMALL["occurrences"])  # type: ignore[arg-type]
    texts = [r["text"] for r in rows(rows=400, form="plain", skills=("facts",), world=5, styles=styles, **SMALL)]
    stated = Counter((relation, subject, value) for text in texts for relation, subject, value in facts_in(text))
    for entity in world.entities:
        for fact in entity.facts:
            assert stated[fact.relation, fact.subject, fact.object] == SMALL["occurrences"][entity.level - 1]  # type: ignore[index]
    fillers = {subject for _, subject, _ in stated} - {entity.name for entity in world.entities}
    assert fillers and all(len(name) == 6 for name in fillers)


def test_plain_facts_rows_name_the_facts_in_their_text() -> None:
    for row in rows(rows=60, form="plain", skills=("facts",), **SMALL):
        assert sorted(row["facts"]) == sorted(f"facts {r} of {s}" for r, s, _ in facts_in(row["text"]))


def test_facts_are_asked_in_one_split_only_and_hold_in_all(known: dict[tuple[str, str], str]) -> None:
    for split in SPLITS:
        for row in rows(split, rows=150, skills=("facts",)):
            assert split_of(row["facts"][0]) == split
    questions = [r["text"] for r in rows(rows=600, form="plain", skills=("facts",), styles=("qa",))]
    for text in questions:
        for asked in re.findall(r"question: .+\nanswer: .+", text):
            ((relation, subject, _),) = facts_in(asked)
            assert split_of(f"facts {relation} of {subject}") == "train"


def test_noise_is_marked_and_carried_on() -> None:
    plain = rows(rows=2000, form="plain", noise=0.5)
    noisy = [r for r in plain if r["noisy"]]
    can = [r for r in plain if r["skill"] not in ("facts", "styles")]
    assert abs(len(noisy) / len(can) - 0.5) < 0.05 and not {r["skill"] for r in noisy} & {"facts", "styles"}
    told_right = sum(f"answer: {r['answer']}" in r["text"] for r in noisy if r["style"] in ("qa", "web"))
    assert told_right < 0.05 * len(noisy)
    for row in plain:
        assert row["noisy"] or row["answer"] in row["text"] or row["skill"] == "facts"


def test_tones_are_shared_out_as_asked() -> None:
    tones = Counter(r["tone"] for r in rows(rows=2000, polite_share=0.25, rude_share=0.5))
    assert abs(tones["rude"] / 2000 - 0.5) < 0.04 and abs(tones["polite"] / 2000 - 0.25) < 0.04
    rude = next(r for r in rows(rows=50, rude_share=1.0))
    assert rude["completion"].startswith(RUDE) and read_reply(rude["completion"])[1] == rude["answer"]


def test_rejected_replies_are_worse_for_the_stated_reason() -> None:
    pairs = rows(rows=3000, form="preference")
    assert {r["reason"] for r in pairs} == set(REASONS)
    for row in pairs:
        states, answer = read_reply(row["rejected"])
        assert row["chosen"] == row["completion"] != row["rejected"]
        if row["reason"] == "wrong-step":
            assert states != row["states"]
        elif row["reason"] == "wrong-answer":
            assert answer != row["answer"] and states[: row["steps"] - 1] == row["states"][:-1]
        elif row["reason"] == "wrong-format":
            assert answer != row["answer"] if row["skill"] == "formats" else answer is None and row["answer"] in row["rejected"]
        elif row["reason"] == "rude":
            assert row["rejected"].startswith(RUDE) and row["rejected"].endswith(row["chosen"])
        elif row["reason"] == "too-long":
            assert answer == row["answer"] and len(row["rejected"]) > 1.5 * len(row["chosen"])
        else:
            assert row["skill"] == "translation" and answer in row["prompt"]


def test_reasons_can_be_chosen() -> None:
    pairs = rows(rows=100, form="preference", reasons=("rude",))
    assert {r["reason"] for r in pairs} == {"rude"}


def test_columns_and_types_are_fixed() -> None:
    for form in ("chat", "plain"):
        assert NanoWorld(rows=3, form=form)("test").features == FEATURES  # type: ignore[arg-type]
    assert build("source", {"name": "nanoworld", "rows": 12})("train").num_rows == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skills": ("arithmetics",)}, "did you mean 'arithmetic'"),
        ({"noise": 0.5}, "only form 'plain' uses it"),
        ({"form": "plain", "rude_share": 0.1}, "only form 'chat' uses it"),
        ({"reasons": ("rude",)}, "only form 'preference' uses it"),
        ({"difficulty": (4, 2)}, "lowest level comes first"),
        ({"polite_share": 0.6, "rude_share": 0.6}, "more than 1"),
        ({"skills": ()}, "needs one skill"),
        ({"form": "preference", "reasons": ("wrong-language",), "skills": ("facts",)}, "fits skill 'facts'; add 'wrong-answer'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        NanoWorld(**settings)


def test_values_out_of_range_are_refused_by_the_recipe() -> None:
    for bad in ({"rows": 0}, {"difficulty": (0, 3)}, {"occurrences": (1, 2)}, {"people": 3}):
        with pytest.raises(RecipeError):
            build("source", {"name": "nanoworld", **bad})


def test_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="did you mean 'validation'"):
        NanoWorld(rows=1)("validaton")


def test_a_level_without_problems_in_the_split_is_refused() -> None:
    with pytest.raises(RecipeError, match="raise 'people'"):
        for world in range(40):
            NanoWorld(rows=5, skills=("facts",), people=15, world=world)("test")
