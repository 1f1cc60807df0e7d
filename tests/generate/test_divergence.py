"""Divergence of two models: closed forms, bounds, and independence of the batch."""

import math
from dataclasses import replace

import pytest
import torch

from whet.data.example import Example
from whet.errors import ModelError
from whet.generate.divergence import _jsd, _kl, divergences, text_embeddings


def examples(count=6):
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(count):
        ids = torch.randint(5, 200, (6 + 3 * i,), generator=generator).tolist()
        made.append(Example(ids, [j >= 2 + i for j in range(len(ids))]))
    return made


def other(model, spread=0.05):
    copy = model.copy("other")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in copy.network.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return copy


def test_a_model_does_not_differ_from_itself(tiny_model):
    for found in divergences(tiny_model, tiny_model, examples()):
        assert found.jsd == 0.0 and found.kl == 0.0 and found.agreement == 1.0


def test_rounding_is_not_taken_for_drift():
    sharp = (8 * torch.randn(200, 300, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    assert float(_jsd(sharp, sharp.clone()).max()) == 0.0


def test_it_is_the_mean_over_trained_tokens_of_the_textbook_formula(tiny_model):
    model, wanted = other(tiny_model), examples(1)[0]
    found = divergences(model, tiny_model, [wanted])[0]
    ids = torch.tensor([wanted.input_ids])
    at = [i - 1 for i, t in enumerate(wanted.trained) if t]
    p, q = (m.network(ids).logits[0, at].double().softmax(-1) for m in (model, tiny_model))
    middle = (p + q) / 2
    jsd = 0.5 * ((p * (p / middle).log()).sum(-1) + (q * (q / middle).log()).sum(-1))
    assert found.jsd == pytest.approx(float(jsd.mean().detach()), rel=1e-4)
    assert found.kl == pytest.approx(float((q * (q / p).log()).sum(-1).mean().detach()), rel=1e-4)
    assert found.tokens == len(at) and 0 < found.jsd < math.log(2)


def test_neither_batch_nor_padding_changes_it(tiny_model):
    model, rows = other(tiny_model), examples()
    whole, single = divergences(model, tiny_model, rows), divergences(model, tiny_model, rows, batch_tokens=1)
    for a, b in zip(whole, single):
        assert a.jsd == pytest.approx(b.jsd, rel=1e-4) and a.tokens == b.tokens


def test_distributions_that_share_nothing_are_ln_2_apart():
    p, q = torch.tensor([[0.0, -1e4]]), torch.tensor([[-1e4, 0.0]])
    assert float(_jsd(p, q)) == pytest.approx(math.log(2)) and float(_kl(p, p)) == 0.0


def test_embeddings_do_not_depend_on_padding(tiny_model):
    rows = [list(e.input_ids) for e in examples()]
    together, alone = text_embeddings(tiny_model, rows), text_embeddings(tiny_model, rows[:1])
    assert together.shape == (6, 64) and together[0] == pytest.approx(alone[0], abs=1e-5)


def test_models_of_other_vocabularies_are_refused(tiny_model, tiny_tokenizer):
    import copy

    wider = copy.deepcopy(tiny_tokenizer)
    wider.add_tokens(["<new>"])
    with pytest.raises(ModelError, match="different vocabularies"):
        divergences(replace(tiny_model, tokenizer=wider, name="wider"), tiny_model, examples())
