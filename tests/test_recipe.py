"""A recipe is refused before any compute, with file, line, field, value and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import RecipeError
from whet.recipe import read
from whet.recipe_text import apply_override

GOOD = """\
whet: 1
name: small
model: nano
data:
  - {name: problems, source: {name: nanoworld, rows: 20}}
train:
  - name: sft
    data: problems
    objective: sft
    epochs: 1
    lr: 1e-3
  - {name: second, data: problems, epochs: 1, objective: [{name: sft, weight: 0.5}, {name: masked-thought, p: 0.2}]}
quantize:
  - {name: w4, model: sft, data: problems, bits: 4}
measure:
  - {name: scores, tasks: [{name: answers, data: {name: nanoworld, rows: 10}}]}
"""


def _read(tmp_path: Path, text: str, *overrides: str) -> object:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return read(file, overrides)


def test_steps_default_to_the_stage_before_them(tmp_path: Path) -> None:
    recipe = _read(tmp_path, GOOD)
    assert [step.name for _, step in recipe.steps] == ["problems", "sft", "second", "w4", "scores"]
    assert recipe.step("sft").model == "base"
    assert recipe.step("second").model == "sft"
    assert recipe.step("sft").settings["lr"] == "1e-3"


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        (
            "objective: sft\n",
            "objective: sfft\n",
            r"recipe\.yaml:9: train\.0\.objective: unknown objective 'sfft': did you mean 'sft'",
        ),
        ("lr: 1e-3", "learnrate: 1e-3", r"recipe\.yaml:11: train\.0\.learnrate: unknown field of a train step 'learnrate'"),
        ("lr: 1e-3", "lr: fast", r"recipe\.yaml:11: train\.0\.lr: .*got 'fast'"),
        ("model: sft,", "model: sff,", r"recipe\.yaml:14: quantize\.0\.model: unknown stage 'sff': did you mean 'sft'"),
        (
            "name: second, data: problems,",
            "name: second, data: problem,",
            r"train\.1\.data: unknown data step 'problem': did you mean 'problems'",
        ),
        ("name: second", "name: sft", "two steps are called 'sft'"),
        ("whet: 1", "whet: 9", r"recipe\.yaml:1: whet: this recipe has format 9"),
        ("quantize:", "quantise:", "unknown section 'quantise': did you mean 'quantize'"),
        ("name: small", "name: [1]", "a recipe needs a name"),
        ("    lr: 1e-3", "    lr: 1e-3\n    lr: 2e-3", r"recipe\.yaml:12: train\.0\.lr is given twice"),
        (
            "    lr: 1e-3",
            "    reward: exact-answer",
            r"train\.0\.reward: the objective takes no rollouts and would not read this",
        ),
        ("objective: sft\n", "objective: grpo\n", r"train\.0\.reward: this objective learns from rollouts and needs a reward"),
        ("    data: problems\n", "", r"train\.0\.data: a train step needs this field"),
    ],
)
def test_a_wrong_recipe_names_line_field_and_way_out(tmp_path: Path, wrong: str, right: str, message: str) -> None:
    assert wrong in GOOD
    with pytest.raises(RecipeError, match=message):
        _read(tmp_path, GOOD.replace(wrong, right, 1))


def test_broken_yaml_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not readable as YAML"):
        _read(tmp_path, "name: [unclosed")
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        _read(tmp_path, "- 1\n- 2\n")
    with pytest.raises(RecipeError, match="no such recipe file"):
        read(tmp_path / "absent.yaml")


def test_steps_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    text = GOOD.replace("name: sft\n    data", "name: sft\n    model: second\n    data")
    with pytest.raises(RecipeError, match="wait for each other"):
        _read(tmp_path, text)


def test_overrides_reach_steps_by_position_and_name(tmp_path: Path) -> None:
    recipe = _read(tmp_path, GOOD, "train.0.objective=masked-thought", "train.sft.objective.p=0.3", "seed=5")
    assert recipe.seed == 5
    assert recipe.document["train"][0]["objective"] == {"name": "masked-thought", "p": 0.3}
    with pytest.raises(RecipeError, match="unknown step 'sftt': did you mean 'sft'"):
        _read(tmp_path, GOOD, "train.sftt.lr=1")
    with pytest.raises(RecipeError, match="write path=value"):
        _read(tmp_path, GOOD, "train.0.lr")


def test_an_override_leaves_the_document_as_it_was() -> None:
    document = {"train": [{"name": "a", "objective": "sft"}]}
    changed = apply_override(document, "train.a.objective.p=0.1")
    assert document["train"][0]["objective"] == "sft"
    assert changed["train"][0]["objective"] == {"name": "sft", "p": 0.1}


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab:{}[]-\n \t'\"", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "model", "train", "data", "seed", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(_JUNK)
def test_junk_is_refused_with_a_recipe_error_and_nothing_else(junk: object) -> None:
    if not isinstance(junk, dict):
        junk = {"name": "x", "train": junk}
    try:
        read(junk)
    except RecipeError as error:
        assert str(error)
