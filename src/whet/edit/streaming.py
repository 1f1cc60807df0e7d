"""The one pass over the tensors that every edit is an instance of.

An edit gives ``combine``, which sees one tensor of every model at a time; :func:`run_job` does the rest: checks, reading,
writing, configuration, tokenizer, lineage and receipt. Arithmetic is one width above what is stored (float32 for 16-bit
weights, float64 for float32), so that merging a model with itself gives back its bits.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whet.edit.folders import (
    check_alike,
    check_related,
    config_differences,
    copy_side_files,
    folder_hash,
    lineage_of,
    open_checkpoint,
    template_of,
)
from whet.edit.job import MergeJob, names_of
from whet.edit.tensors import Checkpoint, Entry, write_checkpoint
from whet.errors import ModelError
from whet.model import LINEAGE_FILE


@dataclass(frozen=True)
class Slot:
    """One tensor's place in all models. Every access reads from disk, so only what the edit keeps stays in memory."""

    name: str
    shape: tuple[int, ...]
    arithmetic: torch.dtype
    ancestor: Checkpoint | None
    checkpoints: Sequence[Checkpoint]

    @property
    def base(self) -> Tensor:
        """The ancestor's tensor in the arithmetic dtype."""
        if self.ancestor is None:
            raise ModelError("this edit needs the base model that the others were tuned from: give base")
        return self._load(self.ancestor)

    def tensors(self) -> Iterator[Tensor]:
        """Every model's tensor, one after another, in the arithmetic dtype."""
        return (self._load(c) for c in self.checkpoints)

    def tensor(self, model: int) -> Tensor:
        return self._load(self.checkpoints[model])

    def _load(self, checkpoint: Checkpoint) -> Tensor:
        tensor = checkpoint[self.name].to(self.arithmetic)
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{checkpoint.folder}: tensor {self.name!r} holds NaN or Inf; take an earlier checkpoint")
        return tensor


Combine = Callable[[Slot], Tensor]


@dataclass
class Tally:
    """Counts of one pass, for the receipt."""

    merged: int = 0
    copied: list[str] = field(default_factory=list)
    differing_buffers: list[str] = field(default_factory=list)
    change: float = 0.0
    norm: float = 0.0


