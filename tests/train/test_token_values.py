"""Numbers per token come back in the order of the examples, whatever the packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from whet import parts
from whet.data.packing import pack
from whet.train.policy import HFPolicy
from whet.train.rollouts import RolloutProvider, RolloutSettings
from whet.train.token_values import reader


@pytest.mark.parametrize("micro_tokens", [1, 40, 10**6])
def test_order_and_alignment(micro_tokens, tiny_model, rollout):
    policy = HFPolicy(tiny_model.network)
    examples = rollout()
    numbers = reader(policy.logps, micro_tokens=micro_tokens, share=policy.shares_packs)(examples)
    for e, found in zip(examples, numbers):
        ids = torch.tensor([e.input_ids])
        with torch.no_grad():
            logs = tiny_model.network(ids).logits.log_softmax(-1)[0]
        expected = [logs[i - 1, e.input_ids[i]].item() if e.trained[i] else 0.0 for i in range(len(e))]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_samplers_log_probabilities_are_the_trainers_and_ppo_runs_on_them(tiny_model):
    policy = HFPolicy(tiny_model.network, value_head=nn.Linear(64, 1))
    objective = parts.build("objective", "ppo")
    rows = [{"prompt": f"What is {i} plus 4?"} for i in range(4)]
    source = RolloutProvider(
        rows,
        lambda rows, texts: [float("1" in text) for text in texts],
        objective,
        RolloutSettings(prompts=4, group_size=2, max_new_tokens=6, epochs_per_rollout=2),
        schedule=lambda size, epoch, seed: np.arange(size),
    )
    source.bind(reference_logps=reader(policy.logps), old_values=reader(policy.values))
    for step in range(2):
        examples = source.examples(step, tiny_model)
        for e in examples:
            np.testing.assert_allclose(e.token_values["reference_logps"], e.token_values["old_logps"], atol=1e-4)
        [batch] = pack(examples, share=policy.shares_packs)
        loss = objective(policy, batch)
        loss.total.backward()
        policy.forget()
        assert loss.terms["kl"].item() == pytest.approx(0, abs=1e-6)
        assert loss.terms["value_loss"] > 0
        assert policy.value_head.weight.grad.abs().sum() > 0
