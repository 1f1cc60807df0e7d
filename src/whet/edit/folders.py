"""What is checked before folders are merged, and what is copied beside the weights."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from whet.edit.tensors import Checkpoint, hash_of
from whet.errors import ModelError
from whet.model import LINEAGE_FILE

_MUST_AGREE = (
    "model_type",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
)
_UNIMPORTANT = {"dtype", "torch_dtype", "transformers_version", "_name_or_path", "architectures", "use_cache"}
_TOKENIZER_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt")
_SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "*processor_config.json",
)
_UNRELATED = 0.1
"""Weights of models fine-tuned from one start have a cosine near 1, those of separate initializations near 0."""
_COMPARED = 1 << 20
"""Elements of a matrix that a cosine is taken of, from its middle: that of a million unrelated ones is within 0.004 of zero."""


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens a folder for merging.

    Raises:
        ModelError: a LoRA adapter, a quantized model, or no model; each with the way out.
    """
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder}: holds an adapter (LoRA), not a whole model; merge it into its base first "
            "(peft: AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(new_folder))"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: this folder is no model: it has no config.json")
    checkpoint = Checkpoint(folder)
    if checkpoint.config.get("quantization_config"):
        raise ModelError(
            f"{folder}: the weights are quantized, their codes cannot be averaged; merge the unquantized models, then quantize"
        )
    return checkpoint


def check_alike(first: Checkpoint, other: Checkpoint) -> None:
    """Refuses two folders whose tensors do not correspond.

    Raises:
        ModelError: names the first tensor that only one has, or whose shapes differ; or the differing setting or tokenizer.
    """
    one, two = first.folder.name, other.folder.name
    for have, lack in ((first, other), (other, first)):
        missing = sorted(set(have) - set(lack))
        if missing:
            raise ModelError(
                f"cannot merge {one} and {two}: {len(missing)} tensors such as {missing[0]!r} are only in {have.folder.name}; "
                "both must be the same architecture"
            )
    for name, entry in first.entries.items():
        if entry.shape != other.entries[name].shape:
            rows = entry.shape[1:] == other.entries[name].shape[1:] and ("embed" in name or "head" in name)
            hint = "; one has another vocabulary: resize it to match first" if rows else ""
            shapes = f"{entry.shape} in {one} but {other.entries[name].shape} in {two}"
            raise ModelError(f"cannot merge {one} and {two}: tensor {name!r} has shape {shapes}{hint}")
    for key in _MUST_AGREE:
        if key in first.config and key in other.config and first.config[key] != other.config[key]:
            raise ModelError(f"cannot merge {one} and {two}: config {key} is {first.config[key]!r} and {other.config[key]!r}")
    hashes = vocabulary_hash(first.folder), vocabulary_hash(other.folder)
    if None not in hashes and hashes[0] != hashes[1]:
        raise ModelError(
            f"cannot merge {one} and {two}: their tokenizers differ (vocabulary hashes {hashes[0]} and {hashes[1]}), "
            "so the same row of the embedding means different tokens"
        )


def check_related(first: Checkpoint, other: Checkpoint, matrices: int = 8) -> float:
    """The median cosine between the matrices of two models: close to 1 if both were tuned from one start.

    Reads the middle of at most ``matrices`` of them, spread over the model.

    Raises:
        ModelError: the cosine is near zero, so the models were initialized separately and do not average.
    """
    names = sorted(n for n, e in first.entries.items() if len(e.shape) == 2 and e.dtype.is_floating_point and min(e.shape) > 1)
    cosines = []
    for name in names[:: max(1, len(names) // matrices)][:matrices]:
        start = max(0, (first.entries[name].numel - _COMPARED) // 2)
        one, two = (c.stretch(name, start, start + _COMPARED).float() for c in (first, other))
        cosines.append((float(torch.nn.functional.cosine_similarity(one, two, dim=0)), name))
    if not cosines:
        return 1.0
    middle, name = sorted(cosines)[len(cosines) // 2]
    if middle < _UNRELATED:
        raise ModelError(
            f"cannot merge {first.folder.name} and {other.folder.name}: they were not tuned from the same start "
            f"(cosine {middle:.3f} in tensor {name!r}); take models with a common ancestor, or the right base"
        )
    return middle


def config_differences(checkpoints: Sequence[Checkpoint]) -> dict[str, list[Any]]:
    """Configuration fields that differ without changing shapes: field -> the values, one per folder."""
    keys = sorted({k for c in checkpoints for k in c.config} - _UNIMPORTANT)
    found = {k: [c.config.get(k) for c in checkpoints] for k in keys}
    return {k: v for k, v in found.items() if any(x != v[0] for x in v)}


def vocabulary_hash(folder: Path) -> str | None:
    """Hash of the tokenizer's vocabulary, merges and added tokens; ``None`` if the folder has no tokenizer."""
    file = folder / "tokenizer.json"
    if file.is_file():
        content = json.loads(file.read_text(encoding="utf-8"))
        model = dict(content.get("model", {}))
        model["merges"] = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or []]
        kept = {k: model.get(k) for k in ("type", "vocab", "merges")}
        added = sorted((t["id"], t["content"]) for t in content.get("added_tokens", []))
        return hashlib.sha256(json.dumps([kept, added], sort_keys=True).encode()).hexdigest()[:16]
    for name in _TOKENIZER_FILES:
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]
    return None


def template_of(folder: Path) -> str | None:
    """The chat template as text, ``None`` if the folder has none."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    file = folder / "tokenizer_config.json"
    template = json.loads(file.read_text(encoding="utf-8")).get("chat_template") if file.is_file() else None
    return None if template is None else str(template)


def copy_side_files(source: Path, folder: Path, dtype: torch.dtype) -> None:
    """Copies configuration and tokenizer; the configuration's dtype becomes that of the written weights."""
    for pattern in _SIDE_FILES:
        for file in filter(Path.is_file, source.glob(pattern)):
            shutil.copy(file, folder / file.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def folder_hash(folder: Path) -> str:
    """The weight hash of a folder, as ``load_model`` would give it; remembered until a file changes."""
    return _folder_hash(folder, max(file.stat().st_mtime_ns for file in folder.glob("*.safetensors")))


@functools.lru_cache(maxsize=256)
def _folder_hash(folder: Path, modified: int) -> str:
    return hash_of(Checkpoint(folder))


def lineage_of(folder: Path) -> dict[str, Any]:
    """A parent's entry for ``whet.json``: name, weight hash (computed if it was not recorded) and the step that made it."""
    file = folder / LINEAGE_FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {
        "name": known.get("name", folder.name),
        "weights": known.get("weights") or folder_hash(folder),
        "step": known.get("step"),
    }
