"""The same loop drives reinforcement: rollouts come from the weights being trained, and a stopped run resumes inside one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from whet import parts
from whet.data.schedules.shuffle import shuffle
from whet.model import Model, weights_hash
from whet.train.loop import FitResult, fit
from whet.train.policy import HFPolicy
from whet.train.receipt import StepLog
from whet.train.rollouts import RolloutProvider, RolloutSettings
from whet.train.settings import TrainSettings
from whet.train.token_values import reader

ROWS = [{"prompt": f"What is {a} plus {b}?", "completion": str(a + b), "answer": str(a + b)} for a in range(4) for b in range(4)]


def vowels(rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
    """A reward that random text has some of and that is easy to raise."""
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in completions]


def reinforce(model: Model, name: str, folder: Path | None = None, on_step: Any = None) -> FitResult:
    objective = parts.build("objective", name)
    sampling = RolloutSettings(prompts=4, group_size=4, max_new_tokens=8, minibatches=2, temperature=0.9)
    provider = RolloutProvider(ROWS, vowels, objective, sampling, schedule=shuffle, seed=1)
    reference = HFPolicy(model.copy().network, temperature=0.9)
    provider.bind(reference_logps=reader(reference.logps))
    settings = TrainSettings(steps=6, lr=1e-3, checkpoint_every=3, precision="float32")
    return fit(model, provider, objective, settings, temperature=0.9, checkpoint_folder=folder, on_step=on_step, progress=False)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_rollout_run_resumes_to_the_same_bits(tiny_model: Model, tmp_path: Path, name: str) -> None:
    def stop(entry: StepLog) -> None:
        if entry.step == 3:
            raise KeyboardInterrupt

    undisturbed = reinforce(tiny_model, name)
    with pytest.raises(KeyboardInterrupt):
        reinforce(tiny_model, name, tmp_path, stop)
    resumed = reinforce(tiny_model, name, tmp_path)
    assert resumed.receipt["resumed_at"] == 3
    assert weights_hash(resumed.model.network.state_dict()) == weights_hash(undisturbed.model.network.state_dict())
    assert undisturbed.receipt["provider"]["rollouts"] == resumed.receipt["provider"]["rollouts"] == 3
    assert weights_hash(resumed.model.network.state_dict()) != weights_hash(tiny_model.network.state_dict())
