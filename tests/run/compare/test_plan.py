"""What a comparison is asked: variants, seeds, budgets, ranges; and every way of asking for what cannot be done."""

import pytest

from whet.budget import Budget
from whet.errors import RecipeError
from whet.run.compare.graph import with_budget
from whet.run.compare.jobs import document_for
from whet.run.compare.plan import make_plan
from whet.run.compare.tuning import Range, points
from whet.run.compare.variants import vary_argument

MEASURE = [{"name": "scores", "tasks": [{"name": "nanoworld", "data": {"name": "nanoworld", "rows": 20}}]}]


def recipe(**changes):
    document = {
        "name": "tiny",
        "model": "nano",
        "data": [{"name": "rows", "source": {"name": "nanoworld", "rows": 40}}],
        "train": [
            {"name": "first", "data": "rows", "steps": 2, "lr": 1e-3},
            {"name": "second", "data": "rows", "steps": 2, "lr": 1e-3},
        ],
        "quantize": [{"name": "small", "bits": 4, "data": "rows"}],
        "measure": MEASURE,
    }
    return {**document, **changes}


def test_the_product_of_what_varies():
    plan = make_plan(recipe(), vary={"train.0.objective": ["sft", "masked-thought"], "train.0.lr": [1e-3, 1e-4]}, seeds=2)
    assert [v.name for v in plan.variants] == [
        "sft, lr=0.001",
        "sft, lr=0.0001",
        "masked-thought, lr=0.001",
        "masked-thought, lr=0.0001",
    ]
    assert plan.variants[3].document["train"][0]["objective"] == "masked-thought" and plan.seeds == (0, 1)
    assert set(plan.stages.values()) == {"small"}


def test_the_file_and_the_command_line_say_the_same():
    asked = {"vary": {"train.first.objective": ["sft", "masked-thought"]}, "seeds": [3, 5], "budget": "1M tokens"}
    written, given = make_plan(recipe(compare=asked)), make_plan(recipe(), **asked)
    assert written == given and written.budget == Budget(1e6, "tokens") and written.budget_step == "first"
    assert make_plan(written.document).variants == written.variants


def test_the_command_line_wins_over_the_file():
    plan = make_plan(recipe(compare={"vary": {"train.0.lr": [1e-3, 1e-4]}, "seeds": 9}), seeds=2)
    assert plan.seeds == (0, 1)


def test_parts_of_one_name_are_told_apart():
    plan = make_plan(recipe(), vary={"train.0.adapter": ["lora", {"name": "lora", "r": 4}, {"name": "lora", "r": 8}]})
    assert [v.name for v in plan.variants] == ["lora", "lora(r=4)", "lora(r=8)"]


def test_listed_variants_may_judge_different_stages():
    variants = {"plain": {"train.0.lr": 1e-3}, "smaller": {"quantize.0.bits": 3}}
    plan = make_plan(recipe(), variants=variants, stage={"plain": "second"})
    assert plan.stages == {"plain": "second", "smaller": "small"}


def test_a_job_holds_only_what_its_stage_is_made_from():
    document = document_for(recipe(), "first", seed=7, name="job")
    assert [s["name"] for s in document["train"]] == ["first"] and "quantize" not in document and document["seed"] == 7
    assert document["measure"][0]["models"] == ["first"]
    limited = with_budget(document, "first", "9 tokens")
    assert limited["train"][0]["budget"] == "9 tokens" and "steps" not in limited["train"][0]


def test_a_step_keeps_its_parent_when_steps_between_are_left_out():
    train = [
        {"name": "a", "data": "rows", "steps": 1},
        {"name": "unread", "data": "rows", "steps": 1},
        {"name": "b", "data": "rows", "steps": 1, "model": "a"},
    ]
    document = document_for(recipe(train=train, quantize=[]), "b", seed=0, name="job")
    assert [(s["name"], s.get("model")) for s in document["train"]] == [("a", None), ("b", "a")]


