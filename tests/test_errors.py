"""Messages lead to the right name, also from the words of other tools."""

from __future__ import annotations

import pytest

from whet.cli import main
from whet.errors import ELSEWHERE, RecipeError, unknown
from whet.recipe import read

STEP = {"name": "sft", "data": "rows"}
RECIPE = {"name": "own", "model": "nano", "data": [{"name": "rows", "source": {"name": "nanoworld", "rows": 4}}]}


@pytest.mark.parametrize(
    "theirs", ["learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "reward_funcs"]
)
def test_settings_of_other_libraries_are_led_to_ours(theirs: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown field of a train step '{theirs}': did you mean '{ELSEWHERE[theirs]}'"):
        read({**RECIPE, "train": [{**STEP, theirs: 1}]})


def test_a_name_from_elsewhere_is_not_proposed_where_there_is_no_such_field() -> None:
    assert unknown("field", "learning_rate", ["learning", "r"]).startswith(
        "unknown field 'learning_rate': did you mean 'learning'?"
    )


def test_sizes_that_are_no_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["forecast", "posttrain-power-law", "c.csv", "--at", "abc"])
    assert "argument --at: expected sizes such as 3200,6400, got 'abc'" in capsys.readouterr().err
