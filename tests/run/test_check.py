"""``whet check`` measures the invariants on the recipe's own model and rows, and fails when one is broken."""

from __future__ import annotations

from typing import Any

import pytest

from whet.run import check
from whet.run.check import check_recipe
from whet.train import invariants

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": "nano",
    "data": [
        {"name": "chats", "source": {"name": "nanoworld", "rows": 40}},
        {"name": "pairs", "source": {"name": "nanoworld", "rows": 20, "form": "preference"}},
    ],
    "train": [
        {"name": "sft", "data": "chats", "epochs": 1, "batch_size": 8},
        {"name": "dpo", "data": "pairs", "objective": "dpo", "epochs": 1, "batch_size": 8},
        {
            "name": "rl",
            "data": "chats",
            "objective": "dr-grpo",
            "reward": "exact-answer",
            "steps": 2,
            "rollouts": {"prompts": 2, "group_size": 2, "max_new_tokens": 8},
        },
    ],
    "edit": [{"name": "mix", "models": ["sft", "dpo"], "method": "soup"}],
    "measure": [{"name": "scores", "tasks": [{"name": "nanoworld", "limit": 100}]}],
}


@pytest.fixture(scope="module")
def result() -> check.CheckResult:
    return check_recipe(RECIPE)


def test_every_invariant_holds_on_the_bundled_model(result: check.CheckResult) -> None:
    assert result.passed
    names = [c.name for c in result.checks]
    for wanted in ("sft: accumulation", "dpo: packing", "sampler and trainer", "merging", "resume", "greedy ignores batch"):
        assert wanted in names


def test_rows_samples_and_forecast_are_shown(result: check.CheckResult) -> None:
    assert len(result.rendered["sft"]) == 3 and "⟦" in result.rendered["sft"][0]
    assert len(result.samples) == 10 and 0 <= result.ended <= 10
    assert {s.name for s in result.forecast.steps} == {"sft", "dpo", "rl", "scores"}
    assert result.forecast.seconds > 0
    (n, difference), *_ = result.forecast.detectable.values()
    assert n == 100 and 0 < difference < 0.2
    assert "forecast: about" in result.text() and result.data()["passed"]


def test_a_broken_invariant_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    real = invariants.pack

    def per_micro_batch(*args: Any, **kwargs: Any) -> Any:
        """The classic mistake: each micro-batch divides by its own tokens."""
        batches = real(*args, **kwargs)
        return [b.replace(totals=invariants.count([e for e in args[0] if e.unit in b.unit.tolist()])) for b in batches]

    monkeypatch.setattr(invariants, "pack", per_micro_batch)
    small = {k: RECIPE[k] for k in ("name", "model")} | {"data": RECIPE["data"][:1], "train": RECIPE["train"][:1]}
    broken = check_recipe(small)
    assert not broken.passed
    assert "BROKEN  sft: accumulation" in broken.text()