def test_values_on_the_command_line_are_yaml():
    assert vary_argument("train.0.lr=1e-3,1e-4") == ("train.0.lr", [1e-3, 1e-4])
    assert vary_argument("a={name: dpo, beta: 0.3},sft")[1] == [{"name": "dpo", "beta": 0.3}, "sft"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "give either 'vary'"),
        ({"vary": {"train.0.lr": [1e-3]}}, "a comparison needs at least two"),
        ({"vary": {"train.0.lr": 3}}, "expected a list of values"),
        ({"vary": {"train.0.objective": ["sft", "dpoo"]}}, "variant 'dpoo': train.0.objective.*did you mean 'dpo'"),
        ({"vary": {"train.0.lr": [1, 2]}, "seeds": 0}, "seeds: expected how many"),
        ({"vary": {"train.0.lr": [1, 2]}, "seeds": [1, 1]}, "a seed comes twice"),
        ({"vary": {"train.0.lr": [1, 2]}, "budget": "0 tokens"}, "compare.budget: expected a positive number"),
        ({"vary": {"train.0.lr": [1, 2]}, "budget": "5 apples"}, "of tokens, examples, flops or seconds"),
        ({"vary": {"train.0.lr": [1, 2]}, "stage": "secnd"}, "did you mean 'second'"),
        ({"vary": {"train.0.lr": [1, 2]}, "tune": {"lr": "1e-2..1e-4"}}, "its first end below the second"),
        (
            {"vary": {"train.0.objective": ["sft", "masked-thought"]}, "tune": {"lr": "1e-4..1e-2"}},
            "measure step named 'validation'",
        ),
        (
            {"vary": {"train.0.objective": ["sft", "masked-thought"]}, "tune": {"lrr": "1e-4..1e-2"}},
            "variant 'sft': train.1.lrr: unknown field .* did you mean 'lr'",
        ),
        ({"vary": {"train.0.lr": [1, 2]}, "target": "accuracy"}, "write metric=value"),
        ({"vary": {"train.0.lr": [1, 2]}, "target": "accuracy=nan"}, "write metric=value"),
        ({"vary": {"train.0.lr": [1, 2]}, "tasks": ["nanoword"]}, "tasks: unknown task 'nanoword'"),
        ({"vary": {"train.0.lr": [1, 2], "train.first.lr": [3, 4]}}, r"train.first.lr is set twice \(as train.0.lr too\)"),
        ({"vary": {"seed": [1, 2]}}, "are the same recipe.*for more seeds there is 'seeds'"),
        ({"variants": {"a": {}, "b": {"train.0.lr": 1e-3}}}, "'a' and 'b' are the same recipe"),
        ({"variants": {"a": {}, "b": {"train.1.lr": 1e-2}}, "stage": "first"}, "'a' and 'b' are the same recipe"),
        ({"vary": {"train.0.lr": [1, 2]}, "sedes": 3}, "did you mean 'seeds'"),
        ({"vary": {"train.0.lr": [1, 2]}, "budget_step": "third", "budget": "1M tokens"}, "train step of all variants"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(asked, message):
    with pytest.raises(RecipeError, match=message):
        make_plan(recipe(), **asked)


def test_a_field_that_varies_is_not_tuned_too():
    measured = [*MEASURE, {**MEASURE[0], "name": "validation"}]
    with pytest.raises(RecipeError, match=r"train.second.lr is set twice \(as train.1.lr too\)"):
        make_plan(recipe(measure=measured), vary={"train.1.lr": [1e-3, 1e-2]}, tune={"lr": "1e-4..1e-2"})


def test_variants_that_differ_in_what_measures_them_only_are_two():
    plan = make_plan(recipe(), vary={"measure.0.tasks.0.data.rows": [20, 30]})
    assert len(plan.variants) == 2


def test_a_field_of_the_section_can_be_overridden():
    asked = {"vary": {"train.0.lr": [1e-3, 1e-4]}, "seeds": 9}
    assert make_plan(recipe(compare=asked), ["compare.seeds=2"]).seeds == (0, 1)


def test_nothing_measured_is_nothing_to_compare():
    with pytest.raises(RecipeError, match="a comparison needs a task to judge by"):
        make_plan(recipe(measure=[]), vary={"train.0.lr": [1, 2]})


def test_points_are_the_same_for_all_and_even_on_a_log_scale():
    ranges = [Range.parse("train.0.lr", "1e-5..1e-1"), Range.parse("train.0.batch_size", "8..16")]
    few, many = points(ranges, 4), points(ranges, 64)
    assert many[:4] == few
    below = sum(p["train.0.lr"] < 1e-3 for p in many)
    assert 28 <= below <= 36 and all(
        isinstance(p["train.0.batch_size"], int) and 8 <= p["train.0.batch_size"] <= 16 for p in many
    )


@pytest.mark.parametrize("text", ["2M tokens", "2M-tokens", "2000000 tokens", "2e6_tokens", "2m Tokens"])
def test_a_budget_may_be_written_in_several_ways(text):
    assert Budget.parse(text) == Budget(2e6, "tokens")


@pytest.mark.parametrize("text", ["", "tokens", "-1 tokens", "1..2 tokens", "nan tokens", "2M", "1 token"])
def test_what_is_no_budget(text):
    with pytest.raises(RecipeError, match="expected a positive number"):
        Budget.parse(text)
