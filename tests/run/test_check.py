"""``whet check`` measures the invariants on the recipe's own model and rows, and fails when one is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whet.model import Model
from whet.recipe import objectives, read
from whet.run import check
from whet.run.check import check_recipe
from whet.run.forecast import Generation, forecast_recipe
from whet.train import invariants
from whet.train.run import train

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


MIXED: dict[str, Any] = {"name": "skill-it", "every": 4, "measure_every": 2, "held_out": 5}


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({"steps": 7}, MIXED),
        ({"steps": 7}, {**MIXED, "learn": "alone", "learn_steps": 3}),
        ({"steps": 7}, {**MIXED, "learn": "pairs", "learn_steps": 3}),
        ({"steps": 7}, {**MIXED, "targets": ["2"], "validation": {"name": "lego-chain", "length": 3, "rows": 9}}),
        ({"epochs": 2}, MIXED),
        ({"budget": "60 examples"}, {**MIXED, "learn": "alone", "learn_steps": 2}),
        ({"budget": "9K tokens"}, {**MIXED, "learn": "alone", "learn_steps": 3}),
        ({"steps": 7}, {"name": "stratified", "every": 4}),
    ],
)
def test_the_forecast_counts_what_a_mixture_measures(tiny_model: Model, settings: Any, schedule: Any) -> None:
    step = {"name": "t", "data": "d", "batch_size": 8, "lr": 1e-3, "schedule": schedule, **settings}
    data = {"name": "d", "source": {"name": "lego-chain", "length": 3, "rows": 60}}
    recipe = read({"name": "r", "model": "nano", "data": [data], "train": [step]})
    rows, asked = check.rows_of(recipe, "d"), recipe.section("train")[0]
    units, _ = check._prepare(asked, tiny_model, rows)
    (found,) = forecast_recipe(recipe, tiny_model, {"t": units}, Generation(0.0, 0.0), lambda _: rows).steps
    _, receipt = train(
        tiny_model, rows, objective=objectives("sft"), settings=dict(asked.settings), schedule=schedule, checkpoint=None
    )
    assert found.tokens == pytest.approx(receipt["cost"]["tokens"], rel=0.06)
    measured = receipt["provider"]["measured_tokens"]
    assert ("read to decide the mixture" in found.basis) == (measured > 0)


def test_chats_of_a_file_are_sampled_and_their_measuring_is_forecast(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    turns = [[{"role": "user", "content": f"{i} + 1?"}, {"role": "assistant", "content": str(i + 1)}] for i in range(20)]
    file.write_text("".join(json.dumps({"messages": chat, "answer": "1"}) + "\n" for chat in turns))
    source = {"name": "file", "path": str(file)}
    found = check_recipe(
        {
            "name": "chats",
            "model": "nano",
            "data": [{"name": "own", "source": source}],
            "train": [{"name": "sft", "data": "own", "steps": 1, "batch_size": 4}],
            "measure": [{"name": "scores", "tasks": [{"name": "answers", "data": {**source, "test": 0.3}}]}],
        }
    )
    assert [s["prompt"] for s in found.samples] == [f"{i} + 1?" for i in range(10)]
    measuring = found.forecast.steps[-1]
    assert measuring.name == "scores" and measuring.tokens > 0 and measuring.basis == "2 stages"
    assert "scores: answers" in found.forecast.detectable
    assert len(found.notes) == 1 and "scores: answers: measured on rows that were trained on" in found.notes[0]
