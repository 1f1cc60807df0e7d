"""Losses and gradients against TRL's GRPOTrainer on the same inputs."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import numpy as np
import pytest
import torch

from whet import parts
from whet.train.policy import HFPolicy

GROUPS, SIZE, LONGEST = 3, 4, 6


def preset(name, **settings):
    return parts.build("objective", {"name": name, **settings})


@pytest.fixture
def grpo_trainer(tiny_model, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = trl.GRPOConfig(
            str(tmp_path),
            bf16=False,
            use_cpu=True,
            report_to="none",
            gradient_checkpointing=False,
            num_generations=SIZE,
            per_device_train_batch_size=SIZE,
            max_completion_length=LONGEST,
            use_bias_correction_kl=False,
        )
        return trl.GRPOTrainer(
            copy.deepcopy(tiny_model.network),
            lambda completions, **_: [0.0] * len(completions),
            args,
            Dataset.from_list([{"prompt": "a"}] * 2),
            processing_class=tiny_model.tokenizer,
        )


def trl_inputs(examples, batch, prompt):
    width = max(len(e) for e in examples) - prompt

    def completions(tensor):
        return tensor[:, prompt - 1 : prompt - 1 + width]

    mask = completions(batch.mask).long()
    return {
        "prompt_ids": batch.input_ids[:, :prompt],
        "prompt_mask": torch.ones(len(examples), prompt, dtype=torch.long),
        "completion_ids": batch.input_ids[:, prompt : prompt + width],
        "completion_mask": mask,
        "advantages": torch.tensor([e.token_values["advantages"][-1] for e in examples]),
        "old_per_token_logps": completions(batch.token_values["old_logps"]).float(),
        "ref_per_token_logps": completions(batch.token_values["reference_logps"]).float(),
        "num_items_in_batch": mask.sum(),
    }


PARITY = {
    "grpo": ({}, {"loss_type": "grpo", "beta": 0.04}),
    "grpo without kl": ({"kl": 0.0}, {"loss_type": "grpo"}),
    "dr-grpo": ({}, {"loss_type": "dr_grpo"}),
    "dapo": ({}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "cispo": ({}, {"loss_type": "cispo", "epsilon_high": 5.0}),
    "gspo": ({}, {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}),
}


@pytest.mark.peer
def test_agrees_with_trl(tiny_model, grpo_trainer, batch_of, rollout):
    policy, prompt = HFPolicy(tiny_model.network), 5
    rng = np.random.default_rng(0)
    examples = rollout(7, prompt=prompt)
    with torch.no_grad():
        current = policy.logps_and_entropy(batch_of(examples))[0]
    for i, e in enumerate(examples):
        near = current[i, prompt - 1 : len(e) - 1].numpy()
        tokens = {
            n: [0.0] * prompt + (near + 0.2 * rng.normal(size=near.size)).tolist() for n in ("old_logps", "reference_logps")
        }
        examples[i] = dataclasses.replace(e, token_values=tokens)
    for name, (settings, theirs) in PARITY.items():
        objective = preset(name.split()[0], **settings)
        prepared = objective.prepare(examples)
        batch = batch_of(prepared)
        defaults = {"beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "importance_sampling_level": "token"}
        for key, value in {**defaults, **theirs}.items():
            setattr(grpo_trainer, key, value)
        grpo_trainer.model.eval()
        expected = grpo_trainer._compute_loss(grpo_trainer.model, trl_inputs(prepared, batch, prompt))
        loss = objective(policy, batch)
        assert abs(loss.total - expected) < 1e-5 * max(abs(expected), 0.1), name
        gradients = []
        for network, total in ((tiny_model.network, loss.total), (grpo_trainer.model, expected)):
            network.zero_grad()
            total.backward()
            policy.forget()
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        gap = ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item()
        assert gap < 1e-5, f"{name}: {gap}"
