import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from whet import online
from whet.errors import RecipeError
from whet.hadamard import is_hadamard, rotation
from whet.model import Model, load_model
from whet.quantize.calibration import CalibrationSet
from whet.quantize.fidelity import compare, probe_rows
from whet.quantize.transforms.hadamard import Hadamard

ROWS = probe_rows(300, 64)
NOTHING = CalibrationSet([])


def disturbed(network):
    """Gains, biases and weights away from their initial values."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.add_(torch.randn_like(p) * (0.2 if "norm" in name or "bias" in name else 0.05))
    return network.eval()


def qwen2(hidden=96):
    """Biases on q, k, v, grouped-query attention, untied head, a width that is no power of two."""
    config = Qwen2Config(
        vocab_size=300, hidden_size=hidden, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    return disturbed(Qwen2ForCausalLM(config))


def qwen3():
    config = Qwen3Config(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, head_dim=24,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    return disturbed(Qwen3ForCausalLM(config))


@pytest.mark.parametrize("n", [1, 2, 4, 12, 20, 28, 64, 96, 160, 192, 768, 896])
def test_sizes_with_a_hadamard_matrix_give_flat_orthogonal_rotations(n):
    r = rotation(n, seed=3).matrix()
    assert torch.allclose(r @ r.T, torch.eye(n, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(r.abs(), torch.full_like(r, n**-0.5), atol=1e-10)
    assert is_hadamard(n)


@pytest.mark.parametrize("n", [3, 6, 7, 63])
def test_other_sizes_are_orthogonal_but_not_flat(n):
    r = rotation(n).matrix()
    assert torch.allclose(r @ r.T, torch.eye(n, dtype=torch.float64), atol=1e-10)
    assert not is_hadamard(n)


def test_the_fast_product_is_the_kronecker_product():
    r = rotation(24, seed=5)
    sylvester = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    expected = r.signs[:, None] * torch.kron(sylvester / 2**0.5, r.base)
    assert torch.allclose(r.matrix(), expected)
    x = torch.randn(3, 5, 24)
    assert torch.allclose(r.right(x), x @ expected.float(), atol=1e-5)


def test_a_rotation_flattens_an_outlier_channel():
    x = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    x[:, 7] *= 50
    assert float(rotation(64).right(x).abs().max()) < 0.4 * float(x.abs().max())


@pytest.mark.parametrize(
    "settings", [{}, {"values": False}, {"residual": False}, {"down": True}, {"residual": False, "values": False, "down": True}]
)
@pytest.mark.parametrize("make", ["llama", qwen2, qwen3])
def test_logits_do_not_change(make, settings, tiny_model):
    network = disturbed(tiny_model.network) if make == "llama" else make()
    before = Model(network, tiny_model.tokenizer, "x").copy().network
    report = Hadamard(**settings).fit(network, NOTHING, seed=4).apply(network)
    found = compare(before, network, ROWS)
    assert found.max_logit_difference <= 1e-4
    assert found.kl <= 1e-6
    assert ("online" in report) == settings.get("down", False)


def test_afterwards_gains_are_one_and_the_head_is_its_own(tiny_model):
    network = disturbed(tiny_model.network)
    report = Hadamard().fit(network, NOTHING).apply(network)
    gains = [p for name, p in network.named_parameters() if "norm" in name]
    assert len(gains) == 5 and all(torch.equal(gain, torch.ones_like(gain)) for gain in gains)
    assert report["parameters_added_by_untying"] == network.lm_head.weight.numel()
    assert not network.config.tie_word_embeddings
    assert not torch.equal(network.lm_head.weight, network.model.embed_tokens.weight)


def test_seeds_give_different_rotations(tiny_model):
    networks = [tiny_model.copy().network for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        Hadamard().fit(network, NOTHING, seed=seed).apply(network)
    a, b, c = (network.model.embed_tokens.weight for network in networks)
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_online_rotations_survive_copying_saving_and_loading(tiny_model, tmp_path):
    network = tiny_model.copy().network
    Hadamard(down=True).fit(network, NOTHING).apply(network)
    model = Model(network, tiny_model.tokenizer, "rotated")
    assert list(online.operations(network)) == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    assert compare(network, model.copy().network, ROWS).max_logit_difference == 0
    loaded = load_model(model.save(tmp_path / "m"), device="cpu")
    assert compare(network, loaded.network, ROWS).max_logit_difference == 0
    online.attach(loaded.network)
    assert compare(network, loaded.network, ROWS).max_logit_difference == 0


def test_architectures_that_cannot_be_rotated_are_refused_by_name():
    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    with pytest.raises(
        RecipeError, match=r"cannot rotate Gemma2ForCausalLM: model.layers.0.\w+ also acts on the residual stream"
    ):
        Hadamard().fit(Gemma2ForCausalLM(Gemma2Config(**sizes)), NOTHING)
    with pytest.raises(RecipeError, match=r"cannot rotate GPT2LMHeadModel: transformer.h.0 has no input_layernorm"):
        Hadamard().fit(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2)), NOTHING)


def test_a_norm_of_another_form_is_refused(tiny_model):
    norm = tiny_model.network.model.layers[1].input_layernorm
    tiny_model.network.model.layers[1].input_layernorm = torch.nn.LayerNorm(len(norm.weight), bias=False)
    with pytest.raises(RecipeError, match=r"layers.1.input_layernorm is no RMSNorm"):
        Hadamard().fit(tiny_model.network, NOTHING)


def test_all_rotations_off_is_refused(tiny_model):
    with pytest.raises(RecipeError, match="use transform: none"):
        Hadamard(False, False, False).fit(tiny_model.network, NOTHING)
