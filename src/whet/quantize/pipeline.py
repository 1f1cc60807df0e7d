"""The one quantization pipeline: transform, then layer by layer fit, round and compensate, with a receipt.

Each of the six kinds of piece is exchangeable; any combination whose kinds fit together runs, the others are refused with
the reason. Blocks are done in forward order, each on the activations of the already quantized blocks before it. Only the
calibration set's hidden states at one depth and the Hessians of one block are held, whatever the depth of the network.
A quantization that was stopped goes on after the last block that it saved.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from whet import parts
from whet.errors import ModelError, RecipeError
from whet.interrupt import asked, deferred, stop_if_asked
from whet.model import Model
from whet.quantize.blocks import Stream, find_blocks, linears, set_weight, untie, weight_of
from whet.quantize.calibration import CalibrationSet, batches, refuse_small
from whet.quantize.codes import QuantizedLinear
from whet.quantize.columns import code_matrices
from whet.quantize.fidelity import compare, probe_rows
from whet.quantize.grid import BitPlan, GroupSize
from whet.quantize.hessian import output_error
from whet.quantize.memory import BATCH_TOKENS, held_batches, peak_memory, refuse_too_large
from whet.quantize.progress import Progress, Saved, rows_hash

INVARIANCE = 1e-3
"""Largest change of a logit by a transform, relative to the largest logit; 16 units of rounding for shorter weight types."""


def quantize(
    model: Model,
    calibration: Sequence[Sequence[int]] | CalibrationSet = (),
    *,
    transform: Any = "none",
    grid: Any = "uniform",
    rounding: Any = "nearest",
    allocate: Any = "same",
    compensate: Any = "gptq",
    calibrate: Any = "rows",
    bits: int = 4,
    group_size: GroupSize = 128,
    symmetric: bool = False,
    lm_head: bool = False,
    skip: Sequence[str] = (),
    scale_dtype: str = "auto",
    seed: int = 0,
    name: str | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 120.0,
) -> tuple[Model, dict[str, Any]]:
    """Quantizes the linear layers of a model's decoder blocks.

    Args:
        model: left as it is; its network must not be quantized already.
        calibration: token rows, or a set that is already split. Empty is allowed for pieces that need none.
        transform, grid, rounding, allocate, compensate, calibrate: pieces, as names, mappings with settings, or built.
        bits, group_size, symmetric: the plan that ``allocate`` starts from (4 bits, 128 columns, asymmetric: the field's
            usual weight-only setting); ``group_size`` may also be ``"channel"`` or ``"tensor"``.
        lm_head: quantize the output head too (its weights are untied from the embedding first). Off: it is small in large
            models and hurts most.
        skip: name patterns (shell style) of layers that stay in float.
        scale_dtype: what scales are stored in; ``auto`` is bfloat16 for bfloat16 weights and float16 for others.
        seed: for the transform and the choice of calibration rows.
        name: of the new model; default: the old one with ``-w<bits>``.
        checkpoint: folder of the progress; a quantization found in it is continued. Without it nothing is saved.
        checkpoint_seconds: longest time between two saves, but for the block under way (120, as in training).

    Returns:
        The model, whose network holds the decoded weights and whose ``quantized`` holds the codes; and the receipt.

    Raises:
        RecipeError: pieces that do not fit together, a wrong value, a pattern that matches nothing, too little memory.
        ModelError: NaN or Inf in weights or activations (names the tensor), an architecture that cannot be done.
        DataError: calibration rows that the model cannot read.
    """
    given = {k: v for k, v in locals().items() if k not in _NOT_SETTINGS}
    if model.quantized:
        raise RecipeError(f"model {model.name!r} is quantized already; start from the float model that it was made of")
    pieces = _Pieces(**{kind: _piece(kind, given[kind]) for kind in _KINDS})
    plan = BitPlan(bits, group_size, symmetric)
    pieces.grid.check(plan)
    rows = calibration if isinstance(calibration, CalibrationSet) else pieces.calibrate(model, calibration, seed=seed)
    pieces.check(rows)
    forecast = refuse_too_large(model.network, rows.tokens) if rows.rows else {}
    job = _Job(model.copy().network.eval(), pieces, rows, _scale_dtype(scale_dtype, model.network.dtype))
    _refuse_nonfinite(job.network)
    report = _transform(job, model.network, seed)
    settings = {k: parts.effective(getattr(pieces, k)) if k in _KINDS else v for k, v in given.items()}
    identity = {**settings, "weights": model.lineage.get("weights"), "calibration rows": rows_hash(rows.rows)}
    _run(job, plan, tuple(skip), lm_head, Progress(checkpoint, checkpoint_seconds, identity))
    receipt = {**_receipt(job, model.network, report, settings), "forecast_bytes": forecast}
    step = {"quantize": settings}
    result = model.with_lineage(step, name or f"{model.name}-w{bits}")
    return replace(result, network=job.network, quantized=job.layers), receipt


_NOT_SETTINGS = ("model", "calibration", "name", "checkpoint", "checkpoint_seconds")
_KINDS = ("transform", "grid", "rounding", "allocate", "compensate", "calibrate")


def _piece(kind: str, given: Any) -> Any:
    return parts.build(kind, given, kind) if isinstance(given, (str, Mapping)) else given


@dataclass(frozen=True)
class _Pieces:
    transform: Any
    grid: Any
    rounding: Any
    allocate: Any
    compensate: Any
    calibrate: Any

    def check(self, rows: CalibrationSet) -> None:
        """Refuses combinations that do not type-check, before any compute is spent."""
        for kind in ("transform", "rounding", "allocate", "compensate"):
            piece = getattr(self, kind)
            if "calibration" in getattr(piece, "needs", ()) and not rows.rows:
                name = parts.effective(piece)["name"]
                raise RecipeError(
                    f"{kind}: {name!r} needs calibration rows and none were given; give some or choose another {kind}"
                )
        if self.rounding.kind == "joint" and self.compensate.kind == "feedback":
            raise RecipeError(
                "a joint rounding solves a whole layer at once and leaves no columns for error feedback; set compensate: none"
            )
        for kind, piece, known in (
            ("rounding", self.rounding, ("column",)),
            ("compensate", self.compensate, ("none", "feedback")),
        ):
            if piece.kind not in known:
                raise RecipeError(f"{kind}: kind {piece.kind!r} cannot be run here; known: {', '.join(known)}")


@dataclass
class _Job:
    """What is done so far: the network being changed, codes and records by layer name."""

    network: Any
    pieces: _Pieces
    rows: CalibrationSet
    scale_dtype: torch.dtype
    layers: dict[str, QuantizedLinear] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    activation_bytes: int = 0
    hessian_bytes: int = 0
    seconds_before: float = 0.0
    resumed_at: int = 0

    def __post_init__(self) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent, in the runs before a stop too."""
        return self.seconds_before + time.monotonic() - self.started

    def resume(self, saved: Saved, stream: Stream | None) -> None:
        """Goes on where the saved quantization was."""
        for name, layer in saved.layers.items():
            self.layers[name] = layer
            set_weight(self.network.get_submodule(name), layer.decode().to(self.network.device))
        self.records.update(saved.records)
        self.activation_bytes = int(saved.figures.get("activation_bytes", 0))
        self.hessian_bytes = int(saved.figures.get("hessian_bytes", 0))
        self.seconds_before = saved.figures.get("seconds", 0.0)
        self.resumed_at = saved.blocks
        if stream is not None and saved.blocks:
            stream.depth = saved.blocks
            stream.hidden = [state.to(self.network.device) for state in saved.hidden]

    def saved(self, blocks: int, plans: Mapping[str, BitPlan], stream: Stream | None) -> Saved:
        """What is to be kept of this moment."""
        hidden = [state for state in stream.hidden if state is not None] if stream is not None else []
        figures = {"activation_bytes": self.activation_bytes, "hessian_bytes": self.hessian_bytes, "seconds": self.seconds}
        return Saved(blocks, self.layers, self.records, plans, hidden, figures)

    def code(self, layers: Mapping[str, nn.Module], hessian: Tensor | None, plans: Mapping[str, BitPlan]) -> None:
        """Quantizes layers that share an input and puts the decoded weights into the network."""
        pieces = self.pieces
        for plan, names in _alike({name: plans[name] for name in layers}):
            weights = {name: weight_of(layers[name]) for name in names}
            coded = code_matrices(
                weights, hessian, plan, pieces.grid, pieces.rounding, pieces.compensate, scale_dtype=self.scale_dtype
            )
            for name, (made, notes) in coded.items():
                self._keep(name, layers[name], hessian, plan, made, notes)

    def _keep(
        self, name: str, layer: nn.Module, hessian: Tensor | None, plan: BitPlan, made: QuantizedLinear, notes: Mapping[str, Any]
    ) -> None:
        weight, decoded = weight_of(layer), made.decode()
        if not bool(decoded.isfinite().all()):
            raise ModelError(f"the decoded weights of {name!r} hold NaN or Inf; set scale_dtype: float32")
        self.records[name] = {
            "error": output_error(weight, decoded, hessian),
            "bits": plan.bits,
            "group_size": plan.group_size,
            "bits_per_weight": round(made.bits_per_weight, 4),
            **notes,
        }
        self.layers[name] = made.cpu()
        set_weight(layer, decoded)


