"""Recipes that cannot be carried out: refused with file, line, field, value and the way out, before a model is looked at."""

from __future__ import annotations

from typing import Any

import pytest

import whet
from whet.errors import RecipeError

RECIPE = """\
whet: 1
name: user
model: nano
data:
  - {name: rows, source: {name: nanoworld, rows: 20}}
train:
  - name: sft
    data: rows
    objective: sft
    steps: 1
    batch_size: 4
  - {name: rl, data: rows, objective: dr-grpo, reward: exact-answer, steps: 1, rollouts: {prompts: 4, group_size: 2}}
quantize:
  - {name: w4, model: sft, data: rows, group_size: 32}
measure:
  - {name: scores, models: [sft], tasks: [{name: answers, limit: 4, data: {name: nanoworld, rows: 10}}]}
"""


def changed(wrong: str, right: str) -> str:
    assert right in RECIPE
    return RECIPE.replace(right, wrong, 1)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("objective: sft", "objective: sfft", "recipe.yaml:9: train.0.objective: unknown objective 'sfft': did you mean 'sft'?"),
        (
            "{name: nanoworld, rows: 20}",
            "{name: nanowrld}",
            "recipe.yaml:5: data.0.source: unknown source 'nanowrld': did you mean",
        ),
        ("name: answers", "name: anwsers", "measure.0.tasks.0: unknown task 'anwsers': did you mean 'answers'?"),
        (
            "reward: exact-answer",
            "reward: exact-anser",
            "train.1.reward: unknown reward 'exact-anser': did you mean 'exact-answer'?",
        ),
        ("quantize:", "quantise:", "recipe.yaml:13: quantise: unknown section 'quantise': did you mean 'quantize'?"),
    ],
)
def test_unknown_part_or_task(user: Any, right: str, wrong: str, message: str) -> None:
    user.refused(changed(wrong, right), message, commands=("run", "check"))


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            "batch_size: 4",
            "batchsize: 4",
            "recipe.yaml:11: train.0.batchsize: unknown field of a train step 'batchsize': did you mean 'batch_size'?",
        ),
        (
            "group_size: 32",
            "groupsize: 32",
            "recipe.yaml:14: quantize.0.groupsize: unknown field of a quantize step 'groupsize': did you mean 'group_size'?",
        ),
        (
            "limit: 4",
            "limits: 4",
            "recipe.yaml:16: measure.0.tasks.0.limits: unknown field of task 'answers' 'limits': did you mean 'limit'?",
        ),
        (
            "prompts: 4",
            "promts: 4",
            "recipe.yaml:12: train.1.rollouts.promts: unknown field of rollouts 'promts': did you mean 'prompts'?",
        ),
        ("steps: 1", "1: 2", "recipe.yaml:10: train.0.1: unknown field of a train step '1'"),
    ],
)
def test_unknown_field(user: Any, right: str, wrong: str, message: str) -> None:
    user.refused(changed(wrong, right), message)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("steps: 1", "steps: many", "recipe.yaml:10: train.0.steps: Input should be a valid integer"),
        ("steps: 1", "steps: true", "train.0.steps: expected a number; got True"),
        (
            "batch_size: 4",
            "batch_size: 1.5",
            "train.0.batch_size: Input should be a valid integer, got a number with a fractional part; got 1.5",
        ),
        ("batch_size: 4", "lr: .inf", "recipe.yaml:11: train.0.lr: expected a finite number; got inf"),
        ("batch_size: 4", "lr: .nan", "recipe.yaml:11: train.0.lr: "),
        (
            "objective: sft",
            "objective: 3",
            "recipe.yaml:9: train.0.objective: expected the name of an objective or a mapping with 'name', got 3",
        ),
        ("objective: sft", "objective: [3]", "train.0.objective.0: expected an objective's name or a mapping"),
        (
            "objective: sft",
            "objective: [{name: sft, weight: .nan}]",
            "train.0.objective.0.weight: expected a finite number, got nan",
        ),
        ("models: [sft]", "models: sft", "measure.0.models: Input should be a list; got 'sft'"),
        (
            "tasks: [{name: answers, limit: 4, data: {name: nanoworld, rows: 10}}]",
            "tasks: []",
            "measure.0.tasks: the list is empty",
        ),
        ("model: nano", "model: [nano]", "recipe.yaml:3: model: expected a model's name, folder or hub id"),
        ("name: user", "name: [user]", "recipe.yaml:2: name: a recipe needs a name"),
        ("name: user", "name: user\nseed: 1.5", "recipe.yaml:3: seed: expected an integer from 0"),
        ("name: user", "name: user\nseed: 99999999999999999999", "seed: expected an integer from 0"),
        ("name: user", "name: user\nabout: [1]", "recipe.yaml:3: about: expected text, got [1]"),
        ("group_size: 32", "group_size: row", "quantize.0.group_size: "),
    ],
)
def test_wrong_type(user: Any, right: str, wrong: str, message: str) -> None:
    user.refused(changed(wrong, right), message)


