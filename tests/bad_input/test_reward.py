"""A reward that breaks on one completion costs that completion, not the run; it is counted and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from whet.generate.rewards.exact_answer import ExactAnswer

STEP = {
    "name": "rl",
    "data": "rows",
    "objective": "reinforce",
    "reward": "exact-answer",
    "steps": 1,
    "rollouts": {"prompts": 4, "group_size": 2, "max_new_tokens": 4},
}


def breaking(which: str) -> Any:
    """A reward that raises on the completions for one prompt."""

    def call(self: ExactAnswer, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
        if any(row["prompt"] == which for row in rows):
            raise ZeroDivisionError("no such answer")
        return [0.5] * len(completions)

    return call


def test_a_reward_that_raises_on_one_completion(user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    user.file("rows.jsonl", "".join(f'{{"prompt": "{p}", "answer": "1", "completion": "1"}}\n' for p in ("a", "b", "c", "odd")))
    monkeypatch.setattr(ExactAnswer, "__call__", breaking("odd"))
    status, _, message = user.run(user.recipe(train=[STEP]))
    assert status == 0, message
    shown = user.call("show", "last")[1]
    assert "reward_failures 2" in shown
    assert "ZeroDivisionError: no such answer" in shown
    assert "reward 0.375" in shown


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "gave nan for"), (2.0, "gave 2.0 for"), (-1.0, "gave -1.0 for")])
def test_a_reward_outside_its_range(user: Any, monkeypatch: pytest.MonkeyPatch, value: float, message: str) -> None:
    monkeypatch.setattr(ExactAnswer, "__call__", lambda self, rows, completions: [value] * len(completions))
    user.refused(user.recipe(train=[STEP]), "train step 'rl': reward exact-answer", message, "a reward must lie in [0, 1]")


def test_a_reward_that_gives_too_few_numbers(user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExactAnswer, "__call__", lambda self, rows, completions: [1.0])
    user.refused(user.recipe(train=[STEP]), "reward exact-answer gave 1 numbers for 2 completions")


def test_a_function_that_takes_other_arguments_is_refused_and_not_scored_0(user: Any) -> None:
    user.file("own.py", "def short(completions, **columns):\n    return [1.0 for _ in completions]\n")
    reward = str(user.folder / "own.py") + ":short"
    wanted = "reward own.py:short cannot be called as reward(rows, completions): too many positional arguments"
    user.refused(user.recipe(train=[{**STEP, "reward": reward}]), wanted, commands=("run", "check"))


def test_a_reward_whose_column_is_missing(user: Any) -> None:
    user.refused(
        user.recipe(train=[{**STEP, "reward": "steps"}]), "train step 'rl': no column 'states'", commands=("run", "check")
    )


def test_a_reward_with_a_broken_pattern(user: Any) -> None:
    user.refused(
        user.recipe(train=[{**STEP, "reward": {"name": "pattern", "pattern": "("}}]),
        "train.0.reward: pattern '(' is no regular expression",
    )
