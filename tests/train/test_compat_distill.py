"""Distillation from an old and a new model: the card's equation, its limits, and the references that the loop keeps at hand."""

import math
import sys

import pytest
import torch
from torch.nn.functional import kl_div

from whet.api import quantize, train
from whet.data.example import Example
from whet.data.packing import count, pack
from whet.errors import ModelError, RecipeError
from whet.recipe import read
from whet.train.objectives.compat_distill import CompatDistill
from whet.train.policy import HFPolicy

ROWS = [{"prompt": f"What is {i} plus 4?", "completion": f"The answer is {i + 4}."} for i in range(16)]
SETTINGS = {"steps": 3, "batch_size": 8, "lr": 3e-3, "precision": "float32"}


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    own, old, new = (torch.randn(12, 7, generator=generator, dtype=torch.float64) for _ in range(3))
    return own.requires_grad_(), old, new


def kl(teacher, own, temperature):
    """KL(teacher || own), by torch."""
    p, q = (torch.log_softmax(z / temperature, -1) for z in (teacher, own))
    return kl_div(q, p, log_target=True, reduction="none").sum(-1)


def test_it_is_the_equation(logits):
    own, old, new = logits
    labels = torch.arange(12) % 7
    found = CompatDistill(temperature=3.0).per_token(own, labels, old, new)
    wrong = own.argmax(-1) != labels
    assert wrong.any() and not wrong.all() and torch.equal(found[:, 2], wrong.double())
    expected = torch.where(wrong, kl(old, own, 3.0), kl(new, own, 3.0))
    torch.testing.assert_close(found[:, :2].sum(-1), expected)


@pytest.mark.parametrize("right", [True, False])
def test_always_right_follows_the_new_model_and_always_wrong_the_old(logits, right):
    own, old, new = logits
    labels = own.argmax(-1) if right else own.argmin(-1)
    found = CompatDistill().per_token(own, labels, old, new)
    torch.testing.assert_close(found[:, :2].sum(-1), kl(new if right else old, own, 2.0))


def test_closed_form_of_two_tokens():
    own, old = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    found = CompatDistill(temperature=2.0, elsewhere="none").per_token(own, torch.tensor([1]), old)
    # The old model says 3/4 and 1/4 at temperature 2, the policy 1/2 each.
    assert found[0, 0].item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)


@pytest.mark.parametrize("elsewhere", ["start", "cross-entropy", "reference", "none"])
def test_gradient(logits, elsewhere):
    own, old, new = logits
    labels = torch.arange(12) % 7
    others = (old, new) if elsewhere == "start" else (old,)
    objective = CompatDistill(elsewhere=elsewhere)
    assert torch.autograd.gradcheck(lambda z: objective.per_token(z, labels, *others)[:, :2].sum(-1), own)


def test_elsewhere(logits):
    own, old, _ = logits
    labels = own.argmax(-1)
    assert not CompatDistill(elsewhere="none").per_token(own, labels, old)[:, :2].any()
    found = CompatDistill(elsewhere="cross-entropy").per_token(own, labels, old)[:, 1]
    torch.testing.assert_close(found, -own.log_softmax(-1).max(-1).values)
    half_wrong = torch.where(torch.arange(len(own)) % 2 == 0, labels, own.argmin(-1))
    found = CompatDistill(elsewhere="reference").per_token(own, half_wrong, old)[:, :2].sum(-1)
    torch.testing.assert_close(found, kl(old, own, 2.0))


def other(model, seed=1):
    made = model.copy()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def batches(examples, micro_tokens):
    return pack(examples, totals=count(examples), micro_tokens=micro_tokens)


