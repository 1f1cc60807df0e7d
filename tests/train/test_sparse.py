"""Training that keeps zeros: exactly those, through weight decay and moments; equal to full training elsewhere."""

from dataclasses import replace

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from whet.api import train
from whet.errors import RecipeError
from whet.run.recover.plan import adapter_for

ROWS = [{"prompt": f"What is {i} plus 4?", "completion": f"The answer is {i + 4}."} for i in range(16)]
SETTINGS = {"objective": "sft", "steps": 4, "batch_size": 4, "lr": 1e-2, "precision": "float32"}


def pruned(model):
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "layers" in name and parameter.dim() == 2:
                parameter[parameter.abs() < parameter.abs().median()] = 0
    return model


def test_zeros_stay_and_everything_else_moves(tiny_model):
    start = pruned(tiny_model)
    made = train(start, ROWS, adapter="sparse", optimizer={"name": "adamw", "weight_decay": 0.1}, **SETTINGS)
    before, after = dict(start.network.named_parameters()), dict(made.network.named_parameters())
    held = [n for n, p in before.items() if "layers" in n and p.dim() == 2]
    assert held and all(torch.equal(before[n] == 0, after[n] == 0) for n in held)
    assert all(not torch.equal(before[n], after[n]) for n in held)
    assert not any(p._backward_hooks for p in after.values())


def test_the_zeros_of_stacked_experts_stay(tiny_model):
    config = MixtralConfig(
        vocab_size=tiny_model.config.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    start = replace(tiny_model, network=MixtralForCausalLM(config), name="experts")
    stacks = [n for n, p in start.network.named_parameters() if p.dim() == 3]
    with torch.no_grad():
        for name in stacks:
            start.network.get_parameter(name)[:, :, ::2] = 0
    assert stacks and adapter_for(start) == "sparse"
    made = train(start, ROWS, adapter="sparse", **SETTINGS)
    for name in stacks:
        before, after = start.network.get_parameter(name), made.network.get_parameter(name)
        assert torch.equal(before == 0, after == 0) and not torch.equal(before, after)


def test_where_nothing_is_pruned_there_is_nothing_to_keep(tiny_model):
    with pytest.raises(RecipeError, match="nothing to keep; use full or lora"):
        train(tiny_model, ROWS, adapter="sparse", **SETTINGS)
