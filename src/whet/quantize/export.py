"""What the exports share: lineage, and the check that a folder, read back, predicts what the model in memory does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from whet import online
from whet.errors import ModelError, RecipeError
from whet.model import LINEAGE_FILE, Model, template_hash, weights_hash
from whet.quantize.fidelity import compare, probe_rows

TOLERANCE = 1e-3
"""Largest change of a logit, relative to the largest one, that reading back may show; 4 units of rounding for shorter types."""


def refuse_online(model: Model, export: str) -> None:
    """Raises RecipeError if the network does something as it runs that plain weights cannot hold."""
    layers = list(operations) if (operations := online.operations(model.network)) else []
    if layers:
        raise RecipeError(
            f"export {export!r} cannot hold the online rotation of {layers[0]!r} ({len(layers)} layers in all): "
            "a plain loader would skip it; quantize with transform hadamard and down: false, or use export packed"
        )


def reload(folder: Path, device: Any) -> Any:
    """The folder's network as ``transformers`` alone reads it.

    Raises:
        ModelError: it cannot; the library's own reason is given.
    """
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder}: cannot be read back by transformers: {error}; the folder must not be used") from error
    return network.to(device).eval()


def assert_equal(model: Model, reloaded: Any, folder: Path) -> dict[str, Any]:
    """Compares predictions on fixed random rows.

    Returns:
        KL, top-1 agreement and the largest logit difference (0 where the copy is exact).

    Raises:
        ModelError: they differ by more than rounding.
    """
    rows = probe_rows(int(model.config.vocab_size), model.context)
    found = compare(model.network, reloaded, rows)
    if not found.max_logit_difference <= max(TOLERANCE, 4 * torch.finfo(model.network.dtype).eps):
        raise ModelError(
            f"{folder}: read back, the model predicts something else (logits off by {found.max_logit_difference:.2g} of the "
            f"largest, top-1 agreement {found.top1:.1%}); the folder must not be used"
        )
    return found.as_dict()


def assert_same_weights(model: Model, reloaded: Any, folder: Path) -> None:
    """Raises ModelError unless every quantized layer has the same weights, bit for bit, after reading back."""
    for name, layer in model.quantized.items():
        if not torch.equal(reloaded.get_submodule(name).weight.detach().cpu(), layer.decode().cpu()):
            raise ModelError(f"{folder}: read back, the weights of {name!r} are others; the folder must not be used")


def write_lineage(model: Model, folder: Path) -> None:
    """Writes tokenizer and ``whet.json``; the hash is that of the decoded weights."""
    model.tokenizer.save_pretrained(folder)
    template = model.lineage.get("template") or template_hash(model.tokenizer)
    hashes = {"weights": weights_hash(model.network.state_dict()), "template": template}
    (folder / LINEAGE_FILE).write_text(json.dumps({**model.lineage, "name": model.name, **hashes}, indent=1, default=str))


def uncoded_tensors(model: Model) -> dict[str, Tensor]:
    """Every tensor that has no codes, under one name where several share it."""
    coded = {f"{name}.weight" for name in model.quantized}
    seen: set[int] = set()
    kept = {}
    for name, tensor in model.network.state_dict().items():
        if name not in coded and tensor.data_ptr() not in seen:
            kept[name] = tensor
            seen.add(tensor.data_ptr())
    return kept


def folder_bytes(folder: Path) -> int:
    """Bytes of the weight files in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