def run_job(
    merge: MergeJob,
    combine: Combine,
    settings: Mapping[str, Any],
    formula: str,
    weights: Sequence[float],
    extra: Callable[[], Mapping[str, Any]] = dict,
) -> dict[str, Any]:
    """Merges into ``merge.output`` and returns the receipt.

    The folder appears whole: it is written aside and renamed. Weights are stored in the base's dtype (the first model's if
    there is no base); configuration and tokenizer are the first model's.

    Args:
        combine: gives the merged tensor of a slot, in the slot's arithmetic dtype.
        settings: the edit's settings, for lineage and receipt.
        formula: the effective formula in words that the reader of the receipt can check.
        weights: the effective (normalized) weights that stand in the formula.
        extra: what the edit adds to the receipt; asked after the pass.

    Raises:
        ModelError: the folders do not belong together, the output is not empty, or a result overflows its dtype.
    """
    started = time.perf_counter()
    checkpoints, ancestor, cosines = _open_all(merge)
    output = Path(merge.output)
    _refuse_output(output, merge)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        tally, written = _pass(merge, checkpoints, ancestor, combine, aside)
        copy_side_files(checkpoints[0].folder, aside, (ancestor or checkpoints[0]).dtype)
        receipt = {
            **_receipt(tally, checkpoints, ancestor, Checkpoint(aside)),
            **written,
            "settings": dict(settings),
            "formula": formula,
            "models": names_of(merge),
            "base": Path(merge.base).name if merge.base else None,
            "weights": [float(w) for w in weights],
            "cosines": cosines,
            "seconds": round(time.perf_counter() - started, 3),
            **extra(),
        }
        _write_lineage(aside, output.name, [*([ancestor] if ancestor else []), *checkpoints], receipt)
        aside.chmod(0o755)
        if output.exists():
            output.rmdir()
        aside.replace(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return receipt


def open_models(merge: MergeJob) -> tuple[list[Checkpoint], Checkpoint | None]:
    """Opens all folders and refuses those whose tensors do not correspond."""
    if not merge.models:
        raise ModelError("nothing to merge: give at least one model")
    checkpoints = [open_checkpoint(Path(m)) for m in merge.models]
    ancestor = open_checkpoint(Path(merge.base)) if merge.base else None
    for other in [*checkpoints[1:], *([ancestor] if ancestor else [])]:
        check_alike(checkpoints[0], other)
    return checkpoints, ancestor


def slots(checkpoints: Sequence[Checkpoint], ancestor: Checkpoint | None) -> Iterator[Slot]:
    """The slots of all floating tensors, for edits that need a pass of their own before merging."""
    for name, entry in (ancestor or checkpoints[0]).entries.items():
        if entry.dtype.is_floating_point:
            yield Slot(name, entry.shape, arithmetic_of(entry.dtype), ancestor, checkpoints)


def arithmetic_of(stored: torch.dtype) -> torch.dtype:
    return torch.float32 if stored.itemsize <= 2 else torch.float64


def _open_all(merge: MergeJob) -> tuple[list[Checkpoint], Checkpoint | None, list[float]]:
    checkpoints, ancestor = open_models(merge)
    start = ancestor or checkpoints[0]
    cosines = [check_related(start, c) for c in checkpoints if c is not start]
    return checkpoints, ancestor, [round(c, 6) for c in cosines]


def _refuse_output(output: Path, merge: MergeJob) -> None:
    if output.resolve() in {Path(m).resolve() for m in [*merge.models, *([merge.base] if merge.base else [])]}:
        raise ModelError(f"{output}: is one of the models being merged; write to another folder")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ModelError(f"{output}: already exists and is not empty; take another folder or remove it")


def _pass(
    merge: MergeJob, checkpoints: Sequence[Checkpoint], ancestor: Checkpoint | None, combine: Combine, folder: Path
) -> tuple[Tally, dict[str, int]]:
    reference, tally = ancestor or checkpoints[0], Tally()
    layout: dict[str, Entry] = dict(sorted(reference.entries.items()))

    def compute(name: str) -> Tensor:
        entry = layout[name]
        if not entry.dtype.is_floating_point:
            return _copy(name, reference, checkpoints, tally)
        slot = Slot(name, entry.shape, arithmetic_of(entry.dtype), ancestor, checkpoints)
        merged = combine(slot)
        result = merged.to(entry.dtype)
        if not bool(result.isfinite().all()):
            raise ModelError(f"tensor {name!r}: the merged values overflow {entry.dtype}; use smaller weights or a wider base")
        before = reference[name].to(slot.arithmetic)
        tally.norm += float(torch.linalg.vector_norm(before)) ** 2
        tally.change += float(torch.linalg.vector_norm(before.sub_(merged))) ** 2
        tally.merged += 1
        return result

    return tally, write_checkpoint(folder, layout, compute, merge.shard_bytes)


def _copy(name: str, reference: Checkpoint, checkpoints: Sequence[Checkpoint], tally: Tally) -> Tensor:
    tensor = reference[name]
    tally.copied.append(name)
    if any(not torch.equal(tensor, c[name]) for c in checkpoints):
        tally.differing_buffers.append(name)
    return tensor


def _receipt(tally: Tally, checkpoints: Sequence[Checkpoint], ancestor: Checkpoint | None, result: Checkpoint) -> dict[str, Any]:
    everyone = [*([ancestor] if ancestor else []), *checkpoints]
    first, stored = checkpoints[0].folder.name, {c.folder.name: _short(c.dtype) for c in everyone}
    notes = []
    if len({c.dtype for c in everyone}) > 1:
        notes.append(f"stored dtypes differ ({stored}); the result has {_short(result.dtype)}")
    if len({template_of(c.folder) for c in everyone}) > 1:
        notes.append(f"chat templates differ; the result carries that of {first}")
    differences = config_differences(everyone)
    if differences:
        notes.append(f"configurations differ; the result carries that of {first}")
    return {
        "tensors_merged": tally.merged,
        "tensors_copied": tally.copied,
        "buffers_that_differed": tally.differing_buffers,
        "tied": dict(result.tied),
        "changed_keys": sorted({name for c in everyone for name in c.dropped}),
        "changed_shapes": [n for n, e in result.entries.items() if any(e.shape != c.entries[n].shape for c in everyone)],
        "config_differences": differences,
        "dtype": {"stored": _short(result.dtype), "arithmetic": _short(arithmetic_of(result.dtype))},
        "relative_change": math.sqrt(tally.change / tally.norm) if tally.norm else 0.0,
        "notes": notes,
    }


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_lineage(folder: Path, name: str, parents: Sequence[Checkpoint], receipt: Mapping[str, Any]) -> None:
    template = template_of(folder)
    lineage = {
        "parents": [lineage_of(p.folder) for p in parents],
        "step": {"edit": receipt["settings"], "formula": receipt["formula"], "weights": receipt["weights"]},
        "receipts": [dict(receipt)],
        "name": name,
        "weights": folder_hash(folder),
        "template": hashlib.sha256(template.encode()).hexdigest()[:16] if template else None,
    }
    (folder / LINEAGE_FILE).write_text(json.dumps(lineage, indent=1, default=str), encoding="utf-8")
