"""Models from scratch: the variants of one network are what they say, train, and load as any other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from whet.architectures.llama import Llama
from whet.errors import RecipeError
from whet.generate.engine import generate
from whet.generate.sampling import Sampling
from whet.model import Model, load_model
from whet.parts import build
from whet.run.check import check_recipe

SMALL = Llama(hidden_size=32, layers=2, heads=2, key_value_heads=1, intermediate_size=64, vocab_size=300, context=64)
TEXTS = ["one two three four", "five six seven"]


def made(**changes: Any) -> Model:
    return dataclasses.replace(SMALL, **changes)(TEXTS, seed=3)


def test_the_default_is_a_plain_llama_with_the_weights_it_always_had() -> None:
    network = made().network
    assert type(network) is LlamaForCausalLM
    config = LlamaConfig(**{k: v for k, v in network.config.to_dict().items() if k not in ("architectures", "dtype")})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        again = LlamaForCausalLM(config)
    for name, weight in again.named_parameters():
        if not name.endswith(("o_proj.weight", "down_proj.weight")):
            assert torch.equal(weight, network.get_parameter(name)), name


def test_the_embedding_scale_scales_the_embedding_and_nothing_else() -> None:
    plain, scaled = made().network, made(embedding_scale=4.0).network
    for name, weight in plain.named_parameters():
        factor = 4.0 if name == "model.embed_tokens.weight" else 1.0
        assert torch.equal(factor * weight, scaled.get_parameter(name)), name
    assert scaled.lm_head.weight is scaled.model.embed_tokens.weight


def test_the_activation_is_the_one_that_is_named() -> None:
    x = torch.linspace(-3, 3, 7)
    for name in ("silu", "gelu", "relu"):
        activation = made(activation=name).network.model.layers[0].mlp.act_fn
        assert torch.allclose(activation(x), getattr(torch.nn.functional, name)(x))


def test_layer_normalization_centres_and_the_rest_is_the_same_network() -> None:
    plain, other = made().network, made(normalization="layer").network
    assert all(isinstance(m, torch.nn.LayerNorm) for n, m in other.named_modules() if n.endswith("norm"))
    shared = dict(plain.named_parameters()).keys() & dict(other.named_parameters()).keys()
    assert all(plain.get_parameter(n).shape == other.get_parameter(n).shape for n in shared)
    # On states that are centred already, both norms are one: the networks then agree if all else does.
    other.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for network in (plain, other):
            for name, weight in network.named_parameters():
                if name.endswith(("embed_tokens.weight", "o_proj.weight", "down_proj.weight")):
                    weight -= weight.mean(-1 if "embed" in name else 0, keepdim=True)
    ids = torch.tensor([[5, 9, 200, 31, 7]])
    assert torch.allclose(plain(ids).logits, other(ids).logits, atol=1e-5)


@pytest.mark.parametrize("changes", [{"normalization": "layer", "activation": "gelu"}, {"embedding_scale": 2.0}])
def test_variants_are_saved_loaded_and_sampled(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = made(**changes)
    model.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype="float32", device="cpu")
    ids = torch.tensor([[5, 9, 200, 31, 7]])
    assert torch.equal(plain(ids).logits, loaded.network(ids).logits)
    [completion] = generate(loaded, [[5, 9, 200]], Sampling(max_new_tokens=6, temperature=0.0))
    told = plain.generate(torch.tensor([[5, 9, 200]]), max_new_tokens=6, do_sample=False)[0, 3:].tolist()
    assert list(completion.ids)[: len(told)] == told


def test_the_invariants_hold_on_a_variant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHET_HOME", str(tmp_path))
    model = {"name": "llama", **dataclasses.asdict(dataclasses.replace(SMALL, normalization="layer", activation="relu"))}
    rows = {"name": "rows", "source": {"name": "chain-mod10", "steps": 2, "rows": 40}}
    train = {"name": "net", "data": "rows", "steps": 2, "batch_size": 4}
    result = check_recipe({"name": "variant", "model": model, "tokenizer_data": "rows", "data": [rows], "train": [train]})
    assert result.passed, result.text()


def test_what_is_no_variant_is_refused() -> None:
    with pytest.raises(RecipeError, match="normalization"):
        build("architecture", {"name": "llama", "normalization": "batch"})
    with pytest.raises(RecipeError, match="embedding_scale"):
        build("architecture", {"name": "llama", "embedding_scale": 0})
