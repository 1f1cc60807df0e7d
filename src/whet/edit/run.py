"""Runs an edit on models or folders: the room's one entry."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from whet import parts
from whet.edit.job import SHARD_BYTES, MergeJob
from whet.errors import ModelError
from whet.model import Model, load_model, resolve

Reference = Model | Path | str


def run_edit(
    models: Sequence[Reference],
    method: str | Mapping[str, Any] | Callable[[MergeJob], dict[str, Any]],
    *,
    output: str | Path,
    base: Reference | None = None,
    weights: Sequence[float] | None = None,
    scorer: Callable[[Path], float] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> tuple[Path, dict[str, Any]]:
    """Edits weights, tensor by tensor, and writes the result as a model folder.

    Args:
        models: folders, names of bundled models, hub ids, or models in memory (which are saved beside the output first).
        method: an edit's name, its recipe form, or a built part.
        output: a folder that does not exist or is empty; it appears whole.
        base: the common ancestor, where the method needs one.
        weights: one per model; their meaning is the method's.
        scorer: held-out score of a folder, higher is better; only for methods that select.
        shard_bytes: largest size of a written weight file.

    Returns:
        The folder, which ``whet.load`` and ``transformers`` load, and the receipt with the effective formula.

    Raises:
        RecipeError: unknown method or setting.
        ModelError: models that do not belong together, a missing base or scorer, an output that is not empty.
    """
    edit = parts.build("edit", method)
    output = Path(output)
    if isinstance(models, (str, Path, Model)):
        raise ModelError("models: give a list of models, also for a single one")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.inputs.", dir=output.parent) as inputs:
        folders = [_folder(model, Path(inputs) / str(i)) for i, model in enumerate(models)]
        ancestor = None if base is None else _folder(base, Path(inputs) / "base")
        job = MergeJob(ancestor, folders, None if weights is None else list(weights), output, scorer, shard_bytes)
        receipt = edit(job)
    return output, receipt


def _folder(reference: Reference, spare: Path) -> Path:
    """The folder of a reference; a model that has none yet is written below ``spare``, under its name."""
    if isinstance(reference, Model):
        if reference.quantized:
            raise ModelError(
                f"model {reference.name!r} is quantized and its codes cannot be averaged; merge first, then quantize"
            )
        return reference.save(spare / Path(reference.name).name)
    if Path(reference).is_dir():
        return Path(reference)
    found = Path(resolve(reference)[0])
    return found if found.is_dir() else _folder(load_model(reference, device="cpu"), spare)