def test_neither_micro_batches_nor_pieces_change_it(tiny_model, monkeypatch):
    old, new = other(tiny_model, 1), other(tiny_model, 2)
    examples = [Example([5 + (7 * i + k) % 40 for k in range(6 + i)], [k > 1 for k in range(6 + i)], unit=i) for i in range(5)]

    def loss(micro_tokens):
        policy = HFPolicy(tiny_model.network, references={"reference": HFPolicy(old.network), "start": HFPolicy(new.network)})
        tiny_model.network.zero_grad()
        parts = [CompatDistill()(policy, batch).total for batch in batches(examples, micro_tokens)]
        sum(parts).backward()
        return float(sum(parts).detach()), tiny_model.network.get_input_embeddings().weight.grad.clone()

    whole, split = loss(1 << 20), loss(1)
    monkeypatch.setattr(sys.modules["whet.train.policy"], "LOGIT_BYTES", 4 * 300 * 3 * 4)
    pieces = loss(1 << 20)
    for found in (split, pieces):
        assert found[0] == pytest.approx(whole[0], rel=1e-5)
        torch.testing.assert_close(found[1], whole[1], rtol=1e-3, atol=1e-5)
    assert all(p.grad is None for m in (old, new) for p in m.network.parameters())


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_it_pulls_towards_the_reference(tiny_model, adapter):
    from whet.data.drift import replies
    from whet.generate.divergence import divergences

    old = other(tiny_model)
    fields = {**SETTINGS, "steps": 12, "lr": 5e-3, "adapter": adapter}
    made = train(tiny_model, ROWS, reference=old, objective="compat-distill", **fields)
    _, examples = replies(ROWS, old)
    before, after = (sum(d.kl for d in divergences(m, old, examples)) for m in (tiny_model, made))
    assert after < 0.9 * before


def test_references_are_counted_and_left_alone(tiny_model):
    from whet.api import dataset
    from whet.recipe import build_step
    from whet.recipe_steps import TrainStep
    from whet.run.making import train_model

    old = other(tiny_model)
    kept = {n: p.clone() for n, p in old.network.state_dict().items()}

    def receipt(objective, reference=None):
        fields = {"name": "s", "data": "d", "objective": objective, **SETTINGS, **({"reference": "old"} if reference else {})}
        return train_model(build_step("train", TrainStep, fields, "train"), tiny_model, dataset(ROWS), 0, None, reference)[1]

    alone = receipt("sft")
    both = receipt([{"name": "sft"}, {"name": "compat-distill", "weight": 0.5}], old)
    assert both["cost"]["tokens"] == 3 * alone["cost"]["tokens"]
    assert both["cost"]["flops"] == pytest.approx(alone["cost"]["flops"] + 4.0 * tiny_model.parameters * alone["cost"]["tokens"])
    assert all(torch.equal(kept[n], p) for n, p in old.network.state_dict().items())
    entry = both["curve"][0]
    assert {"compat-distill.old", "compat-distill.new", "sft.cross_entropy"} <= entry["terms"].keys()
    # At the start the policy is the new model, so that nothing pulls where it is right.
    assert entry["terms"]["compat-distill.new"] == pytest.approx(0.0, abs=1e-5)


def test_a_quantized_model_stays_quantized(tiny_model):
    small = quantize(tiny_model, bits=3, group_size=16, compensate="none")
    made = train(small, ROWS, reference=tiny_model, objective="compat-distill", adapter="scales", **{**SETTINGS, "lr": 1e-2})
    assert all(torch.equal(layer.codes, small.quantized[name].codes) for name, layer in made.quantized.items())
    assert any(not torch.equal(layer.scales, small.quantized[name].scales) for name, layer in made.quantized.items())


def test_what_is_refused(tiny_model):
    with pytest.raises(RecipeError, match="holds the policy against another model; name its stage"):
        train(tiny_model, ROWS, objective="compat-distill", **SETTINGS)
    with pytest.raises(RecipeError, match="against no other model; remove it"):
        train(tiny_model, ROWS, reference=tiny_model, objective="sft", **SETTINGS)
    wider = tiny_model.copy()
    wider.network.resize_token_embeddings(len(tiny_model.tokenizer) + 4)
    with pytest.raises(ModelError, match="though their tokenizers agree"):
        train(tiny_model, ROWS, reference=wider, objective="compat-distill", **SETTINGS)
    step = {"name": "t", "data": "rows", "objective": "compat-distill", "steps": 1, "reference": "odl"}
    rows = {"name": "rows", "source": {"name": "nanoworld", "rows": 8}}
    with pytest.raises(RecipeError, match="did you mean 'old'"):
        read({"name": "r", "models": {"old": "nano"}, "data": [rows], "train": [step]})


def test_another_reference_of_preference_training(tiny_model):
    """With the reference given, the first step's margin is not 0."""
    pairs = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": "No."} for r in ROWS]
    same = train(tiny_model, pairs, objective="dpo", **SETTINGS)
    against = train(tiny_model, pairs, reference=other(tiny_model), objective="dpo", **SETTINGS)
    weights = zip(same.network.parameters(), against.network.parameters())
    assert any(not torch.equal(a, b) for a, b in weights)
