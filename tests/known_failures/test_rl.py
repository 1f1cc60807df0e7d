"""Known failures of other tools: two distributions in one ratio, and runs that learn nothing without saying so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import whet
from whet import parts
from whet.data.packing import pack
from whet.data.schedules.sequential import sequential
from whet.errors import DataError, RecipeError, WhetError
from whet.model import Model
from whet.train.objectives.upge import UPGE
from whet.train.policy import HFPolicy
from whet.train.rollouts import RolloutProvider, RolloutSettings

ROWS = [{"prompt": f"What is {i} plus 4?", "completion": str(i + 4), "answer": str(i + 4)} for i in range(6)]
PLAN = {"prompts": 3, "group_size": 4, "max_new_tokens": 8}
VOWEL = {"name": "pattern", "pattern": "[aeiou]"}


def grpo(model: Model, **settings: Any) -> dict[str, Any]:
    """The receipt of a short GRPO run."""
    fields = {"objective": {"name": "grpo", "kl": 0.0}, "reward": VOWEL, "rollouts": PLAN, "precision": "float32", **settings}
    return whet.train(model, ROWS, **fields).lineage["step"]["receipt"]


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_the_ratio_on_fresh_samples_is_1(temperature: float, tiny_model: Model) -> None:
    """huggingface/trl#4159: sampler and trainer compute log-probabilities of different distributions (the temperature)."""
    settings = RolloutSettings(**{**PLAN, "temperature": temperature})  # type: ignore[arg-type]
    provider = RolloutProvider(ROWS, parts.build("reward", VOWEL), UPGE(), settings, schedule=sequential)
    examples = provider.examples(0, tiny_model)
    [batch] = pack(examples, micro_tokens=10**6)
    logps = HFPolicy(tiny_model.network, temperature=temperature).logps(batch)
    ratios = (logps - batch.token_values["old_logps"])[batch.mask].exp().detach().numpy()
    assert len(ratios) > 30
    error = ratios.std(ddof=1) / np.sqrt(len(ratios))
    assert abs(ratios.mean() - 1) < max(2 * error, 1e-5) and np.abs(ratios - 1).max() < 1e-4
    found = grpo(tiny_model, steps=2, rollouts={**PLAN, "temperature": temperature})
    assert [entry["terms"]["ratio"] for entry in found["curve"]] == pytest.approx([1, 1], abs=1e-4)


def test_a_ratio_of_two_temperatures_is_refused(tiny_model: Model) -> None:
    """huggingface/trl#4159: a temperature that only the sampler knows."""
    settings = RolloutSettings(**{**PLAN, "temperature": 0.7})  # type: ignore[arg-type]
    provider = RolloutProvider(ROWS, parts.build("reward", VOWEL), UPGE(), settings, schedule=sequential)
    [batch] = pack(provider.examples(0, tiny_model), micro_tokens=10**6)
    with pytest.raises(DataError, match=r"computed at temperature 0\.7, the policy's at 1: their ratio means nothing"):
        UPGE()(HFPolicy(tiny_model.network), batch)


@pytest.mark.parametrize("name", ["top_p", "top_k", "min_p"])
def test_a_filter_that_the_trainer_would_not_know_cannot_be_set(name: str, tiny_model: Model) -> None:
    """huggingface/trl#6789: the sampler filters by top-p, the trainer does not, and the ratio is biased."""
    with pytest.raises(RecipeError, match=f"rollouts.{name}: unknown"):
        grpo(tiny_model, steps=1, rollouts={**PLAN, name: 1})


def test_groups_without_signal_are_counted_and_stop_the_run(tiny_model: Model) -> None:
    """huggingface/trl#3857 (with #3452, #5640): GRPO prints loss 0, all rewards of a group are equal, nothing is learnt."""
    barren = {"name": "pattern", "pattern": "never written by a random model"}
    receipt = grpo(tiny_model, steps=2, reward=barren)
    assert receipt["provider"]["groups_without"] == 6 and receipt["provider"]["signal_share"] == 0.0
    assert [entry["gradient_norm"] for entry in receipt["curve"]] == [0.0, 0.0]
    message = r"3 rollouts in a row gave no signal: in every group all completions had the same reward .*Near 0: easier prompts"
    with pytest.raises(WhetError, match=message):
        grpo(tiny_model, steps=9, reward=barren, rollouts={**PLAN, "patience": 3})


def test_signal_gradient_and_kl_are_shown_at_every_step(tiny_model: Model) -> None:
    """huggingface/trl#3452: only the gradient of the KL term flows, and the log does not tell it from learning."""

    def alternating(rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
        return [float(i % 2) for i in range(len(completions))]

    with_kl = grpo(tiny_model, steps=2, reward=alternating, objective={"name": "grpo", "kl": 0.04})
    assert with_kl["provider"]["signal_share"] == 1.0 and with_kl["provider"]["last"]["groups_with_signal"] == 3
    for entry in with_kl["curve"]:
        assert entry["gradient_norm"] > 0 and "kl" in entry["terms"]
    only_kl = {"objective": {"name": "grpo", "kl": 0.04}, "reward": {"name": "pattern", "pattern": "never written"}}
    with pytest.raises(WhetError, match="2 rollouts in a row gave no signal"):
        grpo(tiny_model, steps=9, lr=1e-2, rollouts={**PLAN, "patience": 2}, **only_kl)
