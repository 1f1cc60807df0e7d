"""Training to a budget: where it ends, what counts, how the schedule runs, and resuming inside it; measuring on the way."""

import pytest
import torch

from whet.api import dataset
from whet.budget import Budget
from whet.errors import RecipeError
from whet.recipe import build_step
from whet.recipe_steps import TrainStep
from whet.run.making import train_model
from whet.train.length import Length
from whet.train.settings import TrainSettings

ROWS = [{"prompt": f"What is {i} plus 4?", "completion": f"The answer is {i + 4}.", "answer": str(i + 4)} for i in range(40)]
PAIRS = [{**row, "chosen": row["completion"], "rejected": "abc xyz"} for row in ROWS]


def trained(model, rows=ROWS, checkpoint=None, **fields):
    settings = {"batch_size": 4, "lr": 1e-3, "precision": "float32", **fields}
    step = build_step("train", TrainStep, {"name": "s", "data": "d", **settings}, "train")
    return train_model(step, model, dataset(rows), 0, checkpoint)


@pytest.mark.parametrize("unit", ["tokens", "examples", "flops"])
def test_it_ends_with_the_step_nearest_to_the_budget(tiny_model, unit):
    _, whole = trained(tiny_model, steps=20)
    amounts = {"tokens": whole["cost"]["tokens"], "examples": whole["rows"], "flops": whole["cost"]["flops"]}
    _, receipt = trained(tiny_model, budget=f"{0.5 * amounts[unit]} {unit}")
    spent = {"tokens": receipt["cost"]["tokens"], "examples": receipt["rows"], "flops": receipt["cost"]["flops"]}[unit]
    assert receipt["steps"] in (9, 10, 11) and abs(spent / amounts[unit] - 0.5) < 0.03


def test_the_reference_model_counts(tiny_model):
    _, plain = trained(tiny_model, PAIRS, objective="dpo", steps=4)
    tokens = plain["cost"]["tokens"]
    _, receipt = trained(tiny_model, PAIRS, objective="dpo", budget=f"{tokens} tokens")
    assert receipt["steps"] == 4 and receipt["cost"]["tokens"] == tokens


def test_sampling_counts(tiny_model):
    fields = {"objective": {"name": "grpo", "kl": 0.0}, "reward": {"name": "pattern", "pattern": ".*[aeiou].*"}, "lr": 1e-4}
    fields |= {"rollouts": {"prompts": 4, "group_size": 4, "max_new_tokens": 8}}
    del (settings := dict(fields))["lr"]
    step = build_step("train", TrainStep, {"name": "s", "data": "d", **settings, "budget": "3K tokens"}, "train")
    _, receipt = train_model(step, tiny_model, dataset(ROWS), 0, None)
    provider = receipt["provider"]
    own = receipt["tokens"] + provider["prefill_tokens"] + provider["decode_tokens"]
    assert receipt["cost"]["tokens"] == own and abs(own - 3000) < 0.6 * own / receipt["steps"]


def test_the_schedule_runs_over_the_budget(tiny_model):
    _, receipt = trained(tiny_model, budget="4K tokens", lr_schedule="linear", warmup=0.1)
    rates = [entry["lr"] for entry in receipt["curve"]]
    assert rates[0] < rates[2] and max(rates) > 0.8e-3 and rates[-1] < 0.2e-3 and len(set(rates)) == len(rates)


def test_a_run_stopped_inside_a_budget_goes_on_to_the_same_bits(tiny_model, tmp_path):
    class Stop(Exception):
        pass

    fields = {"budget": "3K tokens", "checkpoint_every": 3}
    whole, receipt = trained(tiny_model, **fields)

    def stop(entry):
        if entry.step == 4:
            raise Stop

    from whet.recipe import objectives
    from whet.train.run import train

    with pytest.raises(Stop):
        train(
            tiny_model,
            dataset(ROWS),
            objective=objectives("sft"),
            settings={"batch_size": 4, "lr": 1e-3, "precision": "float32", **fields},
            checkpoint=tmp_path,
            on_step=stop,
        )
    again, resumed = trained(tiny_model, checkpoint=tmp_path, **fields)
    assert resumed["resumed_at"] == 3 and resumed["steps"] == receipt["steps"]
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), again.network.parameters()))


def test_measuring_on_the_way_does_not_touch_the_run(tiny_model):
    task = {"name": "replies", "data": {"name": "nanoworld", "rows": 12}}
    plain, _ = trained(tiny_model, steps=8)
    watched, receipt = trained(tiny_model, steps=8, validate=task, validations=4)
    assert [p["step"] for p in receipt["validation"]] == [2, 4, 6, 8]
    assert [p["examples"] for p in receipt["validation"]] == [8.0, 16.0, 24.0, 32.0]
    assert all(low <= value <= high for p in receipt["validation"] for value, low, high in p["estimates"].values())
    assert receipt["cost"]["tokens"] == receipt["tokens"]
    assert all(torch.equal(a, b) for a, b in zip(plain.network.parameters(), watched.network.parameters()))


def test_under_a_budget_the_measurements_are_as_many(tiny_model):
    task = {"name": "replies", "data": {"name": "nanoworld", "rows": 12}}
    _, receipt = trained(tiny_model, budget="3K tokens", validate=task, validations=3)
    assert len(receipt["validation"]) == 3 and receipt["validation"][-1]["step"] == receipt["steps"]


def test_lengths():
    length = Length(None, Budget(100, "tokens"))
    assert not length.finished(0) and length.position(0) == (0, 1_000_000) and length.expected_steps(0) == 1
    length.count(30)
    assert length.position(1)[0] == 450_000 and length.expected_steps(1) == 3 and length.text(1) == "step 1 (30% of 100 tokens)"
    length.count(60)
    assert not length.finished(2)
    length.count(90)
    assert length.finished(3) and Length(3).finished(3) and not Length(3).finished(2)


@pytest.mark.parametrize("fields", [{"steps": 3, "budget": "1K tokens"}, {"budget": "1K"}, {"budget": "1K steps"}])
def test_lengths_that_say_too_much_or_nothing(fields):
    with pytest.raises(RecipeError, match=r"exactly one of|expected a positive number"):
        TrainSettings(**fields)
