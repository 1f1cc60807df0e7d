"""Progress of a quantization on disk: enough to go on after the last saved block with the same bits on a CPU.

A folder ``blocks-00000012`` says that 12 blocks are done. It holds ``codes.safetensors`` and the records of the layers coded
since the folder before it, so that no layer is written twice, and, in the newest one only, ``hidden.safetensors``: the
calibration rows' states at the entrance of the next block. Each folder is written beside its place and renamed; no file is a
pickle. What is cheap and the same every time (the calibration rows, the transform) is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from whet.errors import RecipeError, StoreError
from whet.quantize.codes import QuantizedLinear
from whet.quantize.grid import BitPlan

FORMAT = 1
CODES, HIDDEN, STATE = "codes.safetensors", "hidden.safetensors", "state.json"


@dataclass(frozen=True)
class Saved:
    """What is done: ``blocks`` of them, the layers' codes and records, all plans, the hidden states, and the peaks so far."""

    blocks: int = 0
    layers: Mapping[str, QuantizedLinear] = field(default_factory=dict)
    records: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    plans: Mapping[str, BitPlan] = field(default_factory=dict)
    hidden: Sequence[Tensor] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


class Progress:
    """Saves at most every ``seconds``, after a block; without a folder nothing is saved.

    ``identity`` is what decides the result; progress of another identity is refused.
    """

    def __init__(self, folder: Path | None, seconds: float, identity: Mapping[str, Any]) -> None:
        self.folder, self.seconds = folder, seconds
        self.identity = json.loads(json.dumps(identity, default=str))
        self._written: set[str] = set()
        self._saved_at = time.monotonic()

    def load(self) -> Saved:
        """What earlier runs saved in the folder; nothing done if there is none.

        Raises:
            StoreError: a file cannot be read, or another version of the format wrote it.
            RecipeError: the progress is that of another quantization.
        """
        if self.folder is None or not self.folder.is_dir():
            return Saved()
        for path in self.folder.glob(".blocks-*"):
            shutil.rmtree(path)
        layers: dict[str, QuantizedLinear] = {}
        records: dict[str, dict[str, Any]] = {}
        state: dict[str, Any] = {}
        folders = _folders(self.folder)
        hidden: dict[str, Tensor] = {}
        for path in folders:
            try:
                state = json.loads((path / STATE).read_text())
                self._refuse_other(state, path)
                tensors = load_file(path / CODES)
                layers.update({name: _layer(name, tensors, about) for name, about in state["layers"].items()})
                hidden = load_file(path / HIDDEN) if path == folders[-1] else {}
            except (OSError, ValueError, KeyError) as error:
                raise self._unreadable(error) from error
            except Exception as error:
                if type(error).__module__.startswith("safetensors"):
                    raise self._unreadable(error) from error
                raise
            records.update(state["records"])
        self._written = set(layers)
        plans = {name: BitPlan(**about) for name, about in state.get("plans", {}).items()}
        states = [hidden[str(i)] for i in range(len(hidden))]
        return Saved(state.get("blocks", 0), layers, records, plans, states, state.get("figures", {}))

    def due(self) -> bool:
        """Whether the last save is long enough ago."""
        return self.folder is not None and time.monotonic() - self._saved_at > self.seconds

    def save(self, now: Saved) -> None:
        """Writes what was done since the last save."""
        if self.folder is None:
            return
        final = self.folder / f"blocks-{now.blocks:08d}"
        aside = self.folder / f".{final.name}.{os.getpid()}"
        aside.mkdir(parents=True)
        new = {name: layer for name, layer in now.layers.items() if name not in self._written}
        tensors = {f"{n}.{key}": t.detach().cpu().clone() for n, layer in new.items() for key, t in _tensors(layer).items()}
        save_file(tensors, aside / CODES)
        save_file({str(i): state.contiguous().cpu() for i, state in enumerate(now.hidden)}, aside / HIDDEN)
        document = {
            "format": FORMAT,
            "identity": self.identity,
            "blocks": now.blocks,
            "layers": {name: _about(layer) for name, layer in new.items()},
            "records": {name: now.records[name] for name in new},
            "plans": {name: asdict(plan) for name, plan in now.plans.items()},
            "figures": dict(now.figures),
        }
        (aside / STATE).write_text(json.dumps(document))
        aside.rename(final)
        for old in _folders(self.folder)[:-1]:
            (old / HIDDEN).unlink(missing_ok=True)
        self._written.update(new)
        self._saved_at = time.monotonic()

    def _refuse_other(self, state: Mapping[str, Any], path: Path) -> None:
        if state["format"] != FORMAT:
            raise StoreError(
                f"{path} has format {state['format']}, this version reads {FORMAT}; delete {self.folder} to start anew"
            )
        was, now = state["identity"], self.identity
        differing = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
        if differing:
            told = "; ".join(f"{key} was {was.get(key)!r} and is {now.get(key)!r}" for key in differing)
            raise RecipeError(f"cannot go on from {path}: {told}. Set it back, or delete {self.folder} to start anew")

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(f"the progress in {self.folder} cannot be read ({error}); delete this folder to start anew")


def rows_hash(rows: Sequence[Sequence[int]]) -> str:
    """Hash of token rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(torch.tensor(list(row), dtype=torch.int64).numpy().tobytes() + b"|")
    return digest.hexdigest()[:16]


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("blocks-*"))


def _tensors(layer: QuantizedLinear) -> dict[str, Tensor]:
    found = {f.name: getattr(layer, f.name) for f in fields(layer)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _about(layer: QuantizedLinear) -> dict[str, Any]:
    return {"plan": asdict(layer.plan), "dtype": str(layer.dtype).removeprefix("torch."), "grid": layer.grid}


def _layer(name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> QuantizedLinear:
    own = {f.name: tensors.get(f"{name}.{f.name}") for f in fields(QuantizedLinear)}
    given = {key: tensor for key, tensor in own.items() if tensor is not None}
    return QuantizedLinear(plan=BitPlan(**about["plan"]), dtype=getattr(torch, about["dtype"]), grid=about["grid"], **given)
