"""Checkpoints: everything that a run needs to go on as if it had not stopped, written whole or not at all.

A checkpoint is a folder ``step-00000120`` with ``weights.safetensors`` (what is trained), ``optimizer.safetensors`` (its
tensors), ``random.safetensors`` (states of the generators) and ``state.json`` (everything that is no tensor). It is
written beside its place and renamed. No file is a pickle.

Where several processes train together each writes the rows that it holds, as ``weights-00001-of-00004.safetensors`` and so
on; which rows these are stands in the file's header (``rows``: name -> [start, end, rows in all]), and a tensor that all
ranks hold whole is in the first file. Every rank reads the rows that it needs from whichever files have them, so that a run
goes on with any number of processes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from whet.errors import StoreError
from whet.train.distributed import World
from whet.train.sharding import as_sharded, is_sharded, own_rows

FORMAT = 1
ALONE = World()


class Shards:
    """The tensors of one kind in a checkpoint, wherever their rows lie."""

    def __init__(self, folder: Path, kind: str, ranks: int) -> None:
        self._parts: dict[str, list[tuple[Any, int, int]]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for rank in range(ranks):
            file = safe_open(folder / _file(kind, rank, ranks), framework="pt")
            rows = json.loads((file.metadata() or {}).get("rows", "{}"))
            names = file.keys()
            for name in names:
                shape = tuple(file.get_slice(name).get_shape())
                start, end, total = rows.get(name, (0, *shape[:1], *shape[:1]) if shape else (0, 1, 1))
                self._parts.setdefault(name, []).append((file, start, end))
                self.shapes[name] = (total, *shape[1:]) if shape else ()

    def tensor(self, name: str) -> Tensor:
        """The whole tensor."""
        if not self.shapes[name]:
            return self._parts[name][0][0].get_tensor(name)
        return self.rows(name, 0, self.shapes[name][0])

    def rows(self, name: str, start: int, end: int) -> Tensor:
        """Rows [start, end) of a tensor."""
        pieces = [
            file.get_slice(name)[max(start, first) - first : min(end, last) - first]
            for file, first, last in self._parts[name]
            if max(start, first) < min(end, last)
        ]
        if not pieces:
            return self._parts[name][0][0].get_slice(name)[:0]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def like(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor as this rank holds ``tensor``: its rows of it, or the whole."""
        return self.rows(name, *own_rows(tensor)) if is_sharded(tensor) else self.tensor(name)


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: ``step`` steps are done by ``ranks`` processes; ``state`` is the loop's own plain data."""

    folder: Path
    step: int
    ranks: int
    weights: Shards
    optimizer: Shards
    optimizer_plain: Mapping[str, Any]
    state: Mapping[str, Any]


def save(
    folder: Path,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int,
    world: World = ALONE,
) -> Path:
    """Writes the checkpoint of ``step`` and removes all but the newest ``keep``; returns its folder.

    Raises:
        StoreError: a rank could not write its part; there is then no checkpoint of this step.
    """
    final = folder / f"step-{step:08d}"
    aside = folder / world.gather(f".{final.name}.{os.getpid()}")[0]
    tensors, plain = _split(optimizer.state_dict())

    def prepare() -> None:
        for left in folder.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)

    def write() -> None:
        _write(aside, "weights", weights, world)
        _write(aside, "optimizer", tensors, world)
        save_file(_random_states(), aside / _file("random", world.rank, world.size))

    def publish() -> None:
        document = {"format": FORMAT, "step": step, "ranks": world.size, "optimizer": plain, "state": state}
        (aside / "state.json").write_text(json.dumps(document))
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        for old in _folders(folder)[:-keep]:
            shutil.rmtree(old)

    what = f"write a checkpoint to {folder}, which all machines must share"
    world.attempt(what, _on_first(world, prepare))
    world.attempt(what, write)
    world.attempt(what, _on_first(world, publish))
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
        ranks = document.get("ranks", 1)
        weights, tensors, _ = (Shards(newest, kind, ranks) for kind in ("weights", "optimizer", "random"))
    except Exception as error:
        # What a damaged file raises in JSON and safetensors has no common class.
        raise StoreError(
            f"checkpoint {newest} cannot be read ({error}); delete this folder to go on from the one before"
        ) from error
    if document["format"] != FORMAT:
        raise StoreError(
            f"checkpoint {newest} has format {document['format']}, this version reads {FORMAT}; train afresh without resume"
        )
    return Checkpoint(newest, document["step"], ranks, weights, tensors, document["optimizer"], document["state"])


