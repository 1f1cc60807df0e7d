"""Checkpoints: everything that a run needs to go on as if it had not stopped, written whole or not at all.

A checkpoint is a folder ``step-00000120`` with ``weights.safetensors`` (what is trained), ``optimizer.safetensors`` (its
tensors), ``random.safetensors`` (states of the generators) and ``state.json`` (everything that is no tensor). It is
written beside its place and renamed. No file is a pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whet.errors import StoreError

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: ``step`` steps are done; ``state`` is the loop's own plain data."""

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    random: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save(
    folder: Path, step: int, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, state: Mapping[str, Any], keep: int
) -> Path:
    """Writes the checkpoint of ``step`` and removes all but the newest ``keep``; returns its folder."""
    final = folder / f"step-{step:08d}"
    aside = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors, plain = _split(optimizer.state_dict())
    save_file({name: t.detach().contiguous() for name, t in weights.items()}, aside / "weights.safetensors")
    save_file(tensors, aside / "optimizer.safetensors")
    save_file(_random_states(), aside / "random.safetensors")
    document = {"format": FORMAT, "step": step, "optimizer": plain, "state": state}
    (aside / "state.json").write_text(json.dumps(document))
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    for old in _folders(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in the folder, ``None`` if there is none.

    Raises:
        StoreError: it cannot be read, or another version of the format wrote it.
    """
    folders = _folders(folder)
    if not folders:
        return None
    newest = folders[-1]
    try:
        document = json.loads((newest / "state.json").read_text())
        weights, tensors, random = (load_file(newest / f"{name}.safetensors") for name in ("weights", "optimizer", "random"))
    except Exception as error:
        raise StoreError(
            f"checkpoint {newest} cannot be read ({error}); delete this folder to go on from the one before"
        ) from error
    if document["format"] != FORMAT:
        raise StoreError(
            f"checkpoint {newest} has format {document['format']}, this version reads {FORMAT}; train afresh without resume"
        )
    return Checkpoint(document["step"], weights, _join(tensors, document["optimizer"]), random, document["state"])


def restore_weights(parameters: list[tuple[str, nn.Parameter]], weights: Mapping[str, Tensor]) -> None:
    """Copies saved weights into the parameters.

    Raises:
        StoreError: names or shapes differ: the checkpoint is another model's.
    """
    shapes = {name: tuple(p.shape) for name, p in parameters}
    saved = {name: tuple(t.shape) for name, t in weights.items()}
    if shapes != saved:
        differing = sorted(name for name in shapes.keys() | saved.keys() if shapes.get(name) != saved.get(name))
        raise StoreError(f"the checkpoint is of another model: {len(differing)} tensors differ, first {differing[0]!r}")
    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(weights[name])


def restore_random(states: Mapping[str, Tensor]) -> None:
    """Sets torch's generators."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else states


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors by ``<parameter>.<name>`` and the rest as plain data."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().contiguous()
            else:
                plain[f"{index}.{name}"] = value
    return tensors, {"groups": state["param_groups"], "plain": plain}


def _join(tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **saved["plain"]}.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in saved["groups"]]
    return {"state": state, "param_groups": groups}