@pytest.mark.parametrize(
    ("right", "wrong", "field"),
    [
        ("steps: 1", "steps: 0", "train.0.steps"),
        ("steps: 1", "steps: -5", "train.0.steps"),
        ("steps: 1", "tokens: 0", "train.0.tokens"),
        ("steps: 1", "epochs: -0.5", "train.0.epochs"),
        ("batch_size: 4", "batch_size: 0", "train.0.batch_size"),
        ("prompts: 4", "prompts: 0", "train.1.rollouts.prompts"),
        ("group_size: 2", "group_size: -1", "train.1.rollouts.group_size"),
        ("prompts: 4", "max_new_tokens: 0", "train.1.rollouts.max_new_tokens"),
        ("group_size: 32", "group_size: 0", "quantize.0.group_size"),
        ("group_size: 32", "rows: 0", "quantize.0.rows"),
        ("limit: 4", "limit: 0", "measure.0.tasks.0.limit"),
        ("limit: 4", "samples: -1", "measure.0.tasks.0.samples"),
    ],
)
def test_budget_zero_or_negative(user: Any, right: str, wrong: str, field: str) -> None:
    value = wrong.rpartition(" ")[2]
    user.refused(changed(wrong, right), f"{field}: Input should be greater than 0", f"got {value}")


@pytest.mark.parametrize("budget", ["0 tokens", "-3 steps", "nan tokens", "many steps", "5 lightyears"])
def test_budget_in_python(user: Any, budget: str) -> None:
    with pytest.raises(RecipeError, match="budget"):
        whet.train(user.model, [{"prompt": "a", "completion": "b"}], budget=budget)
    assert not user.forwards


def test_a_recipe_from_a_newer_version(user: Any) -> None:
    user.refused(
        changed("whet: 2", "whet: 1"), "recipe.yaml:1: whet: this recipe has format 2, this whet reads up to 1; update whet"
    )
    user.refused(changed("whet: yes", "whet: 1"), "whet: expected the version of the recipe format, 1, got True")


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just text"])
def test_empty_recipe(user: Any, text: str) -> None:
    user.refused(text, "recipe.yaml: a recipe is a mapping with 'name', 'model' and sections such as 'data'")


def test_step_names_that_are_taken(user: Any) -> None:
    user.refused(changed("{name: sft, data", "{name: rl, data"), "recipe.yaml:12: train.1.name: two steps are called 'sft'")
    user.refused(changed("name: base", "name: sft"), "two steps are called 'base'", "'base' is the recipe's model")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a/b", "holds '/'"),
        ("a:b", "holds ':'"),
        ("..", "begins with '.'"),
        ('""', "is empty"),
        ("'7'", "is a number"),
        ("a" * 99, "99 characters"),
    ],
)
def test_names_that_could_not_stand_in_a_path(user: Any, name: str, problem: str) -> None:
    user.refused(
        changed(f"{{name: {name}, model: sft", "{name: w4, model: sft"),
        "recipe.yaml:14: quantize.0.name: the name",
        problem,
        "take letters",
    )
    user.refused(changed(f"name: {name}", "name: user"), "recipe.yaml:2: name: the name", problem)


