"""Studies: points dealt out, the trial that counts, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from whet.errors import RecipeError
from whet.run.compare.jobs import Done, Job
from whet.run.compare.plan import make_plan
from whet.run.compare.studies import as_trial, best_value, dealt, winner
from whet.run.compare.target import first_reaching
from whet.run.compare.tuning import Range, points

LR = [Range.parse("lr", "1e-3..1")]


def trial(values: list[float], metric: str = "perplexity", error: str = "", lr: float = 0.1) -> Done:
    points = [{"step": 10 * (n + 1), "tokens": 100 * (n + 1), "estimates": {metric: [v, v, v]}} for n, v in enumerate(values)]
    return Done(Job("a", 0, {}, {"lr": lr}), curves={"net": {"curve": [], "validation": points}} if values else {}, error=error)


def test_studies_share_one_sequence_and_no_point() -> None:
    deal = dealt(LR, 5, [7, 8, 9])
    assert list(deal) == [7, 8, 9] and all(len(mine) == 5 for mine in deal.values())
    assert [point for mine in deal.values() for point in mine] == points(LR, 15)
    assert len({point["lr"] for mine in deal.values() for point in mine}) == 15
    for mine in deal.values():
        # Each study covers the range: no half of it is left out.
        logs = sorted(math.log10(point["lr"]) for point in mine)
        assert logs[0] < -1.5 < logs[-1]


def test_the_first_to_reach_the_target_counts() -> None:
    late, early, never = trial([9, 5, 2]), trial([9, 3, 3]), trial([4, 4, 4])
    assert winner([late, early, never], ("perplexity", 3.0), "tokens") is early
    assert first_reaching(early.curves["net"]["validation"], ("perplexity", 3.0), "step") == 20
    assert as_trial(never, ("perplexity", 3.0), "tokens")["score"] == math.inf
    assert as_trial(trial([], error="NaN"), ("perplexity", 3.0), "tokens") == {
        "values": {"lr": 0.1, "seed": 0},
        "score": None,
        "error": "NaN",
    }


def test_without_a_trial_that_reaches_it_the_nearest_stands_and_a_failure_never_does() -> None:
    failed, far, near = trial([], error="NaN"), trial([9, 8, 8]), trial([9, 5, 7])
    assert winner([failed, far, near], ("perplexity", 1.0), "tokens") is near
    assert best_value(near, "perplexity") == 5 and best_value(failed, "perplexity") == math.inf
    high = [trial([], error="NaN"), trial([0.2, 0.6], "accuracy"), trial([0.5, 0.4], "accuracy")]
    assert winner(high, ("accuracy", 0.9), "tokens") is high[1] and best_value(high[0], "accuracy") == -math.inf


def test_a_metric_that_is_not_watched_is_named() -> None:
    with pytest.raises(RecipeError, match="target: 'loss' is none of what is watched while training: perplexity"):
        winner([trial([3.0])], ("loss", 1.0), "tokens")


def test_studies_need_a_target_and_a_range() -> None:
    task = {"name": "answers", "data": {"name": "chain-mod10", "rows": 8}, "split": "validation"}
    document: dict[str, Any] = {
        "name": "small",
        "data": [{"name": "rows", "source": "chain-mod10"}],
        "train": [{"name": "net", "data": "rows", "steps": 2, "validate": task}],
        "measure": [{"name": "test", "tasks": [task]}],
    }
    asked = {"variants": {"a": {}, "b": {"train.0.optimizer": "nesterov"}}, "studies": True}
    with pytest.raises(RecipeError, match=r"compare.studies: a study tunes to reach a target soon; give 'tune' too"):
        make_plan(document, **asked, target="accuracy=0.5")
    with pytest.raises(RecipeError, match="give 'target' too"):
        make_plan(document, **asked, tune={"lr": "1e-3..1"})
    assert make_plan(document, **asked, tune={"lr": "1e-3..1"}, target="accuracy=0.5").asked.studies
