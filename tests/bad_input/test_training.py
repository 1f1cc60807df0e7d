"""What can go wrong in training, generating and measuring: named by step, layer or row, with what was good kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import whet
from whet.errors import DataError, ModelError, RecipeError
from whet.generate.completion import Sampling
from whet.generate.engine import generate
from whet.model import Model

LONG = json.dumps({"prompt": "a b", "completion": "c " * 400, "answer": "1", "text": "c " * 400}) + "\n"
GOOD = json.dumps({"prompt": "a b", "completion": "answer: 1", "answer": "1", "text": "a b c"}) + "\n"


def overflowing(folder: Path) -> None:
    """Finite weights whose products are not: the output of the first layer's ``down_proj`` is the first Inf."""
    tensors = load_file(folder / "model.safetensors")
    for name in ("up_proj", "gate_proj", "down_proj"):
        tensors[f"model.layers.0.mlp.{name}.weight"] *= 1e18
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


WHERE = "the output of model.layers.0.mlp.down_proj (Linear) holds Inf"


def test_activations_that_are_not_finite_in_training(user: Any) -> None:
    overflowing(user.model)
    status, _, message = user.run(user.recipe())
    assert status == 2 and "Traceback" not in message
    assert "step 1 of 1: the loss is nan; this step was not taken" in message
    assert f"Cause: {WHERE}" in message and "its inputs are finite" in message


def test_activations_that_are_not_finite_in_measuring(user: Any) -> None:
    overflowing(user.model)
    task: dict[str, Any] = {"data": {"name": "nanoworld", "rows": 4}}
    for name, also in (("replies", "the network's predictions are not finite"), ("answers", "the network's logits for prompt")):
        status, _, message = user.run(user.recipe(train=None, measure=[{"name": "m", "tasks": [{"name": name, **task}]}]))
        assert status == 2 and WHERE in message and also in message and "load it in float32" in message


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(user: Any) -> None:
    step = {"name": "sft", "data": "rows", "steps": 6, "batch_size": 4, "lr": 1e30, "clip": 0, "checkpoint_every": 1, "warmup": 0}
    status, _, message = user.run(user.recipe(train=[step]))
    assert status == 2 and "Traceback" not in message
    assert (
        "step 2 of 6: the " in message
        and "nan" in message
        and "the last checkpoint is good" in message
        and "a lower lr" in message
    )
    kept = list((user.folder / "whet-home" / "checkpoints").glob("*/step-00000001"))
    assert len(kept) == 1
    before = {file: file.read_bytes() for file in kept[0].rglob("*") if file.is_file()}
    assert all(bool(t.isfinite().all()) for t in load_file(next(kept[0].rglob("weights*.safetensors"))).values())
    assert "step 2 of 6" in user.run(user.recipe(train=[step]))[2]
    assert all(file.read_bytes() == content for file, content in before.items())


def test_sequences_longer_than_the_context_in_training(user: Any) -> None:
    user.file("rows.jsonl", GOOD * 8 + LONG)

    def trained(**settings: Any) -> tuple[int, str, str]:
        return user.run(user.recipe(train=[{"name": "sft", "data": "rows", "steps": 1, "batch_size": 9, **settings}]))

    status, printed, _ = trained()
    assert status == 0 and "rows_overlong 1" in printed and "overlong_rows row 8: " in printed
    assert "rows_overlong 1" in user.call("show", "last")[1]
    status, printed, _ = trained(overlong="truncate")
    assert status == 0 and "rows_dropped 0" in printed
    status, printed, _ = trained(overlong="chunk")
    assert status == 0 and "tokens_dropped 0" in printed
    status, _, message = trained(overlong="error")
    assert status == 2 and "row 8: " in message and "max_length is 256. Ways out: overlong: drop, chunk or truncate" in message
    user.forwards.clear()
    user.refused(
        user.recipe(train=[{"name": "sft", "data": "rows", "steps": 1, "max_length": 999}]),
        "train step 'sft': max_length: 999 is more than the model's context of 256 tokens",
    )
    user.file("rows.jsonl", LONG * 3)
    user.refused(user.recipe(), "none of the 3 rows is left: 3 are longer than max_length 256")


def test_sequences_longer_than_the_context_in_measuring(user: Any) -> None:
    held_out = user.file("held-out.jsonl", GOOD * 4 + LONG.replace("a b", "a " * 400))
    tasks = [
        {"name": name, "data": {"name": "file", "path": str(held_out)}, "split": "train", **more}
        for name, more in (("replies", {}), ("answers", {"max_new_tokens": 4}))
    ]
    status, _, message = user.run(user.recipe(train=None, measure=[{"name": "m", "tasks": tasks}]))
    assert status == 0, message
    shown = user.call("show", "last")[1]
    assert "base, rows over the context 1" in shown and "base, prompts over the context 1" in shown
    window = {"name": "perplexity", "data": {"name": "file", "path": str(held_out)}, "split": "train", "window": 999}
    user.forwards.clear()
    user.refused(
        user.recipe(measure=[{"name": "m", "tasks": [window]}]),
        "perplexity.window: 999 tokens, but the context of model",
        "is 256",
    )


