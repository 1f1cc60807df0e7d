"""A part in a Python file of the user's own is used by its path, and a changed file is another part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import whet
from whet import parts
from whet.errors import RecipeError
from whet.recipe import read
from whet.run import identity as ids

REWARD = "def short(rows, completions, *, limit: int = {limit}):\n    return [float(len(c) < limit) for c in completions]\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rewards.py"
    path.write_text(REWARD.format(limit=3))
    return path


def _recipe(reward: Any) -> dict[str, Any]:
    rollouts = {"prompts": 2, "group_size": 2, "max_new_tokens": 4}
    rl = {"name": "rl", "data": "rows", "objective": "grpo", "reward": reward, "steps": 1, "rollouts": rollouts}
    return {"name": "own", "model": "nano", "data": [{"name": "rows", "source": {"name": "nanoworld", "rows": 4}}], "train": [rl]}


def test_a_function_and_its_settings(file: Path) -> None:
    assert parts.build("reward", "rewards.py:short")([], ["ab", "abcd"]) == [1.0, 0.0]
    given = parts.build("reward", {"name": "rewards.py:short", "limit": 9})
    assert given([], ["abcd"]) == [1.0]
    assert parts.effective(given) == {"name": "rewards.py:short", "limit": 9}
    with pytest.raises(RecipeError, match=r"r\.limt: unknown field of reward 'rewards.py:short' 'limt': did you mean 'limit'"):
        parts.build("reward", {"name": "rewards.py:short", "limt": 9}, "r")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other.py:short", r"r: other\.py: no such file, looked for in "),
        ("rewards.py:shrt", r"r: rewards\.py: unknown function or class 'shrt': did you mean 'short'"),
        ("rewards.py", r"unknown function or class 'rewards'.*write rewards\.py:NAME"),
        ("broken.py:short", r"broken\.py: cannot be imported: ZeroDivisionError"),
    ],
)
def test_what_is_not_there_is_named(file: Path, name: str, message: str) -> None:
    (file.parent / "broken.py").write_text("1 / 0\n")
    with pytest.raises(RecipeError, match=message):
        parts.build("reward", name, "r")


def test_a_changed_file_changes_the_step(file: Path) -> None:
    def hashed() -> str:
        return ids.code_hash("train", read(_recipe("rewards.py:short")).step("rl"))

    first = hashed()
    assert hashed() == first
    file.write_text(REWARD.format(limit=5))
    assert hashed() != first


def test_a_recipe_trains_with_it_and_the_result_loads_by_its_run(file: Path) -> None:
    result = whet.run(_recipe({"name": "rewards.py:short", "limit": 4}))
    step = result.run.steps[-1]
    assert step.settings["reward"] == {"name": "rewards.py:short", "limit": 4}
    assert step.receipt["provider"]["completions"] == 4
    again = whet.run(_recipe({"name": "rewards.py:short", "limit": 4}))
    assert [s.status for s in again.run.steps] == ["reused", "reused"]
    model = whet.load(f"{result.run.id}:rl")
    assert model.parameters == whet.load("nano").parameters
