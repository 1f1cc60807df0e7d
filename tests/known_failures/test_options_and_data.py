"""Known failures of other tools: options that change from version to version, do nothing, or are not read."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import whet
from tiny import recipe
from whet.data.context import Context
from whet.errors import RecipeError
from whet.model import Model
from whet.recipe import read
from whet.recipe_steps import DataStep
from whet.run.diff import diff_runs
from whet.run.making import make_data
from whet.run.runner import run_recipe
from whet.train import settings as train_settings

ROWS = [{"prompt": f"What is {i} plus 4?", "completion": f"The answer is {i + 4}."} for i in range(8)]


@dataclasses.dataclass(frozen=True)
class LaterSettings(train_settings.TrainSettings):
    """As a later version might have them: another default of one option."""

    overlong: Any = "chunk"


def test_a_default_that_changed_is_named_by_diff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface/trl#3910: defaults change between versions and the loss with them, and nobody can tell which."""
    monkeypatch.setenv("WHET_HOME", str(tmp_path))
    old = run_recipe(recipe(), quiet=True).run
    step = next(s for s in old.steps if s.name == "first")
    assert step.settings["overlong"] == "drop" and step.settings["max_length"] is None
    assert {"overlong", "max_length", "clip"} <= set(step.receipt["defaults"]) and "batch_size" not in step.receipt["defaults"]
    monkeypatch.setattr(train_settings, "TrainSettings", LaterSettings)
    monkeypatch.setattr(importlib.import_module("whet.train.run"), "TrainSettings", LaterSettings)
    new = run_recipe(recipe(), quiet=True).run
    assert "setting overlong" in next(s for s in new.steps if s.name == "first").why
    rows, text = diff_runs(old.id, new.id)
    assert {"where": "step.first.settings.overlong", "first": "drop", "second": "chunk"} in rows
    assert "step.first.settings.overlong: drop -> chunk" in text


def test_truncation_cuts_and_says_what_it_cut(tiny_model: Model) -> None:
    """axolotl-ai-cloud/axolotl#3401: `truncate` never truncated, for half a year."""
    settings = {"steps": 1, "batch_size": 8, "max_length": 16, "overlong": "truncate"}
    receipt = whet.train(tiny_model, ROWS, **settings).lineage["step"]["receipt"]
    data = receipt["data"]
    assert data["rows_in"] == data["rows_out"] == data["rows_overlong"] == 8
    assert data["tokens_out"] == 8 * 16 and data["tokens_dropped"] == data["tokens_in"] - data["tokens_out"] > 0
    assert receipt["tokens"] == 8 * 16, "what the loop read is what the data receipt says"
    assert len(data["rendered"]) == 3 and "⟦" in data["rendered"][0]
    assert len(data["overlong_rows"]) == 3 and "without_effect" not in receipt


def test_an_option_that_changed_nothing_is_reported(tiny_model: Model) -> None:
    """axolotl-ai-cloud/axolotl#3401: an option was set, did nothing, and nothing said so."""
    made = whet.train(tiny_model, ROWS, steps=1, batch_size=8, overlong="truncate", max_length=200)
    said = made.lineage["step"]["receipt"]["without_effect"]
    longest = made.lineage["step"]["receipt"]["data"]["longest"]
    assert f"overlong: truncate changed nothing, no row is longer than 200 tokens (longest {longest})" in said
    assert any(line.startswith("max_length: 200 changed nothing") for line in said)
    assert "without_effect" not in whet.train(tiny_model, ROWS, steps=1).lineage["step"]["receipt"]


def test_a_selection_that_left_out_nothing_is_reported() -> None:
    """axolotl-ai-cloud/axolotl#3401: a filter that filters nothing looks like one that does."""

    def everything(data: Dataset, context: Context) -> Dataset:
        return data

    def half(data: Dataset, context: Context) -> Dataset:
        return data.select(range(len(data) // 2))

    step = DataStep("d", data="rows", select=(half, everything))
    data, receipt = make_data(step, Dataset.from_list(ROWS), lambda _: None, 0)  # type: ignore[arg-type,return-value]
    assert len(data) == 4
    assert receipt["without_effect"] == ["select everything: left out none of 4 rows"]


RL = {"objective": "grpo", "reward": "exact-answer", "rollouts": {"prompts": 2, "group_size": 2}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**RL, "overlong": "truncate"}, r"train.0.overlong: 'truncate' would not be read: .* rollouts.max_new_tokens"),
        ({**RL, "overlong": "chunk"}, r"train.0.overlong: 'chunk' would not be read"),
        ({**RL, "format": "plain"}, r"train.0.format: .* would not be read, remove it"),
        ({**RL, "batch_size": 4}, r"train.0.batch_size: .* would not be read, remove it"),
        ({**RL, "epochs": 2}, r"train.0.epochs: .* would not be read, remove it"),
        ({"reward": "exact-answer"}, r"train.0.reward: the objective takes no rollouts and would not read this"),
        ({"rollouts": {"prompts": 2}}, r"train.0.rollouts: the objective takes no rollouts and would not read this"),
        ({"excess_length_strategy": "truncate"}, r"train.0.excess_length_strategy: unknown field of a train step"),
        ({"over_long": "truncate"}, r"did you mean 'overlong'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(f"{k}" for k in value),
)
def test_an_option_that_a_stage_does_not_read_is_refused(given: dict[str, Any], message: str) -> None:
    """axolotl-ai-cloud/axolotl#3547: the same option is ignored in RL, and long rows are always dropped."""
    document = {
        "name": "x",
        "data": [{"name": "d", "source": {"name": "nanoworld", "rows": 4}}],
        "train": [{"name": "t", "data": "d", **({} if {"steps", "epochs"} & given.keys() else {"steps": 1}), **given}],
    }
    with pytest.raises(RecipeError, match=message):
        read(document)


def test_what_rl_does_with_long_prompts_is_counted(tiny_model: Model) -> None:
    """axolotl-ai-cloud/axolotl#3547: rows that RL leaves out are left out in silence."""
    rows = [{"prompt": "9" * 400, "answer": "9"}, *({**row, "answer": "4"} for row in ROWS)]
    plan = {"prompts": 9, "group_size": 2, "max_new_tokens": 4}
    made = whet.train(
        tiny_model,
        rows,
        objective="reinforce",
        reward={"name": "pattern", "pattern": "a"},
        rollouts=plan,
        steps=1,
        schedule="sequential",
    )
    assert made.lineage["step"]["receipt"]["provider"]["prompts_too_long"] >= 1
