"""A compressed-tensors folder (``pack-quantized``), which ``transformers`` loads and servers with kernels for its plan can.

For each quantized layer ``weight_packed`` (int32; codes offset to be unsigned, as a little-endian bit stream per row),
``weight_scale`` [out, groups], ``weight_shape``, and if asymmetric ``weight_zero_point`` (packed down the rows; per tensor, a
plain int8). ``config.json`` gets the ``quantization_config``: one config group per distinct plan. The folder is then read
back by ``AutoModelForCausalLM.from_pretrained`` alone and must give the logits of the model in memory.

With packed zero points the configuration asks ``transformers`` to decode the weights as it loads them (``dequantize``):
keeping them packed, it gives the zero points a wrong shape. Other consumers do not read that entry.

What the format cannot say is refused before anything is written: grids other than uniform, online rotations, groups that
do not divide a layer's width, groups along a column order (``act_order`` needs ``static_groups``), transposed layers (GPT-2).
Widths that do not divide 32 (3, 5, 6, 7 bits) are packed without gaps, as current versions of the library read them; versions
that left gaps in each word cannot, which reading back shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from whet.errors import RecipeError
from whet.model import Model, OtherTemplate, checked_template
from whet.quantize.codes import QuantizedLinear
from whet.quantize.export import (
    assert_equal,
    assert_same_weights,
    folder_bytes,
    refuse_online,
    reload,
    uncoded_tensors,
    write_lineage,
)
from whet.quantize.grid import BitPlan, GroupSize
from whet.quantize.packed import refuse_changed
from whet.quantize.packing import pack


def compressed_tensors(model: Model, folder: Path, *, other_template: OtherTemplate = "refuse") -> dict[str, Any]:
    """Writes the folder and checks it.

    Args:
        other_template: ``refuse`` or ``allow`` a chat template that is not the one stored with the weights.

    Returns:
        Receipt: bytes written, plans, and the comparison with the model in memory.

    Raises:
        RecipeError: the format cannot hold this model (says what and the way out), or the library is not installed.
        ModelError: another chat template, or read back, it predicts something else.
    """
    version = _library()
    model = checked_template(model, other_template)
    _refuse(model)
    refuse_changed(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = uncoded_tensors(model)
    for name, layer in model.quantized.items():
        tensors.update({f"{name}.{key}": tensor for key, tensor in _layer_tensors(layer).items()})
    save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    _write_config(model, folder)
    reloaded = reload(folder, model.device)
    check = assert_equal(model, reloaded, folder)
    assert_same_weights(model, reloaded, folder)
    return {
        "to": "compressed-tensors",
        "format": "pack-quantized",
        "library": version,
        "bytes": folder_bytes(folder),
        "reloaded": check,
    }


def _library() -> str:
    try:
        import compressed_tensors as library
    except ImportError:
        raise RecipeError(
            "export 'compressed-tensors' reads its result back with that library: pip install 'whet[export]'"
        ) from None
    return str(library.__version__)


def _refuse(model: Model) -> None:
    if not model.quantized:
        raise RecipeError(f"model {model.name!r} is not quantized; quantize it first or export it with --to transformers")
    refuse_online(model, "compressed-tensors")
    for name, layer in model.quantized.items():
        problem = _problem(model.network.get_submodule(name), layer)
        if problem:
            raise RecipeError(f"compressed-tensors cannot hold layer {name!r}: {problem}; or use export packed")
    plans = {_stated(layer) for layer in model.quantized.values()}
    if len(plans) > 1 and any(_zeros_are_packed(plan) for plan in plans):
        raise RecipeError(
            "transformers reads packed zero points only where all layers share one plan, and here are "
            f"{len(plans)}: {sorted(map(str, plans))}; quantize with symmetric: true, with one group_size that divides every "
            "layer, or use export packed"
        )


def _problem(module: nn.Module, layer: QuantizedLinear) -> str | None:
    columns, group = layer.codes.shape[1], layer.plan.group_size
    if layer.codebook is not None:
        return f"its grid {layer.grid!r} is not uniform; quantize with grid: uniform"
    if layer.order is not None:
        return "its groups follow the activation order; quantize with compensate gptq and static_groups: true"
    if problem := uneven(columns, group):
        return problem
    if not isinstance(module, nn.Linear):
        return f"it is a {type(module).__name__}, not a linear layer"
    return None


def uneven(columns: int, group: GroupSize) -> str | None:
    """Why a layer of that many columns cannot be stored in groups of that size; ``None`` if it can."""
    if not (isinstance(group, int) and columns > group and columns % group):
        return None
    fits = [g for g in (128, 64, 32, 16) if columns % g == 0]
    return f"groups of {group} do not divide its {columns} columns; quantize with group_size: {fits[0] if fits else 'channel'}"


def _layer_tensors(layer: QuantizedLinear) -> dict[str, Tensor]:
    half = 2 ** (layer.bits - 1)
    codes = layer.codes.to(torch.int16) + (half if layer.signed else 0)
    per_tensor = layer.plan.group_size == "tensor"
    tensors = {
        "weight_packed": pack(codes, layer.bits),
        "weight_scale": layer.scales.to(layer.dtype).flatten() if per_tensor else layer.scales.to(layer.dtype),
        "weight_shape": torch.tensor(layer.codes.shape, dtype=torch.int64),
    }
    if layer.zeros is not None and per_tensor:
        tensors["weight_zero_point"] = (layer.zeros.to(torch.int16) - half).to(torch.int8).flatten()
    elif layer.zeros is not None:
        tensors["weight_zero_point"] = pack(layer.zeros.T, layer.bits).T
    return tensors


def _write_config(model: Model, folder: Path) -> None:
    model.network.config.architectures = [type(model.network).__name__]
    model.network.config.save_pretrained(folder)
    if model.network.can_generate():
        model.network.generation_config.save_pretrained(folder)
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), "quantization_config": _quantization_config(model.network, model.quantized)}
    path.write_text(json.dumps(config, indent=2))
    write_lineage(model, folder)


def _quantization_config(network: nn.Module, layers: Mapping[str, QuantizedLinear]) -> dict[str, Any]:
    plans: dict[BitPlan, list[str]] = {}
    for name, layer in layers.items():
        plans.setdefault(_stated(layer), []).append(name)
    one = len(plans) == 1
    groups = {
        f"group_{i}": {"targets": ["Linear"] if one else names, "weights": _weights(plan)}
        for i, (plan, names) in enumerate(plans.items())
    }
    left = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name not in layers]
    return {
        **({"dequantize": True} if any(_zeros_are_packed(plan) for plan in plans) else {}),
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": left,
    }


def _stated(layer: QuantizedLinear) -> BitPlan:
    """The layer's plan in the format's words: one group as wide as the layer is a channel."""
    group = layer.plan.group_size
    return replace(layer.plan, group_size="channel") if isinstance(group, int) and group > layer.codes.shape[1] else layer.plan


def _zeros_are_packed(plan: BitPlan) -> bool:
    return not plan.symmetric and plan.group_size != "tensor"


def _weights(plan: BitPlan) -> dict[str, Any]:
    grouped = isinstance(plan.group_size, int)
    return {
        "num_bits": plan.bits,
        "type": "int",
        "symmetric": plan.symmetric,
        "strategy": "group" if grouped else plan.group_size,
        "group_size": plan.group_size if grouped else None,
        "dynamic": False,
    }
