"""The one quantization pipeline: transform, then layer by layer fit, round and compensate, with a receipt.

Each of the six kinds of piece is exchangeable; any combination whose kinds fit together runs, the others are refused with
the reason. A quantization that was stopped goes on after the last block that it saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from whet import parts
from whet.errors import ModelError, RecipeError
from whet.model import Model
from whet.nonfinite import refuse_nonfinite
from whet.quantize.calibration import CalibrationSet
from whet.quantize.coding import Coding
from whet.quantize.fidelity import Predictions, probe_rows
from whet.quantize.grid import BitPlan
from whet.quantize.memory import peak_memory, refuse_too_large
from whet.quantize.progress import Progress, rows_hash
from whet.quantize.settings import QuantizeSettings, read_settings

INVARIANCE = 1e-3
"""Largest change of a logit by a transform, relative to the largest logit; 16 units of rounding for shorter weight types."""


def quantize(
    model: Model,
    calibration: Sequence[Sequence[int]] | CalibrationSet = (),
    *,
    seed: int = 0,
    name: str | None = None,
    checkpoint: Path | None = None,
    in_place: bool = False,
    **fields: Any,
) -> tuple[Model, dict[str, Any]]:
    """Quantizes the linear layers of a model's decoder blocks.

    Args:
        model: left as it is, unless ``in_place``; its network must not be quantized already.
        calibration: token rows, or a set that is already split. Empty is allowed for pieces that need none.
        seed: for the transform and the choice of calibration rows.
        name: of the new model; default: the old one with ``-w<bits>``.
        checkpoint: folder of the progress; a quantization found in it is continued. Without it nothing is saved.
        in_place: change the model's own network, so that no second one takes memory.
        fields: those of :class:`whet.quantize.settings.QuantizeSettings`; pieces may be built already.

    Returns:
        The model, whose network holds the decoded weights and whose ``quantized`` holds the codes; and the receipt.

    Raises:
        RecipeError: pieces that do not fit together, a wrong value, a pattern that matches nothing, too little memory.
        ModelError: NaN or Inf in weights or activations (names the tensor), an architecture that cannot be done.
        DataError: calibration rows that the model cannot read.
    """
    settings = read_settings(fields)
    if model.quantized:
        raise RecipeError(f"model {model.name!r} is quantized already; start from the float model that it was made of")
    plan = BitPlan(settings.bits, settings.group_size, settings.symmetric)
    settings.grid.check(plan)
    rows = calibration if isinstance(calibration, CalibrationSet) else settings.calibrate(model, calibration, seed=seed)
    _refuse_misfits(settings, rows)
    forecast = refuse_too_large(model.network, rows.tokens) if rows.rows else {}
    network = (model if in_place else model.copy()).network.eval()
    refuse_nonfinite(network.state_dict(), model.name)
    bytes_before = sum(p.numel() for p in network.parameters()) * _width(network)
    before = Predictions(network, rows.held_out) if rows.held_out else None
    coding = Coding(network, settings, rows, _scale_dtype(settings.scale_dtype, network.dtype))
    report = _transform(network, settings.transform, rows, seed)
    told = {**_told(settings), "seed": seed}
    identity = {**told, "weights": model.lineage.get("weights"), "calibration rows": rows_hash(rows.rows)}
    coding.run(plan, Progress(checkpoint, settings.checkpoint_seconds, identity))
    receipt = {
        "fidelity": before.compare().as_dict() if before else None,
        **_receipt(coding),
        "bytes_before": bytes_before,
        "transform": report,
        "settings": told,
        "defaults": [k for k, v in {**_told(read_settings({})), "seed": 0}.items() if told[k] == v],
        "forecast_bytes": forecast,
    }
    result = model.with_lineage({"quantize": told}, name or f"{model.name}-w{settings.bits}")
    return replace(result, network=network, quantized=coding.layers), receipt


def _told(settings: QuantizeSettings) -> dict[str, Any]:
    """The settings that decide the result, as plain data."""
    return {k: v for k, v in parts.effective(settings).items() if k not in ("name", "rows", "checkpoint_seconds")}


def _refuse_misfits(settings: QuantizeSettings, rows: CalibrationSet) -> None:
    """Refuses combinations that do not type-check, before any compute is spent."""
    for kind in ("transform", "rounding", "allocate", "compensate"):
        piece = getattr(settings, kind)
        if "calibration" in getattr(piece, "needs", ()) and not rows.rows:
            name = parts.effective(piece)["name"]
            raise RecipeError(f"{kind}: {name!r} needs calibration rows and none were given; give some or choose another {kind}")
    if settings.rounding.kind == "joint" and settings.compensate.kind == "feedback":
        raise RecipeError(
            "a joint rounding solves a whole layer at once and leaves no columns for error feedback; set compensate: none"
        )
    for kind, known in (("rounding", ("column",)), ("compensate", ("none", "feedback"))):
        found = getattr(settings, kind).kind
        if found not in known:
            raise RecipeError(f"{kind}: kind {found!r} cannot be run here; known: {', '.join(known)}")


def _scale_dtype(name: str, weights: torch.dtype) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if weights == torch.bfloat16 else torch.float16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _width(network: Any) -> int:
    return torch.finfo(network.dtype).bits // 8


def _transform(network: Any, transform: Any, rows: CalibrationSet, seed: int) -> dict[str, Any]:
    """Applies the transform and makes sure that the float network still computes the same."""
    name = parts.effective(transform)["name"]
    if name == "none":
        return {}
    probe = list(rows.held_out[:4]) or list(rows.rows[:4]) or probe_rows(network.config.vocab_size, 64)
    before = Predictions(network, probe)
    report = transform.fit(network, rows, seed=seed).apply(network)
    change = before.compare().max_logit_difference
    allowed = max(INVARIANCE, 16 * torch.finfo(network.dtype).eps)
    if not change <= allowed:
        raise ModelError(
            f"transform {name!r} changed the float network of {type(network).__name__}: logits moved by {change:.2g} of the "
            f"largest, more than {allowed:.2g}; it does not suit this architecture, set transform: none"
        )
    return {**report, "logit_difference": change}


def _receipt(coding: Coding) -> dict[str, Any]:
    network, rows, records = coding.network, coding.rows, coding.records
    coded = sum(layer.codes.numel() for layer in coding.layers.values())
    bits = sum(layer.storage_bits for layer in coding.layers.values())
    left = sum(p.numel() for p in network.parameters()) - coded
    return {
        "bits_per_weight": bits / max(coded, 1),
        "parameters_quantized": coded,
        "parameters_left_in_float": left,
        "bytes_after": bits // 8 + left * _width(network),
        "error_of": "outputs on the calibration rows" if rows.rows else "weights (no calibration rows)",
        "mean_error": sum(r["error"] for r in records.values()) / max(len(records), 1),
        "layers": records,
        "calibration": {**rows.receipt, "tokens": rows.tokens},
        "dtypes": {
            "weights": str(network.dtype),
            "arithmetic": "torch.float32",
            "factorization": "torch.float64",
            "scales": str(coding.scale_dtype),
        },
        "seconds": coding.seconds,
        "resumed_at": coding.resumed_at,
        "activation_bytes": coding.activation_bytes,
        "hessian_bytes": coding.hessian_bytes,
        "peak_memory_bytes": peak_memory(network.device),
    }
