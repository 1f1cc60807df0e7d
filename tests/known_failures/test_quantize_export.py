"""Known failures of other tools: memory nobody forecast, exports that do not load, formats read one off, silent conversions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import whet
from whet import parts
from whet.errors import ModelError, RecipeError
from whet.model import Model, load_model
from whet.quantize import memory
from whet.quantize.fidelity import compare, probe_rows
from whet.quantize.packed import INDEX, WEIGHTS, load_packed, save_packed
from whet.quantize.packing import pack
from whet.quantize.pipeline import quantize

ROWS = probe_rows(300, 256, 24, 40)


def quantized(model: Model, **settings: Any) -> Model:
    return quantize(model, ROWS, **{"group_size": 32, "compensate": "none", **settings})[0]


def test_memory_is_forecast_and_bounded_by_one_block(tiny_model: Model) -> None:
    """vllm-project/llm-compressor#2039 (with #2193): GPTQ fills 500 GB of host memory, with no word before."""
    receipt = quantize(tiny_model, ROWS, group_size=32, compensate="gptq")[1]
    forecast, hidden = receipt["forecast_bytes"], 64 * 4
    assert receipt["calibration"]["tokens"] * hidden <= forecast["activations"] <= 2 * receipt["calibration"]["tokens"] * hidden
    assert forecast["hessians"] == 8 * (6 * 64**2 + 128**2), "one block's, not the model's two"
    assert 0 < receipt["activation_bytes"] <= forecast["activations"]
    assert 0 < receipt["hessian_bytes"] <= forecast["hessians"]


def test_too_little_memory_is_said_before_the_first_block(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """vllm-project/llm-compressor#2039: the process dies after hours."""
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(RecipeError, match=r"needs about .* GiB beside the network .* GiB are free; give fewer or shorter"):
        quantize(tiny_model, ROWS, group_size=32)


EXPORTS = [
    ("compressed-tensors", {"symmetric": True}),
    ("compressed-tensors", {"symmetric": False}),
    ("packed", {"symmetric": False}),
    ("transformers", {"symmetric": False}),
]


@pytest.mark.peer
@pytest.mark.parametrize(("to", "settings"), EXPORTS, ids=[f"{to}-{s['symmetric']}" for to, s in EXPORTS])
def test_an_export_ends_with_an_independent_reload(to: str, settings: Any, tiny_model: Model, tmp_path: Path) -> None:
    """vllm-project/llm-compressor#959 (with #1075, #2255): the result does not load: KeyError weight_scale, weight_zero_point."""
    pytest.importorskip("compressed_tensors")
    model = quantized(tiny_model, **settings)
    receipt = whet.export(model, tmp_path / "out", to)
    assert receipt["reloaded"]["top1"] == 1.0 and receipt["reloaded"]["max_logit_difference"] < 1e-3
    if to != "packed":
        network = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
        assert compare(model.network, network, ROWS[:4]).max_logit_difference < 1e-3


@pytest.mark.peer
def test_an_export_that_lost_a_tensor_is_not_called_done(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vllm-project/llm-compressor#1075: a file without weight_zero_point leaves the tool, and only the server notices."""
    pytest.importorskip("compressed_tensors")
    from whet.quantize.exports import compressed_tensors as module

    def incomplete(tensors: dict[str, Any], path: Path, metadata: Any) -> None:
        save_file({k: v for k, v in tensors.items() if not k.endswith("zero_point")}, path, metadata=metadata)

    monkeypatch.setattr(module, "save_file", incomplete)
    with pytest.raises(ModelError, match=r"out: cannot be read back by transformers: .* the folder must not be used"):
        whet.export(quantized(tiny_model, symmetric=False), tmp_path / "out", "compressed-tensors")


def test_a_damaged_packed_file_names_the_layer(tiny_model: Model, tmp_path: Path) -> None:
    """vllm-project/llm-compressor#2255: a KeyError without the file, the layer or the way out."""
    save_packed(quantized(tiny_model), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors["model.layers.0.mlp.up_proj.scales"]
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=r"layer 'model.layers.0.mlp.up_proj' is incomplete, .*scales.* the file is damaged"):
        load_packed(tmp_path, device="cpu")


def test_the_packed_format_has_a_version_that_reading_checks(tiny_model: Model, tmp_path: Path) -> None:
    """vllm-project/vllm#26092 (with AutoGPTQ#640): two versions of a format differ by one, and the server prints `!!!!`."""
    save_packed(quantized(tiny_model), tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["version"] == 1
    for other in (2, None):
        (tmp_path / INDEX).write_text(json.dumps({**index, "version": other}))
        with pytest.raises(ModelError, match=rf"packed.json: version {other}; this whet reads version 1"):
            load_packed(tmp_path, device="cpu")


def by_hand(words: torch.Tensor, bits: int, columns: int) -> np.ndarray:
    """Codes out of int32 words by shifts alone, without the code under test."""
    mask = (1 << bits) - 1
    rows = []
    for row in words.numpy().view(np.uint32):
        stream = sum(int(word) << (32 * i) for i, word in enumerate(row))
        rows.append([(stream >> (bits * i)) & mask for i in range(columns)])
    return np.array(rows)


def test_the_golden_words_of_the_packed_format() -> None:
    """AutoGPTQ/AutoGPTQ#640: nobody wrote down whether a zero point is stored as it is or less one."""
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 15, 0]])
    assert [f"{int(w) & 0xFFFFFFFF:08x}" for w in pack(codes, 4)[0]] == ["87654321", "0000000f"]
    assert by_hand(pack(codes, 4), 4, 10).tolist() == codes.tolist()


