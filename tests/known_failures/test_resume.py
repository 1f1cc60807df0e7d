"""Known failures of other tools: runs that go on in another way than they would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet import parts
from whet.data.example import Example
from whet.data.schedules.shuffle import shuffle
from whet.errors import RecipeError
from whet.model import Model, weights_hash
from whet.train.adapters.lora import LoRA
from whet.train.loop import FitResult, fit
from whet.train.objectives.sft import SFT
from whet.train.provider import FixedExamples
from whet.train.receipt import StepLog
from whet.train.rollouts import RolloutProvider, RolloutSettings
from whet.train.settings import TrainSettings


class Killed(Exception):
    """As if the machine went away."""


class Watched(FixedExamples):
    """Notes which rows each step was given."""

    def __init__(self, units: Sequence[Sequence[Example]], seen: list[list[int]]) -> None:
        super().__init__(units, shuffle, seed=3, batch_size=4)
        self.seen = seen

    def examples(self, step: int, model: Any = None) -> list[Example]:
        self.seen.append(self.indices(step))
        return super().examples(step, model)


def units(size: int = 12) -> list[list[Example]]:
    generator = np.random.default_rng(5)
    return [[Example(generator.integers(5, 290, 9).tolist(), [False] * 3 + [True] * 6)] for _ in range(size)]


def hash_of(result: FitResult) -> str:
    return weights_hash(result.model.network.state_dict())


def train(model: Model, seen: list[list[int]], folder: Path | None = None, stop: int | None = None) -> FitResult:
    def on_step(entry: StepLog) -> None:
        if entry.step + 1 == stop:
            raise Killed

    settings = TrainSettings(epochs=3, batch_size=4, lr=3e-3, seed=3, checkpoint_every=2)
    provider, adapter = Watched(units(), seen), LoRA(r=4, dropout=0.2)
    return fit(model, provider, SFT(), settings, adapter=adapter, checkpoint_folder=folder, on_step=on_step, progress=False)


@pytest.mark.parametrize("stop", [2, 5, 7], ids=["first epoch", "second epoch", "third epoch"])
def test_a_killed_run_goes_on_with_the_same_rows_and_bits(stop: int, tiny_model: Model, tmp_path: Path) -> None:
    """verl-project/verl#3457 (with #4156, #5725): after a resume the data order is another one.

    huggingface/transformers#40691: the data order is wrong when resuming from epoch 1 or later.
    """
    whole: list[list[int]] = []
    undisturbed = train(tiny_model, whole)
    with pytest.raises(Killed):
        train(tiny_model, [], tmp_path, stop)
    after: list[list[int]] = []
    resumed = train(tiny_model, after, tmp_path)
    assert resumed.receipt["resumed_at"] == stop - stop % 2
    assert after == whole[resumed.receipt["resumed_at"] :]
    assert hash_of(resumed) == hash_of(undisturbed)


def test_the_order_is_a_function_of_seed_epoch_and_index_alone() -> None:
    """huggingface/transformers#40691: the order of an epoch depends on what was drawn before."""
    forward = FixedExamples(units(), shuffle, seed=3, batch_size=4)
    fresh = [FixedExamples(units(), shuffle, seed=3, batch_size=4).indices(step) for step in reversed(range(9))]
    assert [forward.indices(step) for step in range(9)] == fresh[::-1]


def test_every_epoch_after_a_resume_has_every_row_once(tiny_model: Model, tmp_path: Path) -> None:
    """NVIDIA-NeMo/Megatron-Bridge#4601: after a resume every later epoch replays only the tail, which lowers the loss."""
    seen: list[list[int]] = []
    with pytest.raises(Killed):
        train(tiny_model, seen, tmp_path, stop=4)
    train(tiny_model, seen, tmp_path)
    for epoch in (seen[:3], seen[3:6], seen[6:9]):
        assert sorted(index for step in epoch for index in step) == list(range(12))


def test_a_row_that_comes_twice_in_an_epoch_is_refused() -> None:
    """NVIDIA-NeMo/Megatron-Bridge#4601: rows repeat inside an epoch and nobody notices."""

    def tail(size: int, epoch: int, seed: int) -> np.ndarray:
        order = np.arange(size)
        return order if epoch == 0 else np.concatenate([order[-3:]] * 4)

    provider = FixedExamples(units(), tail, batch_size=4)
    assert len(provider.indices(2)) == 4
    with pytest.raises(
        RecipeError, match=r"repeats 3 of 12 rows within epoch 1 \(rows 9, 10, 11\); a row may come once per epoch"
    ):
        provider.indices(3)
    with pytest.raises(RecipeError, match="asks for row 12 in epoch 0; there are rows 0 to 11"):
        FixedExamples(units(), lambda size, epoch, seed: np.arange(1, size + 1), batch_size=4).indices(0)


def test_other_rows_cannot_be_resumed_with(tiny_model: Model, tmp_path: Path) -> None:
    """verl-project/verl#3457: a run goes on with other data and nobody notices."""
    train(tiny_model, [], tmp_path)
    settings = TrainSettings(epochs=3, batch_size=4, lr=3e-3, seed=3, checkpoint_every=2)
    with pytest.raises(RecipeError, match=r"cannot resume: the training data's fingerprint was .* train afresh without resume"):
        fit(
            tiny_model,
            Watched(units()[::-1], []),
            SFT(),
            settings,
            adapter=LoRA(r=4, dropout=0.2),
            checkpoint_folder=tmp_path,
            progress=False,
        )


def vowels(rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in completions]


def test_grpo_resumes_inside_a_rollout(tiny_model: Model, tmp_path: Path) -> None:
    """huggingface/trl#3247: GRPO cannot resume."""
    data = [{"prompt": f"What is {i} plus 4?"} for i in range(6)]

    def grpo(folder: Path | None = None, stop: int | None = None) -> FitResult:
        def on_step(entry: StepLog) -> None:
            if entry.step + 1 == stop:
                raise Killed

        objective = parts.build("objective", {"name": "grpo", "kl": 0.0})
        plan = RolloutSettings(prompts=3, group_size=4, max_new_tokens=6, epochs_per_rollout=2, minibatches=2)
        provider = RolloutProvider(data, vowels, objective, plan, schedule=shuffle, seed=1)
        settings = TrainSettings(steps=6, lr=1e-3, checkpoint_every=1, precision="float32")
        return fit(tiny_model, provider, objective, settings, checkpoint_folder=folder, on_step=on_step, progress=False)

    undisturbed = grpo()
    with pytest.raises(Killed):
        grpo(tmp_path, stop=3)
    resumed = grpo(tmp_path)
    assert resumed.receipt["resumed_at"] in (2, 3)
    assert resumed.receipt["provider"] == undisturbed.receipt["provider"]
    assert hash_of(resumed) == hash_of(undisturbed)
