"""Opens and saves the model of a stage: dense weights, or the packed codes of a quantized one."""

from __future__ import annotations

from pathlib import Path

from whet.errors import ModelError
from whet.model import Model, first_lines, load_model, read_lineage, resolve


def open_model(reference: str | Path) -> Model:
    """Loads a bundled model, a folder (packed ones are unpacked) or a hub id."""
    from whet.quantize.packed import is_packed, load_packed

    path = Path(reference)
    return load_packed(path) if path.is_dir() and is_packed(path) else load_model(reference)


def outline(reference: str | Path) -> Model:
    """A model without its weights: tokenizer, configuration, and the network's shapes (on the ``meta`` device).

    Raises:
        ModelError: no such model, or files of it that cannot be read.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from whet.quantize.packed import is_packed

    path, name = (str(reference), Path(reference).name) if is_packed(reference) else resolve(reference)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        # What a wrong configuration or tokenizer file raises in there has no common class.
        raise ModelError(f"cannot load model {str(reference)!r}: {first_lines(error)}") from error
    return Model(network, tokenizer, name, read_lineage(Path(path)))


def save_model(model: Model, folder: Path) -> Path:
    """Writes a model folder; a quantized model as packed codes."""
    from whet.quantize.packed import save_packed

    if model.quantized:
        save_packed(model, folder)
        return folder
    return model.save(folder)
