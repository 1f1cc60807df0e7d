"""Training a quantized model's scales: codes stay, the result is what its codes say, and it learns."""

import pytest
import torch

from whet.api import quantize, train
from whet.errors import RecipeError

ROWS = [{"prompt": f"What is {i} plus 4?", "completion": f"The answer is {i + 4}."} for i in range(16)]
SETTINGS = {"objective": "sft", "steps": 6, "batch_size": 8, "precision": "float32"}


@pytest.fixture
def quantized(tiny_model):
    return quantize(tiny_model, bits=3, group_size=16, compensate="none", rounding="nearest")


def test_codes_stay_and_weights_are_what_they_say(quantized):
    made = train(quantized, ROWS, adapter="scales", lr=1e-2, **SETTINGS)
    assert made.quantized.keys() == quantized.quantized.keys()
    for name, layer in made.quantized.items():
        before, module = quantized.quantized[name], made.network.get_submodule(name)
        assert torch.equal(layer.codes, before.codes) and layer.scales.dtype == before.scales.dtype
        assert not torch.equal(layer.scales, before.scales)
        assert type(module) is torch.nn.Linear and torch.equal(module.weight, layer.decode())
    embedding = made.network.get_input_embeddings().weight
    assert torch.equal(embedding, quantized.network.get_input_embeddings().weight)


def test_without_a_step_size_nothing_changes(quantized):
    made = train(quantized, ROWS, adapter={"name": "scales", "norms": False}, lr=0.0, **SETTINGS)
    for name, layer in made.quantized.items():
        assert torch.equal(layer.scales, quantized.quantized[name].scales)
    ids = torch.arange(5, 25)[None]
    assert torch.equal(made.network(ids).logits, quantized.network(ids).logits)


def test_the_loss_falls(quantized):
    from whet.api import dataset
    from whet.recipe import build_step
    from whet.recipe_steps import TrainStep
    from whet.run.making import train_model  # the receipt holds the curve

    fields = {**SETTINGS, "steps": 30, "lr": 1e-2, "lr_schedule": "constant"}
    step = build_step("train", TrainStep, {"name": "s", "data": "d", "adapter": "scales", **fields}, "train")
    _, receipt = train_model(step, quantized, dataset(ROWS), 0, None)
    losses = [entry["loss"] for entry in receipt["curve"]]
    assert losses[-1] < 0.8 * losses[0]


def test_a_quantized_model_is_not_made_dense_in_silence(quantized, tiny_model):
    with pytest.raises(RecipeError, match="would come out dense; take adapter scales"):
        train(quantized, ROWS, adapter="lora", **SETTINGS)
    with pytest.raises(RecipeError, match="the model is not quantized"):
        train(tiny_model, ROWS, adapter="scales", **SETTINGS)
