"""The chains: right states against Python's own arithmetic, disjoint splits, noise that is carried on, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from whet.architectures.tokenizer import train_tokenizer
from whet.data.formats.chat import Chat
from whet.data.formats.plain import Plain
from whet.data.nanoworld.problem import SPLITS, digest
from whet.data.sources.chain_mod10 import FEATURES, ChainMod10
from whet.errors import DataError, RecipeError
from whet.generate.rewards.exact_answer import ExactAnswer
from whet.generate.rewards.steps import Steps
from whet.parts import build


def states_of(prompt: str) -> list[str]:
    """An independent reading of the prompt: from left to right, everything modulo 10 at the end only."""
    tokens = prompt.removesuffix(" =").split()
    return [str(value % 10) for value in _values(tokens)]


def _values(tokens: list[str]) -> list[int]:
    value, values = int(tokens[0]), []
    for op, operand in zip(tokens[1::2], tokens[2::2]):
        value = value + int(operand) if op == "+" else value * int(operand)
        values.append(value)
    return values


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_states_are_right(steps: int) -> None:
    for row in ChainMod10(steps=steps, rows=20)("train"):
        assert row["states"] == states_of(row["prompt"])
        assert row["answer"] == row["states"][-1] and len(row["states"]) == row["steps"] == steps
        assert row["completion"] == " ".join([*row["states"], "####", row["answer"]])
        assert set(row["skill"]) == set(row["prompt"]) & set("+*")


def test_rewards_read_the_replies() -> None:
    for separator in (" ", "\n"):
        rows = ChainMod10(rows=30, separator=separator)("test").to_list()
        replies = [row["completion"] for row in rows]
        assert ExactAnswer()(rows, replies) == [1.0] * 30
    assert Steps()(rows, replies) == [1.0] * 30


def test_splits_share_no_problem_whatever_the_settings() -> None:
    settings: list[dict[str, Any]] = [{}, {"seed": 1}, {"noise": 0.4, "seed": 2}]
    prompts = {split: {p for s in settings for p in ChainMod10(steps=2, rows=150, **s)(split)["prompt"]} for split in SPLITS}
    assert not prompts["train"] & prompts["test"] and not prompts["train"] & prompts["validation"]
    assert not prompts["validation"] & prompts["test"]
    assert len(set(ChainMod10(steps=2, rows=150)("test")["prompt"])) == 150


def test_more_rows_keep_the_earlier_ones_and_content_is_the_same_for_ever() -> None:
    few, many = (ChainMod10(rows=n, noise=0.4)("train").to_list() for n in (10, 40))
    assert many[:10] == few
    assert digest(json.dumps(few)) == "5dfd8a2900cc"
    assert build("source", {"name": "chain-mod10", "rows": 3})("validation").features == FEATURES


def test_noise_is_carried_on_and_leaves_problems_and_answers_alone() -> None:
    clean, noisy = (ChainMod10(rows=2000, noise=p)("train").to_list() for p in (0.0, 0.4))
    assert [row["prompt"] for row in clean] == [row["prompt"] for row in noisy]
    assert [row["answer"] for row in clean] == [row["answer"] for row in noisy]
    follows = total = 0
    for row in noisy:
        written = row["completion"].partition(" #### ")[0].split()
        assert row["completion"].endswith(f"#### {written[-1]}")
        tokens = row["prompt"].split()
        for before, after, op, operand in zip(written, written[1:], tokens[3::2], tokens[4::2]):
            follows += states_of(f"{before} {op} {operand} =")[0] == after
            total += 1
    # A random digit is the right one now and then: 0.6 + 0.4 / 10.
    assert abs(follows / total - 0.64) < 4 * (0.64 * 0.36 / total) ** 0.5


def test_operations_are_those_asked_for() -> None:
    assert set(ChainMod10(ops=("+",), rows=50)("train")["skill"]) == {"+"}


def test_formats_and_a_small_tokenizer_read_the_rows() -> None:
    row = ChainMod10(rows=200)("train")[0]
    tokenizer = train_tokenizer(ChainMod10(rows=200)("train")["text"], 280)
    (chat,) = Chat()(row, tokenizer)
    assert sum(chat.trained) == row["steps"] + 3, "the values, the mark, the answer and the end"
    (plain,) = Plain()(row, tokenizer)
    assert tokenizer.decode(plain.input_ids, skip_special_tokens=True) == row["text"]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RecipeError, match="each once"):
        ChainMod10(ops=())
    with pytest.raises(RecipeError, match=r"only about .* problems with 1 steps"):
        ChainMod10(steps=1, rows=200)("train")
    with pytest.raises(DataError, match="unknown split 'dev'"):
        ChainMod10()("dev")
    with pytest.raises(RecipeError, match="noise"):
        build("source", {"name": "chain-mod10", "noise": 1.5})


def test_replies_without_steps_are_the_mark_and_the_right_value() -> None:
    plain, short = (ChainMod10(rows=20, form=form)("train").to_list() for form in ("steps", "answer"))
    assert [row["prompt"] for row in plain] == [row["prompt"] for row in short]
    assert all(row["completion"] == f"#### {row['states'][-1]}" for row in short)


def test_a_rejected_reply_has_one_wrong_step_that_is_carried_on() -> None:
    rows = ChainMod10(rows=300, form="preference")("train").to_list()
    wrong_ends, firsts = 0, set()
    for row in rows:
        assert row["chosen"] == row["completion"] and row["reason"] == "wrong-step"
        written = row["rejected"].partition(" #### ")[0].split()
        assert row["rejected"].endswith(f"#### {written[-1]}") and len(written) == 3
        operations = row["prompt"].split()
        first = next(i for i, (a, b) in enumerate(zip(written, row["states"])) if a != b)
        for i in range(first + 1, 3):
            assert states_of(f"{written[i - 1]} {' '.join(operations[1 + 2 * i : 3 + 2 * i])} =")[0] == written[i]
        wrong_ends += written[-1] != row["answer"]
        firsts.add(first)
    assert wrong_ends >= 290 and firsts == {0, 1, 2}
    assert sum(ExactAnswer()(rows, [row["rejected"] for row in rows])) == 300 - wrong_ends


def test_noise_is_refused_where_steps_must_be_right() -> None:
    for form in ("answer", "preference"):
        with pytest.raises(RecipeError, match=r"chain-mod10\.noise: 0.4 is of written steps"):
            build("source", {"name": "chain-mod10", "noise": 0.4, "form": form})
