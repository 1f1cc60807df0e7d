"""Codes a network's layers, block after block in forward order, each on the activations of the coded blocks before it.

Only the calibration set's hidden states at one depth and the Hessians of one block are held, whatever the depth of the network.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from whet.errors import ModelError, RecipeError
from whet.interrupt import asked, deferred, stop_if_asked
from whet.quantize.blocks import find_blocks, linears, set_weight, untie, weight_of
from whet.quantize.calibration import CalibrationSet, batches, refuse_small
from whet.quantize.codes import QuantizedLinear
from whet.quantize.columns import code_matrices
from whet.quantize.grid import BitPlan
from whet.quantize.hessian import output_error
from whet.quantize.memory import BATCH_TOKENS
from whet.quantize.progress import Progress, Saved
from whet.quantize.settings import QuantizeSettings
from whet.quantize.stream import Stream


@dataclass
class Coding:
    """What is done so far: the network being changed, codes and records by layer name, the largest sizes that were held."""

    network: Any
    settings: QuantizeSettings
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

    def run(self, plan: BitPlan, progress: Progress) -> None:
        """Codes every layer that is to be coded and was not before a stop."""
        blocks = find_blocks(self.network)
        wanted = {name: layer for prefix, block in blocks for name, layer in linears(block, prefix).items()}
        head = self._free_head() if self.settings.lm_head else {}
        wanted.update(head)
        saved = progress.load()
        plans = dict(saved.plans) or self.plans(wanted, plan)
        if "calibration" in getattr(self.settings.compensate, "needs", ()):
            refuse_small(self.rows, {name: int(weight_of(wanted[name]).shape[1]) for name in plans})
        made = batches(self.rows.rows, BATCH_TOKENS)
        stream = Stream(self.network, made) if made else None
        self._resume(saved, stream)
        with deferred():
            self._run_blocks(stream, plans, progress)
        for name in head.keys() & plans.keys():
            self.code(head, stream.hessians(head)[name].matrix() if stream else None, plans)

    def plans(self, wanted: Mapping[str, nn.Module], plan: BitPlan) -> dict[str, BitPlan]:
        """Plans of the layers to be coded, checked against the grid."""
        skip = self.settings.skip
        for pattern in skip:
            if not any(fnmatchcase(name, pattern) for name in wanted):
                raise RecipeError(f"skip: no layer matches {pattern!r}; layers look like {next(iter(wanted))!r}")
        kept = {name: layer for name, layer in wanted.items() if not any(fnmatchcase(name, pattern) for pattern in skip)}
        shapes = {name: (int(weight_of(layer).shape[0]), int(weight_of(layer).shape[1])) for name, layer in kept.items()}
        plans: dict[str, BitPlan] = self.settings.allocate(self.network, shapes, plan)
        for layer_plan in set(plans.values()):
            self.settings.grid.check(layer_plan)
        return plans

    def code(self, layers: Mapping[str, nn.Module], hessian: Tensor | None, plans: Mapping[str, BitPlan]) -> None:
        """Codes layers that share an input and puts the decoded weights into the network."""
        pieces = self.settings
        for plan, names in _alike({name: plans[name] for name in layers}):
            weights = {name: weight_of(layers[name]) for name in names}
            coded = code_matrices(
                weights, hessian, plan, pieces.grid, pieces.rounding, pieces.compensate, scale_dtype=self.scale_dtype
            )
            single = None if hessian is None else hessian.float()
            for name, (made, notes) in coded.items():
                self._keep(name, layers[name], made, {"error": output_error(weights[name], made.decode(), single), **notes})

    def _keep(self, name: str, layer: nn.Module, made: QuantizedLinear, notes: Mapping[str, Any]) -> None:
        decoded = made.decode()
        if not bool(decoded.isfinite().all()):
            raise ModelError(f"the decoded weights of {name!r} hold NaN or Inf; set scale_dtype: float32")
        plan = {"bits": made.bits, "group_size": made.plan.group_size, "bits_per_weight": round(made.bits_per_weight, 4)}
        self.records[name] = {**plan, **notes}
        self.layers[name] = made.cpu()
        set_weight(layer, decoded)

    def _run_blocks(self, stream: Stream | None, plans: Mapping[str, BitPlan], progress: Progress) -> None:
        """Codes the blocks that are left, one after the other, and saves in between."""
        blocks = find_blocks(self.network)
        left = tqdm(blocks[self.resumed_at :], "quantize", len(blocks), initial=self.resumed_at, unit="block", disable=None)
        for done, (prefix, block) in enumerate(left, start=self.resumed_at + 1):
            layers = {name: layer for name, layer in linears(block, prefix).items() if name in plans}
            if stream is None:
                for name, layer in layers.items():
                    self.code({name: layer}, None, plans)
            else:
                self._code_block(stream, prefix, layers, plans)
                self.activation_bytes = max(self.activation_bytes, stream.bytes)
            stop = asked()
            if progress.due() or stop:
                progress.save(self._saved(done, plans, stream))
            if stop:
                stop_if_asked()

    def _code_block(self, stream: Stream, prefix: str, layers: Mapping[str, nn.Module], plans: Mapping[str, BitPlan]) -> None:
        """Codes a block's layers and goes on to the next block; layers that share an input share its Hessian."""
        stages = [kept for stage in stream.stages(prefix) if (kept := [name for name in stage if name in layers])]
        sequential = self.settings.compensate.true_sequential
        for together in [[stage] for stage in stages] if sequential else [stages] if stages else []:
            found = stream.hessians({stage[0]: layers[stage[0]] for stage in together})
            self.hessian_bytes = max(self.hessian_bytes, sum(h.bytes for h in found.values()))
            for stage in together:
                self.code({name: layers[name] for name in stage}, found.pop(stage[0]).matrix(), plans)
        stream.advance()

    def _free_head(self) -> dict[str, nn.Module]:
        """The output head by its name, with weights of its own."""
        untie(self.network)
        head = self.network.get_output_embeddings()
        return {next(name for name, module in self.network.named_modules() if module is head): head}

    def _resume(self, saved: Saved, stream: Stream | None) -> None:
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

    def _saved(self, blocks: int, plans: Mapping[str, BitPlan], stream: Stream | None) -> Saved:
        """What is to be kept of this moment."""
        hidden = [state for state in stream.hidden if state is not None] if stream is not None else []
        figures = {"activation_bytes": self.activation_bytes, "hessian_bytes": self.hessian_bytes, "seconds": self.seconds}
        return Saved(blocks, self.layers, self.records, plans, hidden, figures)


def _alike(plans: Mapping[str, BitPlan]) -> list[tuple[BitPlan, list[str]]]:
    """Layers that can be coded together: those of one plan, but for a scale per tensor, which no other layer may share."""
    groups: dict[tuple[BitPlan, str], list[str]] = {}
    for name, plan in plans.items():
        groups.setdefault((plan, name if plan.group_size == "tensor" else ""), []).append(name)
    return [(plan, names) for (plan, _), names in groups.items()]
