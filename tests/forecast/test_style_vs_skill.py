"""Errors of form and of reasoning, told apart by hand-made replies and in a task's result."""

from __future__ import annotations

import pytest

from whet import parts
from whet.errors import DataError
from whet.measure.metrics.style_vs_skill import KINDS, error_of, error_shares, score_of, style_vs_skill
from whet.measure.outcome import Outcome
from whet.model import Model

STATES = ["7", "9", "3"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("7\n9\n3", ("format", 0)),
        ("", ("format", 0)),
        ("#### 4", ("format", 0)),
        ("7\n3\n#### 3", ("format", 0)),
        ("7\n8\n2\n#### 2", ("step", 2)),
        ("1\n9\n4\n#### 4", ("step", 1)),
        ("7\n9\n4\n#### 4", ("step", 3)),
        ("7\n9\n3\n#### 5", ("other", 0)),
    ],
)
def test_a_wrong_reply_is_one_of_three(reply: str, expected: tuple[str, int]) -> None:
    assert error_of(reply, STATES, False) == expected
    assert error_of(reply, STATES, True) is None


def test_shares_over_completions_add_up_with_accuracy() -> None:
    shares = error_shares(
        ["#### 4", "7\n8\n2\n#### 2", "7\n9\n3\n#### 3", "7\n9\n3\n#### 5"], STATES, [False, False, True, False]
    )
    assert shares == {"format_error": 0.25, "step_error": 0.25, "other_error": 0.25}


def test_the_rate_has_wilsons_interval_and_needs_the_scores() -> None:
    outcomes = [Outcome(str(i), 0.0, scores={score_of("format"): float(i < 3)}) for i in range(10)]
    found = style_vs_skill(outcomes)
    assert (found.value, found.n, found.method) == (0.3, 10, "wilson")
    with pytest.raises(DataError, match="no score 'step_error'"):
        style_vs_skill(outcomes, kind="step")


def test_a_task_gives_the_rates_only_on_request(tiny_model: Model) -> None:
    settings = {"name": "answers", "data": {"name": "chain-mod10", "rows": 10, "separator": "\n"}, "max_new_tokens": 4, "by": []}
    plain = parts.build("task", settings)(tiny_model)
    told = parts.build("task", {**settings, "errors": True})(tiny_model)
    assert "format_error" not in plain.estimates and "first wrong step" not in plain.receipt
    assert sum(told.estimates[score_of(kind)].value for kind in KINDS) + told.estimates["accuracy"].value == pytest.approx(1)
    assert told.receipt["first wrong step"] == {}
    with pytest.raises(DataError, match="a row has no 'states'"):
        rows = parts.build("source", {"name": "chain-mod10", "rows": 10})("test").remove_columns("states")
        parts.build("task", {**settings, "data": lambda split: rows, "errors": True})(tiny_model)