def _alike(plans: Mapping[str, BitPlan]) -> list[tuple[BitPlan, list[str]]]:
    """Layers that can be coded together: those of one plan, but for a scale per tensor, which no other layer may share."""
    groups: dict[tuple[BitPlan, str], list[str]] = {}
    for name, plan in plans.items():
        groups.setdefault((plan, name if plan.group_size == "tensor" else ""), []).append(name)
    return [(plan, names) for (plan, _), names in groups.items()]


def _scale_dtype(name: str, weights: torch.dtype) -> torch.dtype:
    allowed = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    if name == "auto":
        return torch.bfloat16 if weights == torch.bfloat16 else torch.float16
    if name not in allowed:
        raise RecipeError(f"scale_dtype: {name!r} is not one of auto, {', '.join(allowed)}")
    return allowed[name]


def _refuse_nonfinite(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ModelError(f"tensor {name!r} holds NaN or Inf; the checkpoint is damaged, take an earlier one")


def _transform(job: _Job, original: Any, seed: int) -> dict[str, Any]:
    """Applies the transform and makes sure that the float network still computes the same."""
    report = job.pieces.transform.fit(job.network, job.rows, seed=seed).apply(job.network)
    if not report:
        return {}
    rows = list(job.rows.held_out[:4]) or list(job.rows.rows[:4]) or probe_rows(original.config.vocab_size, 64)
    change = compare(original, job.network, rows).max_logit_difference
    allowed = max(INVARIANCE, 16 * torch.finfo(original.dtype).eps)
    if not change <= allowed:
        name = parts.effective(job.pieces.transform)["name"]
        raise ModelError(
            f"transform {name!r} changed the float network of {type(original).__name__}: logits moved by {change:.2g} of the "
            f"largest, more than {allowed:.2g}; it does not suit this architecture, set transform: none"
        )
    return {**report, "logit_difference": change}


def _run(job: _Job, plan: BitPlan, skip: tuple[str, ...], lm_head: bool, progress: Progress) -> None:
    blocks = find_blocks(job.network)
    wanted = {name: layer for prefix, block in blocks for name, layer in linears(block, prefix).items()}
    if lm_head:
        untie(job.network)
        wanted[_head_name(job.network)] = job.network.get_output_embeddings()
    saved = progress.load()
    plans = dict(saved.plans) or _plans(job, wanted, plan, skip)
    if "calibration" in getattr(job.pieces.compensate, "needs", ()):
        refuse_small(job.rows, {name: int(weight_of(wanted[name]).shape[1]) for name in plans})
    made = batches(job.rows.rows, BATCH_TOKENS)
    stream = Stream(job.network, made, held=held_batches(job.network, made)) if made else None
    job.resume(saved, stream)
    with deferred():
        _run_blocks(job, stream, plans, progress)
    if lm_head and _head_name(job.network) in plans:
        head = _head_name(job.network)
        hessian = stream.hessians({head: wanted[head]}, stream.logits)[head].matrix() if stream else None
        job.code({head: wanted[head]}, hessian, plans)


def _run_blocks(job: _Job, stream: Stream | None, plans: Mapping[str, BitPlan], progress: Progress) -> None:
    """Codes the blocks that are left, one after the other, and saves in between."""
    blocks = find_blocks(job.network)
    left = tqdm(blocks[job.resumed_at :], "quantize", len(blocks), initial=job.resumed_at, unit="block", disable=None)
    for done, (prefix, block) in enumerate(left, start=job.resumed_at + 1):
        layers = {name: layer for name, layer in linears(block, prefix).items() if name in plans}
        if stream is None:
            for name, layer in layers.items():
                job.code({name: layer}, None, plans)
        else:
            _code_block(job, stream, prefix, layers, plans)
            job.activation_bytes = max(job.activation_bytes, stream.bytes)
        stop = asked()
        if progress.due() or stop:
            progress.save(job.saved(done, plans, stream))
        if stop:
            stop_if_asked()


def _head_name(network: Any) -> str:
    head = network.get_output_embeddings()
    return next(name for name, module in network.named_modules() if module is head)


def _plans(job: _Job, wanted: Mapping[str, nn.Module], plan: BitPlan, skip: tuple[str, ...]) -> dict[str, BitPlan]:
    """Plans of the layers to be quantized, checked against the grid."""
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in wanted):
            raise RecipeError(f"skip: no layer matches {pattern!r}; layers look like {next(iter(wanted))!r}")
    kept = {name: layer for name, layer in wanted.items() if not any(fnmatchcase(name, pattern) for pattern in skip)}
    shapes = {name: (int(weight_of(layer).shape[0]), int(weight_of(layer).shape[1])) for name, layer in kept.items()}
    plans: dict[str, BitPlan] = job.pieces.allocate(job.network, shapes, plan)
    for layer_plan in set(plans.values()):
        job.pieces.grid.check(layer_plan)
    return plans


