"""Training that keeps zeros: exactly those, through weight decay and moments; equal to full training elsewhere."""

import pytest
import torch

from whet.api import train
from whet.errors import RecipeError

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


def test_where_nothing_is_pruned_there_is_nothing_to_keep(tiny_model):
    with pytest.raises(RecipeError, match="nothing to keep; use full or lora"):
        train(tiny_model, ROWS, adapter="sparse", **SETTINGS)