def test_references(user: Any) -> None:
    user.refused(changed("model: sff, data", "model: sft, data"), "quantize.0.model: unknown stage 'sff': did you mean 'sft'?")
    user.refused(changed("data: row\n", "data: rows\n"), "train.0.data: unknown data step 'row': did you mean 'rows'?")
    user.refused(changed("data: rows\n    model: rl\n", "data: rows\n"), "the steps sft, rl, w4, scores wait for each other")
    user.refused(changed("{name: w4, model: w4", "{name: w4, model: sft"), "quantize.0.model: stage 'w4' is quantized")
    again = RECIPE.replace("measure:", "  - {name: w3, model: w4, data: rows}\nmeasure:")
    user.refused(again, "recipe.yaml:15: quantize.1.model: stage 'w4' is quantized", "take the stage that it was made from")


def test_a_reference_to_a_step_that_is_written_later(user: Any) -> None:
    early = {"name": "a", "data": "rows", "model": "b", "steps": 1, "batch_size": 4}
    late = {"name": "b", "data": "rows", "model": "base", "steps": 1, "batch_size": 4, "seed": 1}
    status, printed, message = user.run(user.recipe(train=[early, late]))
    assert status == 0, message
    assert printed.index("[train] b") < printed.index("[train] a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n\tmodel: y\n", "line 2, column 1"),
        ("name: x\n\tmodel: y\n", "indented with spaces, not with tabs"),
        ("name: x\nmodel: nano\nname: y\n", "recipe.yaml:3: name is given twice; keep one"),
        ("name: x\ndata: &a [*a]\n", "recipe.yaml:2: data.0: this anchor contains itself"),
        ("name: x\n---\nname: y\n", "expected a single document"),
        ("name: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("name: !!bool maybe\n", "not readable as YAML: KeyError: 'maybe'"),
        ("? [a, b]\n: 1\n", "found unhashable key"),
        (b"name: \xff\n", "cannot be read as UTF-8 text"),
        (b"name: x\0y\n", "special characters are not allowed"),
        ("name: x\n".encode("utf-16"), "cannot be read as UTF-8 text"),
        ("name: [" + "[" * 1500, "not readable as YAML"),
    ],
)
def test_yaml_that_is_none_or_not_meant(user: Any, text: Any, message: str) -> None:
    user.refused(text, message)


def test_anchors_that_multiply(user: Any) -> None:
    lines = ["name: x", "a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefghijk", "bcdefghijkl")]
    user.refused("\n".join(lines), "aliases (*name) multiply into more than 100,000 fields")


def test_byte_order_mark_and_windows_line_ends_are_read(user: Any) -> None:
    assert user.run(b"\xef\xbb\xbf" + b"name: x\r\nmodel: nano\r\n")[0] == 0


def test_a_recipe_that_is_a_folder_or_not_there(user: Any) -> None:
    status, _, message = user.call("run", str(user.folder))
    assert status == 2 and "this is a folder" in message
    status, _, message = user.call("run", "quickstrat")
    assert status == 2 and "did you mean 'quickstart'?" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.0.lr", "override 'train.0.lr': write path=value, as in train.0.lr=1e-4"),
        ("train.sftt.lr=1", "override 'train.sftt.lr=1': unknown step 'sftt': did you mean 'sft'?"),
        ("train..lr=1", "write path=value"),
        ("." * 50 + "=1", "write path=value"),
        ("train.0.lr=[1", "override 'train.0.lr=[1': not readable as YAML"),
        ("train.0.steps=&a [*a]", "this anchor contains itself"),
        ("train.0.step=3", "train.0.step: unknown field of a train step 'step': did you mean 'steps'?"),
        ("train.0.steps=0", "train.0.steps: Input should be greater than 0; got 0"),
    ],
)
def test_overrides(user: Any, override: str, message: str) -> None:
    user.refused(RECIPE, message, overrides=(override,))


def test_a_method_that_selects_without_a_task(user: Any) -> None:
    edit = "edit:\n  - {name: mix, models: [sft, rl], method: soup-greedy}\nquantize:"
    user.refused(changed(edit, "quantize:"), "edit.0.score: this method selects on held-out data and needs a task")
    user.refused(changed(edit.replace("[sft, rl]", "[]"), "quantize:"), "edit.0.models: the list is empty")