def test_sequences_longer_than_the_context_in_generation(user: Any, tiny_model: Model) -> None:
    with pytest.raises(
        DataError, match=r"prompt 1 has 256 tokens, but the context of model 'tiny' is 256.*shorten the prompt or drop the row"
    ):
        generate(tiny_model, [[5], [5] * 256], Sampling(max_new_tokens=2))
    user.file("rows.jsonl", GOOD * 4 + LONG.replace("a b", "a " * 400))
    rollouts = {"prompts": 5, "group_size": 2, "max_new_tokens": 4}
    step = {"name": "rl", "data": "rows", "objective": "reinforce", "reward": "exact-answer", "steps": 1, "rollouts": rollouts}
    assert user.run(user.recipe(train=[step]))[0] == 0
    assert "prompts_too_long 1" in user.call("show", "last")[1]


def test_an_empty_prompt(tiny_model: Model) -> None:
    with pytest.raises(DataError, match="prompt 0 is empty; a model needs at least one token"):
        generate(tiny_model, [[]], Sampling(max_new_tokens=2))


@pytest.mark.parametrize(
    ("rollouts", "message"),
    [
        ({"temperature": 0}, "train.0.rollouts.temperature: Input should be greater than 0; got 0"),
        (
            {"group_size": 1},
            "rollouts.group_size 1: this objective compares the completions of a prompt with each other and needs at least 2",
        ),
        ({"prompts": 2, "minibatches": 3}, "rollouts.minibatches 3: must be at most 'prompts' (2)"),
        ({"stop": [""]}, "rollouts.stop holds an empty string"),
    ],
)
def test_rollouts_that_cannot_teach(user: Any, rollouts: dict[str, Any], message: str) -> None:
    step = {"name": "rl", "data": "rows", "objective": "dr-grpo", "reward": "exact-answer", "steps": 1, "rollouts": rollouts}
    user.refused(user.recipe(train=[step]), message)


def test_nothing_to_learn_from_in_a_later_step_is_known_first(user: Any) -> None:
    first = {"name": "sft", "data": "rows", "steps": 1, "batch_size": 4}
    later = {"name": "rl", "data": "rows", "objective": "dr-grpo", "reward": "steps", "steps": 1}
    user.refused(user.recipe(train=[first, later]), "train step 'rl': no column 'states'")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"few_shot": 99}, "few_shot: 99 rows wanted, but the split 'train' has 24"),
        ({"few_shot": 2}, "a worked example from 'train' is also measured"),
        ({"balance": "skil"}, "balance: no column 'skil'; there are"),
        ({"split": "test"}, "there is no test split. Way out: `test: 0.1`"),
        ({"pass_at": [0]}, "pass_at: pass@0 is no number of tries"),
        ({"pass_at": [4]}, "pass@4 needs at least 4 samples"),
    ],
)
def test_measurements_that_cannot_be_made(user: Any, task: dict[str, Any], message: str) -> None:
    document = user.recipe()
    whole = {"name": "answers", "data": {"name": "file", "path": str(user.folder / "rows.jsonl")}, "split": "train", **task}
    user.refused({**document, "measure": [{"name": "m", "tasks": [whole]}]}, message)


def test_rows_without_labels_in_python(user: Any) -> None:
    with pytest.raises(DataError, match="no column 'prompt': did you mean 'promt'"):
        whet.train(user.model, [{"promt": "a", "completion": "b"}], budget="1 steps")
    with pytest.raises(DataError, match="no rows"):
        whet.train(user.model, [], budget="1 steps")
    with pytest.raises(RecipeError, match="data: expected a dataset, rows, a source or a data file, got int"):
        whet.train(user.model, 3, budget="1 steps")
    with pytest.raises(ModelError, match="this folder is no model"):
        whet.train(user.folder, [{"prompt": "a", "completion": "b"}], budget="1 steps")
    assert not user.forwards


def test_the_command_line_prints_no_traceback(user: Any) -> None:
    import subprocess
    import sys

    user.file("recipe.yaml", "name: x\n\tmodel: nano\n")
    command = [sys.executable, "-m", "whet", "run", str(user.folder / "recipe.yaml")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"WHET_HOME": str(user.folder / "home"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("whet: ") and "recipe.yaml: not readable as YAML" in done.stderr
