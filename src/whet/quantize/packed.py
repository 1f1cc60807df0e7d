"""The packed form of a quantized model on disk: codes without gaps between their bits, everything else as it is.

A folder with ``config.json``, the tokenizer, ``whet.json``, ``packed.safetensors`` and ``packed.json``. For a layer ``L`` the
tensors are ``L.codes`` (int32, see ``whet.quantize.packing``), ``L.scales``, and where they exist ``L.zeros`` (packed like
codes), ``L.codebook`` (levels that vary between groups), ``L.order``; ``packed.json`` holds each layer's plan and shape. The
weights' file name is not the usual one, so that a program that cannot unpack it says so instead of starting from noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from whet import online
from whet.errors import ModelError
from whet.model import Model, default_device, read_lineage
from whet.quantize.blocks import weight_of
from whet.quantize.codes import QuantizedLinear
from whet.quantize.export import uncoded_tensors, write_lineage
from whet.quantize.grid import BitPlan, varying_levels
from whet.quantize.packing import pack, unpack
from whet.weight_files import read_header

WEIGHTS, INDEX = "packed.safetensors", "packed.json"
VERSION = 1


def is_packed(folder: str | Path) -> bool:
    """Whether :func:`load_packed` is the way to read a folder."""
    return (Path(folder) / INDEX).is_file()


def save_packed(model: Model, folder: str | Path) -> dict[str, Any]:
    """Writes a quantized model; returns the sizes in bytes.

    Raises:
        ModelError: the model is not quantized, or its weights were changed after quantization.
    """
    folder = Path(folder)
    if not model.quantized:
        raise ModelError(f"model {model.name!r} has no codes to pack; quantize it first, or save it as it is")
    refuse_changed(model)
    tensors, index = {}, {}
    for name, layer in model.quantized.items():
        found, index[name] = _layer_tensors(layer)
        tensors.update({f"{name}.{key}": tensor for key, tensor in found.items()})
    coded = sum(t.numel() * t.element_size() for t in tensors.values())
    tensors.update(uncoded_tensors(model))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"version": VERSION, "layers": index}, indent=1))
    model.network.config.save_pretrained(folder)
    write_lineage(model, folder)
    return {"bytes": (folder / WEIGHTS).stat().st_size, "bytes_of_codes": coded}


def load_packed(folder: str | Path, *, device: str | None = None) -> Model:
    """Reads what :func:`save_packed` wrote: the same codes, the same decoded weights bit for bit, online operations put back.

    Raises:
        ModelError: no packed model there, a file of a later version, or tensors that do not fit the configuration.
    """
    folder = Path(folder)
    if not is_packed(folder):
        raise ModelError(f"{folder}: no packed model, it has no {INDEX}")
    index = _index(folder / INDEX)
    read_header(folder / WEIGHTS)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    tensors = load_file(folder / WEIGHTS)
    network: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    layers = {name: _layer(name, tensors, entry) for name, entry in index["layers"].items()}
    weights = {f"{name}.weight": _oriented(network, name, layer) for name, layer in layers.items()}
    weights.update(_without_codes(tensors, layers))
    tied = _tied(network)
    missing, unexpected = network.load_state_dict(weights, strict=False, assign=True)
    if unexpected or set(missing) - tied:
        raise ModelError(f"{folder / WEIGHTS}: does not fit the configuration: {sorted({*unexpected, *missing} - tied)[:3]}")
    network.tie_weights()
    online.attach(network)
    network.to(device or default_device())
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    lineage = read_lineage(folder)
    return Model(network, tokenizer, lineage.get("name", folder.name), lineage, layers)


def _index(file: Path) -> dict[str, Any]:
    """The plans and shapes of the layers, as :func:`_layer_tensors` described them."""
    try:
        found = json.loads(file.read_bytes())
        version = found["version"]
        whole = version != VERSION or all(
            {"bits", "group_size", "symmetric", "columns", "dtype", "grid"} <= set(entry) for entry in found["layers"].values()
        )
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: damaged ({type(error).__name__}: {error}); fetch or write the folder again") from error
    if version != VERSION:
        raise ModelError(f"{file}: version {version!r}; this whet reads version {VERSION}")
    if not whole:
        raise ModelError(f"{file}: damaged: a layer has no complete plan; fetch or write the folder again")
    return dict(found)


def refuse_changed(model: Model) -> None:
    """Raises ModelError if the network's weights are no longer what the codes stand for."""
    for name, layer in model.quantized.items():
        if not torch.equal(weight_of(model.network.get_submodule(name)).cpu(), layer.decode().cpu()):
            raise ModelError(
                f"the weights of {name!r} differ from their codes: they were changed after quantization; quantize again"
            )