def test_zero_points_are_stored_as_they_are_used(tiny_model: Model, tmp_path: Path) -> None:
    """vllm-project/vllm#26092: zero points differ by one between writer and reader."""
    model = quantized(tiny_model, symmetric=False)
    save_packed(model, tmp_path / "p")
    name, group = "model.layers.0.mlp.up_proj", 32
    tensors = load_file(tmp_path / "p" / WEIGHTS)
    codes, zeros = (by_hand(tensors[f"{name}.{key}"], 4, n) for key, n in (("codes", 64), ("zeros", 2)))
    scales = tensors[f"{name}.scales"].float().numpy()
    weight = (codes - zeros.repeat(group, 1)) * scales.repeat(group, 1)
    np.testing.assert_allclose(model.network.get_submodule(name).weight.detach().numpy(), weight, rtol=1e-6, atol=1e-7)


@pytest.mark.peer
def test_zero_points_in_compressed_tensors_are_stored_as_they_are_used(tiny_model: Model, tmp_path: Path) -> None:
    """vllm-project/vllm#26092: the same in the format that servers read."""
    pytest.importorskip("compressed_tensors")
    model = quantized(tiny_model, symmetric=False)
    whet.export(model, tmp_path / "c", "compressed-tensors")
    name, group = "model.layers.0.mlp.up_proj", 32
    tensors = load_file(tmp_path / "c" / "model.safetensors")
    codes = by_hand(tensors[f"{name}.weight_packed"], 4, 64)
    zeros = by_hand(tensors[f"{name}.weight_zero_point"].T.contiguous(), 4, 128).T
    weight = (codes - zeros.repeat(group, 1)) * tensors[f"{name}.weight_scale"].float().numpy().repeat(group, 1)
    np.testing.assert_allclose(model.network.get_submodule(name).weight.detach().numpy(), weight, rtol=1e-6, atol=1e-7)


@pytest.mark.peer
def test_the_exported_configuration_holds_nothing_that_it_does_not_use(tiny_model: Model, tmp_path: Path) -> None:
    """vllm-project/vllm#36799 (with #51190): an ordinary quantized model is refused because of a leftover sparsity field."""
    pytest.importorskip("compressed_tensors")
    whet.export(quantized(tiny_model, symmetric=True), tmp_path / "c", "compressed-tensors")
    config = json.loads((tmp_path / "c" / "config.json").read_text())["quantization_config"]
    assert set(config) == {"quant_method", "format", "quantization_status", "config_groups", "ignore"}
    assert config["format"] == "pack-quantized" and set(config["config_groups"]) == {"group_0"}
    assert "spars" not in json.dumps(config)


def test_what_a_conversion_did_to_the_model_is_part_of_the_artefact(tiny_model: Model, tmp_path: Path) -> None:
    """ggml-org/llama.cpp#7062: converting a model changes it in silence."""
    data = [{"prompt": f"What is {i} plus 4?", "completion": f"The answer is {i + 4}."} for i in range(32)]
    small = whet.quantize(tiny_model, data, bits=3, group_size=32)
    fidelity = small.lineage["step"]["receipt"]["fidelity"]
    assert fidelity["kl"] > 0 and 0 < fidelity["top1"] < 1 and fidelity["rows"] > 0
    receipt = whet.export(small, tmp_path / "plain", "transformers")
    assert receipt["reloaded"]["kl"] == pytest.approx(0, abs=1e-6) and receipt["reloaded"]["top1"] == 1.0
    written = json.loads((tmp_path / "plain" / "whet.json").read_text())
    assert written["step"]["receipt"]["fidelity"] == fidelity


def test_merging_into_quantized_weights_is_refused(tiny_model: Model, tmp_path: Path) -> None:
    """huggingface/peft#2321 (with #2105): merging into 4-bit weights silently changes the model."""
    small = quantized(tiny_model)
    with pytest.raises(ModelError, match="is quantized and its codes cannot be averaged; merge first, then quantize"):
        whet.edit([small, tiny_model], "soup", tmp_path / "out")
    with pytest.raises(RecipeError, match="would come out dense; take adapter scales, which keeps its codes"):
        whet.train(small, [{"prompt": "a", "completion": "b"}] * 4, adapter="lora", steps=1)
    with pytest.raises(ModelError, match="has no codes to pack"):
        whet.export(tiny_model, tmp_path / "p", "packed")


def test_merging_an_adapter_gives_the_logits_of_the_unmerged(tiny_model: Model) -> None:
    """huggingface/peft#2105: a merged adapter predicts something else than the adapter did."""
    adapter = parts.build("adapter", {"name": "lora", "r": 4})
    network = adapter.attach(tiny_model.copy().network).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        unmerged, start = network(ids).logits, tiny_model.network(ids).logits
        merged = adapter.merge(network)(ids).logits
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-4)
    assert float((merged - start).abs().max()) > 0.01


def test_weights_changed_after_quantization_are_not_exported(tiny_model: Model, tmp_path: Path) -> None:
    """huggingface/peft#2321: codes and weights part, and the file holds another model than was measured."""
    model = quantized(tiny_model)
    with torch.no_grad():
        model.network.model.layers[0].mlp.up_proj.weight.mul_(1.01)
    with pytest.raises(ModelError, match=r"differ from their codes: they were changed after quantization; quantize again"):
        whet.export(model, tmp_path / "out", "packed")
    assert load_model(tiny_model.save(tmp_path / "float"), device="cpu").quantized == {}
