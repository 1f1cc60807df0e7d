"""What a merge says of itself: its counts, the receipt, and the lineage that is written beside the weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from whet.edit.folders import config_differences, folder_hash, template_of
from whet.edit.tensors import Checkpoint
from whet.model import LINEAGE_FILE


@dataclass
class Tally:
    """Counts of one pass, for the receipt."""

    merged: int = 0
    copied: list[str] = field(default_factory=list)
    differing_buffers: list[str] = field(default_factory=list)
    change: float = 0.0
    norm: float = 0.0


def receipt_of(
    tally: Tally, checkpoints: Sequence[Checkpoint], ancestor: Checkpoint | None, result: Checkpoint
) -> dict[str, Any]:
    """What was merged and copied, where the folders differ, and how far the result is from the start."""
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


def arithmetic_of(stored: torch.dtype) -> torch.dtype:
    """The type to compute in: one width above what is stored, for what is stored in at most 32 bits."""
    return torch.float32 if stored.itemsize <= 2 else torch.float64


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def write_lineage(
    folder: Path, name: str, parents: Sequence[Mapping[str, Any]], receipt: Mapping[str, Any], digest: str | None
) -> None:
    """Writes ``whet.json``; ``digest``: the weights' hash, computed if it is not known."""
    template = template_of(folder)
    lineage = {
        "parents": list(parents),
        "step": {"edit": receipt["settings"], "formula": receipt["formula"], "weights": receipt["weights"]},
        "receipts": [dict(receipt)],
        "name": name,
        "weights": digest or folder_hash(folder),
        "template": hashlib.sha256(template.encode()).hexdigest()[:16] if template else None,
    }
    (folder / LINEAGE_FILE).write_text(json.dumps(lineage, indent=1, default=str), encoding="utf-8")