def _tied(network: Any) -> set[str]:
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    shared = head is not None and head.weight is embedding.weight
    return {name for name, p in network.named_parameters(remove_duplicate=False) if shared and p is head.weight}


def _layer_tensors(layer: QuantizedLinear) -> tuple[dict[str, Tensor], dict[str, Any]]:
    offset = 2 ** (layer.bits - 1) if layer.signed else 0
    tensors = {"codes": pack(layer.codes.to(torch.int16) + offset, layer.bits), "scales": layer.scales}
    entry: dict[str, Any] = {
        **asdict(layer.plan),
        "columns": layer.codes.shape[1],
        "dtype": str(layer.dtype).removeprefix("torch."),
        "grid": layer.grid,
    }
    if layer.zeros is not None:
        tensors["zeros"], entry["groups"] = pack(layer.zeros, layer.bits), layer.zeros.shape[1]
    if layer.codebook is not None:
        varying = varying_levels(layer.codebook)
        tensors["codebook"] = layer.codebook[..., varying]
        entry["levels"] = [None if v else float(level) for v, level in zip(varying, layer.codebook[0, 0], strict=True)]
    if layer.order is not None:
        tensors["order"] = layer.order.to(torch.int32)
    return tensors, entry


def _layer(name: str, tensors: Mapping[str, Tensor], entry: Mapping[str, Any]) -> QuantizedLinear:
    try:
        plan = BitPlan(entry["bits"], entry["group_size"], entry["symmetric"])
        codes, scales = unpack(tensors[f"{name}.codes"], plan.bits, entry["columns"]), tensors[f"{name}.scales"]
    except KeyError as error:
        raise ModelError(f"{WEIGHTS}: layer {name!r} is incomplete, {error} is missing; the file is damaged") from None
    zeros = unpack(tensors[f"{name}.zeros"], plan.bits, entry["groups"]) if "groups" in entry else None
    codebook = _codebook(tensors[f"{name}.codebook"], entry["levels"]) if "levels" in entry else None
    order = tensors[f"{name}.order"].long() if f"{name}.order" in tensors else None
    if zeros is None and codebook is None:
        codes = (codes.to(torch.int16) - 2 ** (plan.bits - 1)).to(torch.int8)
    return QuantizedLinear(codes, scales, plan, getattr(torch, entry["dtype"]), zeros, codebook, order, entry["grid"])


def _oriented(network: Any, name: str, layer: QuantizedLinear) -> Tensor:
    """Decoded weights the way the module stores them (GPT-2's are transposed)."""
    weight = layer.decode()
    return weight.T.contiguous() if isinstance(network.get_submodule(name), Conv1D) else weight


def _codebook(varying: Tensor, levels: list[float | None]) -> Tensor:
    book = varying.new_empty(*varying.shape[:2], len(levels))
    book[..., [i for i, level in enumerate(levels) if level is None]] = varying
    for i, level in enumerate(levels):
        if level is not None:
            book[..., i] = level
    return book


def _without_codes(tensors: Mapping[str, Tensor], layers: Mapping[str, QuantizedLinear]) -> dict[str, Tensor]:
    ends = ("codes", "scales", "zeros", "codebook", "order")
    coded = {f"{name}.{end}" for name in layers for end in ends}
    return {name: tensor for name, tensor in tensors.items() if name not in coded}
