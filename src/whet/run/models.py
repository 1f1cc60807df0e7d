"""Opens and saves the model of a stage: dense weights, or the packed codes of a quantized one."""

from __future__ import annotations

from pathlib import Path

from whet.model import Model, load_model


def open_model(reference: str | Path) -> Model:
    """Loads a bundled model, a folder (packed ones are unpacked) or a hub id."""
    from whet.quantize.packed import is_packed, load_packed

    path = Path(reference)
    return load_packed(path) if path.is_dir() and is_packed(path) else load_model(reference)


def save_model(model: Model, folder: Path) -> Path:
    """Writes a model folder; a quantized model as packed codes."""
    from whet.quantize.packed import save_packed

    if model.quantized:
        save_packed(model, folder)
        return folder
    return model.save(folder)