def restore_weights(parameters: list[tuple[str, nn.Parameter]], saved: Checkpoint) -> None:
    """Copies saved weights into the parameters.

    Raises:
        StoreError: names or shapes differ: the checkpoint is another model's.
    """
    shapes, found = {name: tuple(p.shape) for name, p in parameters}, saved.weights.shapes
    if shapes != found:
        differing = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise StoreError(f"the checkpoint is of another model: {len(differing)} tensors differ, first {differing[0]!r}")
    with torch.no_grad():
        for name, parameter in parameters:
            held: Any = parameter
            target = held.to_local() if is_sharded(parameter) else parameter
            target.copy_(saved.weights.like(name, parameter))


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Checkpoint) -> None:
    """Gives the optimizer its saved state; tensors of a parameter's shape are split over the ranks as the parameter is."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, index, name in _keys(saved.optimizer.shapes):
        parameter = parameters[index]
        if is_sharded(parameter) and saved.optimizer.shapes[key] == tuple(parameter.shape):
            value = as_sharded(saved.optimizer.like(key, parameter).clone(), parameter)
        else:
            value = saved.optimizer.tensor(key).clone()
        state.setdefault(index, {})[name] = value
    for key, index, name in _keys(saved.optimizer_plain["plain"]):
        state.setdefault(index, {})[name] = saved.optimizer_plain["plain"][key]
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in saved.optimizer_plain["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def restore_random(saved: Checkpoint, world: World = ALONE) -> bool:
    """Sets torch's generators to the saved state of this rank; ``False`` if fewer ranks wrote the checkpoint."""
    if world.rank >= saved.ranks:
        return False
    with safe_open(saved.folder / _file("random", world.rank, saved.ranks), framework="pt") as states:
        generators = states.keys()
        torch.set_rng_state(states.get_tensor("cpu"))
        if "cuda" in generators and torch.cuda.is_available():
            torch.cuda.set_rng_state(states.get_tensor("cuda"))
    return True


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else states


def _file(kind: str, rank: int, ranks: int) -> str:
    return f"{kind}.safetensors" if ranks == 1 else f"{kind}-{rank + 1:05d}-of-{ranks:05d}.safetensors"


def _on_first(world: World, action: Callable[[], None]) -> Callable[[], None]:
    return action if world.rank == 0 else lambda: None


def _write(folder: Path, kind: str, tensors: Mapping[str, Any], world: World) -> None:
    """Writes what this rank holds of the tensors: its rows, and on the first rank those that are whole everywhere."""
    held, rows = {}, {}
    for name, tensor in tensors.items():
        if is_sharded(tensor):
            held[name] = tensor.detach().to_local().contiguous()
            rows[name] = [*own_rows(tensor), tensor.shape[0]]
        elif world.rank == 0:
            held[name] = tensor.detach().contiguous()
    save_file(held, folder / _file(kind, world.rank, world.size), {"rows": json.dumps(rows)} if rows else None)


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors by ``<parameter>.<name>`` and the rest as plain data."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain[f"{index}.{name}"] = value
    return tensors, {"groups": state["param_groups"], "plain": plain}


def _keys(names: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """(key, parameter's number, name of the state) of keys ``<parameter>.<name>``."""
    for key in names:
        index, _, name = key.partition(".")
        yield key, int(index), name