def _code_block(job: _Job, stream: Stream, prefix: str, layers: Mapping[str, nn.Module], plans: Mapping[str, BitPlan]) -> None:
    """Codes a block's layers and goes on to the next block; layers that share an input share its Hessian."""
    stages = [[name for name in stage if name in layers] for stage in stream.stages(prefix)]
    stages = [stage for stage in stages if stage]
    sequential = job.pieces.compensate.true_sequential
    passes = [[stage] for stage in stages] if sequential else [stages] if stages else []
    with stream.hold() if sequential else nullcontext():
        for together in passes:
            found = stream.hessians({stage[0]: layers[stage[0]] for stage in together})
            job.hessian_bytes = max(job.hessian_bytes, sum(h.bytes for h in found.values()))
            for stage in together:
                job.code({name: layers[name] for name in stage}, found.pop(stage[0]).matrix(), plans)
        stream.advance()


def _receipt(job: _Job, original: Any, report: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    coded = sum(layer.codes.numel() for layer in job.layers.values())
    bits = sum(layer.storage_bits for layer in job.layers.values())
    total = sum(p.numel() for p in job.network.parameters())
    width = torch.finfo(original.dtype).bits
    fidelity = compare(original, job.network, job.rows.held_out).as_dict() if job.rows.held_out else None
    return {
        "bits_per_weight": bits / max(coded, 1),
        "parameters_quantized": coded,
        "parameters_left_in_float": total - coded,
        "bytes_before": sum(p.numel() for p in original.parameters()) * width // 8,
        "bytes_after": (bits + (total - coded) * width) // 8,
        "error_of": "outputs on the calibration rows" if job.rows.rows else "weights (no calibration rows)",
        "mean_error": sum(r["error"] for r in job.records.values()) / max(len(job.records), 1),
        "layers": job.records,
        "transform": report,
        "calibration": {**job.rows.receipt, "tokens": job.rows.tokens},
        "fidelity": fidelity,
        "dtypes": {
            "weights": str(original.dtype),
            "arithmetic": "torch.float32",
            "factorization": "torch.float64",
            "scales": str(job.scale_dtype),
        },
        "settings": settings,
        "defaults": _defaults(settings),
        "seconds": job.seconds,
        "resumed_at": job.resumed_at,
        "activation_bytes": job.activation_bytes,
        "hessian_bytes": job.hessian_bytes,
        "peak_memory_bytes": peak_memory(original.device),
    }


def _defaults(settings: Mapping[str, Any]) -> list[str]:
    """Names of the stage's settings that have their default value."""
    signature = inspect.signature(quantize).parameters
    plain = {k: v["name"] if k in _KINDS and v == parts.effective(parts.build(k, v["name"])) else v for k, v in settings.items()}
    return [k for k, v in plain.items() if v == signature[k].default]
