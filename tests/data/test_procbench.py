"""The 23 procedures: states against an independent simulator, exact lengths, stable content, refusals."""

from __future__ import annotations

import json

import pytest

from whet.data.nanoworld.problem import SPLITS, digest
from whet.data.procbench import TASKS
from whet.data.procbench.check import SIMULATORS, simulate
from whet.data.sources.procbench import FEATURES, ProcBench
from whet.errors import DataError, RecipeError
from whet.parts import build


def test_there_are_23_tasks() -> None:
    assert len(TASKS) == 23 and set(TASKS) == set(SIMULATORS)


@pytest.mark.parametrize("task", TASKS)
def test_states_equal_an_independent_simulation(task: str) -> None:
    for split in ("train", "test"):
        for row in ProcBench(tasks=(task,), problems=2, seed=5)(split):
            assert row["states"] == simulate(task, row["prompt"]), row["prompt"]


@pytest.mark.parametrize("task", TASKS)
def test_lengths_are_exact_and_states_change(task: str) -> None:
    rows = ProcBench(tasks=(task,), steps=(1, 30), problems=1)("train")
    assert [len(row["states"]) for row in rows] == list(range(1, 31)) == rows["steps"]
    for row in rows:
        assert all(a != b for a, b in zip(row["states"], row["states"][1:]))
        assert row["answer"] == row["states"][-1]
        assert row["completion"].split("\n") == [*row["states"][:-1], f"final: {row['answer']}"]
        assert row["characters"] == len(row["prompt"]) + len(row["completion"])


def test_content_is_the_same_for_ever() -> None:
    """Fails when any rule, draw or column changes: a deliberate change updates the digest."""
    rows = {split: ProcBench(steps=(2, 6), problems=1)(split).to_list() for split in SPLITS}
    assert rows == {split: ProcBench(steps=(2, 6), problems=1)(split).to_list() for split in SPLITS}
    assert digest(json.dumps(rows)) == "081cb08ac721"


def test_more_problems_keep_the_earlier_rows() -> None:
    few, many = (ProcBench(steps=(3, 5), problems=n)("test").to_list() for n in (1, 3))
    assert many[: len(few)] == few and len(many) == 3 * len(few)


def test_problems_are_unique_and_splits_disjoint() -> None:
    prompts = {split: ProcBench(steps=(2, 4), problems=4)(split)["prompt"] for split in SPLITS}
    together = [prompt for split in SPLITS for prompt in prompts[split]]
    assert len(together) == len(set(together)) == 3 * 23 * 3 * 4


def test_the_whole_grid_has_the_benchmarks_size() -> None:
    source = ProcBench()
    assert len(source.tasks) * (source.steps[1] - source.steps[0] + 1) * source.problems == 5520
    assert build("source", {"name": "procbench", "steps": [2, 3], "problems": 1})("validation").features == FEATURES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("sort",), "steps": (2, 99)}, "task 'sort' has 1 to 40 steps, got 99; narrow 'steps'"),
        ({"tasks": ("cout",)}, "did you mean 'count'"),
        ({"steps": (5, 2)}, "fewest come first"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ProcBench(**settings)


def test_running_out_of_problems_is_refused() -> None:
    with pytest.raises(RecipeError, match="task 'encode': no new problem with 1 steps"):
        ProcBench(tasks=("encode",), steps=(1, 1), problems=200)("test")
    with pytest.raises(RecipeError, match=r"steps\.0"):
        build("source", {"name": "procbench", "steps": [0, 3]})


def test_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="unknown split 'dev'"):
        ProcBench()("dev")
