import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from whet import parts
from whet.errors import ModelError, RecipeError
from whet.model import Model, load_model
from whet.quantize.fidelity import compare, probe_rows
from whet.quantize.packed import is_packed, load_packed, save_packed
from whet.quantize.pipeline import quantize

ROWS = probe_rows(300, 256, 24, 40)


def export(name, model, folder):
    return parts.build("export", name)(model, folder)


def small(model, **settings):
    return quantize(model, ROWS, **{"group_size": 32, **settings})[0]


def in_bfloat16(model, tmp_path):
    """As a checkpoint in that type is loaded: weights in it, position frequencies in float32."""
    folder = replace(model, network=model.copy().network.to(torch.bfloat16)).save(tmp_path / "bf16")
    return load_model(folder, device="cpu")


PACKED = [
    *({"bits": bits, "symmetric": symmetric} for bits in range(2, 9) for symmetric in (False, True)),
    {"grid": "ternary", "bits": 2},
    {"compensate": {"name": "gptq", "act_order": True}},
    {"group_size": "tensor"},
    {"group_size": 48},
    {"transform": {"name": "hadamard", "down": True}},
    {"lm_head": True},
    {"scale_dtype": "float32"},
]


@pytest.mark.parametrize("settings", PACKED, ids=str)
def test_packed_folders_are_read_back_bit_for_bit(tiny_model, tmp_path, settings):
    model = small(tiny_model, **{"compensate": "none", **settings})
    sizes = save_packed(model, tmp_path / "p")
    again = load_packed(tmp_path / "p", device="cpu")
    ours, theirs = model.network.state_dict(), again.network.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name, layer in model.quantized.items():
        other = again.quantized[name]
        assert torch.equal(layer.codes, other.codes) and torch.equal(layer.decode(), other.decode())
        assert (layer.plan, layer.grid, layer.storage_bits) == (other.plan, other.grid, other.storage_bits)
    assert compare(model.network, again.network, ROWS).max_logit_difference == 0
    assert again.lineage["step"]["quantize"]["bits"] == settings.get("bits", 4)
    stated = sum(layer.storage_bits for layer in model.quantized.values()) / 8
    assert stated - 100 <= sizes["bytes_of_codes"] <= 1.2 * stated + 4000


def test_a_packed_folder_in_bfloat16(tiny_model, tmp_path):
    model = small(in_bfloat16(tiny_model, tmp_path), symmetric=True)
    receipt = export("packed", model, tmp_path / "p")
    assert receipt["reloaded"]["max_logit_difference"] == 0
    assert load_packed(tmp_path / "p", device="cpu").network.dtype == torch.bfloat16


def test_a_packed_folder_is_not_mistaken_for_a_plain_one(tiny_model, tmp_path):
    save_packed(small(tiny_model, compensate="none"), tmp_path / "p")
    assert is_packed(tmp_path / "p") and not is_packed(tmp_path)
    with pytest.raises(ModelError, match="cannot load model"):
        load_model(tmp_path / "p")
    with pytest.raises(ModelError, match=r"no packed model, it has no packed.json"):
        load_packed(tmp_path)


def test_damaged_packed_folders_are_refused(tiny_model, tmp_path):
    save_packed(small(tiny_model, compensate="none"), tmp_path / "p")
    path = tmp_path / "p" / "packed.safetensors"
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if k != "model.layers.0.mlp.up_proj.codes"}, path)
    with pytest.raises(ModelError, match=r"'model.layers.0.mlp.up_proj' is incomplete"):
        load_packed(tmp_path / "p")
    save_file({k: v for k, v in tensors.items() if k != "model.norm.weight"}, path)
    with pytest.raises(ModelError, match=r"does not fit the configuration: \['model.norm.weight'\]"):
        load_packed(tmp_path / "p")
    index = tmp_path / "p" / "packed.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "version": 99}))
    with pytest.raises(ModelError, match="version 99; this whet reads version 1"):
        load_packed(tmp_path / "p")


COMPRESSED = [
    *({"bits": bits, "symmetric": symmetric} for bits in (2, 3, 4, 8) for symmetric in (False, True)),
    {"group_size": "channel"},
    {"group_size": "channel", "symmetric": True},
    {"group_size": "tensor"},
    {"group_size": 128, "symmetric": True},
    {"transform": "hadamard"},
    {"lm_head": True},
    {"skip": ["*.o_proj"]},
    {"compensate": {"name": "gptq", "act_order": True, "static_groups": True}},
    {"symmetric": True, "allocate": {"name": "same", "overrides": {"*.down_proj": {"bits": 8}}}},
]


@pytest.mark.peer
@pytest.mark.parametrize("settings", COMPRESSED, ids=str)
def test_transformers_alone_reads_a_compressed_tensors_folder_as_the_same_model(tiny_model, tmp_path, settings):
    pytest.importorskip("compressed_tensors")
    model = small(tiny_model, **settings)
    receipt = export("compressed-tensors", model, tmp_path / "c")
    assert receipt["reloaded"]["max_logit_difference"] == 0 and receipt["reloaded"]["top1"] == 1
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "c").eval()
    found = compare(model.network, network, ROWS)
    assert found.max_logit_difference == 0
    config = json.loads((tmp_path / "c" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "pack-quantized"
    assert ("lm_head" in config["ignore"]) != settings.get("lm_head", False)


@pytest.mark.peer
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_compressed_tensors_folder_in_bfloat16(tiny_model, tmp_path, symmetric):
    pytest.importorskip("compressed_tensors")
    model = small(in_bfloat16(tiny_model, tmp_path), symmetric=symmetric)
    assert export("compressed-tensors", model, tmp_path / "c")["reloaded"]["max_logit_difference"] == 0


@pytest.mark.peer
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"grid": "ternary", "bits": 2}, "grid 'ternary' is not uniform"),
        (
            {"transform": {"name": "hadamard", "down": True}},
            r"cannot hold the online rotation of 'model.layers.0.mlp.down_proj' \(2 layers",
        ),
        ({"compensate": {"name": "gptq", "act_order": True}}, "groups follow the activation order; .* static_groups: true"),
        ({"group_size": 48}, "groups of 48 do not divide its 64 columns; quantize with group_size: 64"),
        ({"group_size": 128}, "packed zero points only where all layers share one plan"),
    ],
)
def test_what_compressed_tensors_cannot_say_is_refused_before_writing(tiny_model, tmp_path, settings, message):
    pytest.importorskip("compressed_tensors")
    with pytest.raises(RecipeError, match=message):
        export("compressed-tensors", small(tiny_model, **settings), tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.peer
def test_transposed_layers_are_packed_but_not_compressed(tiny_tokenizer, tmp_path):
    pytest.importorskip("compressed_tensors")
    torch.manual_seed(0)
    network = GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=1)
    ).eval()
    model = small(Model(network, tiny_tokenizer, "gpt2"))
    assert export("packed", model, tmp_path / "p")["reloaded"]["max_logit_difference"] == 0
    with pytest.raises(RecipeError, match="is a Conv1D, not a linear layer; or use export packed"):
        export("compressed-tensors", model, tmp_path / "c")


def test_a_float_model_is_refused_where_codes_are_needed(tiny_model, tmp_path):
    with pytest.raises(ModelError, match="has no codes to pack"):
        export("packed", tiny_model, tmp_path)
    pytest.importorskip("compressed_tensors")
    with pytest.raises(RecipeError, match="is not quantized"):
        export("compressed-tensors", tiny_model, tmp_path)


def test_weights_changed_after_quantization_are_refused(tiny_model, tmp_path):
    model = small(tiny_model, compensate="none")
    with torch.no_grad():
        model.network.model.layers[0].mlp.up_proj.weight.mul_(1.01)
    with pytest.raises(ModelError, match=r"'model.layers.0.mlp.up_proj' differ from their codes"):
        save_packed(model, tmp_path)


@pytest.mark.parametrize("transform", ["none", "hadamard"])
def test_a_plain_folder_is_the_same_model(tiny_model, tmp_path, transform):
    model = small(tiny_model, transform=transform, grid="ternary", bits=2)
    receipt = export("transformers", model, tmp_path / "t")
    assert receipt["reloaded"]["max_logit_difference"] == 0 and receipt["layers_decoded"] == 14
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "t").eval()
    assert compare(model.network, network, ROWS).max_logit_difference == 0


def test_a_plain_folder_cannot_hold_online_rotations(tiny_model, tmp_path):
    model = small(tiny_model, transform={"name": "hadamard", "down": True}, compensate="none")
    with pytest.raises(RecipeError, match="a plain loader would skip it"):
        export("transformers", model, tmp_path / "t")


def test_a_float_model_can_be_exported_plainly(tiny_model, tmp_path):
    assert export("transformers", tiny_model, tmp_path / "t")["reloaded"]["kl"] == 0
