"""The smallest recipe that trains: a model from scratch, whose tokenizer learns from the text that it is trained on."""

from __future__ import annotations

from typing import Any


def llama(**changes: Any) -> dict[str, Any]:
    """An architecture that trains in no time."""
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "key_value_heads": 1, "intermediate_size": 32}
    return {"name": "llama", **shape, "vocab_size": 300, "context": 256, **changes}


def text(rows: int = 24) -> dict[str, Any]:
    """The data step whose rows are plain text."""
    return {"name": "text", "source": {"name": "nanoworld", "rows": rows, "form": "plain", "skills": ["variables"]}}


def recipe(**train: Any) -> dict[str, Any]:
    """The recipe with these fields of its one train step."""
    step = {"name": "first", "data": "text", "format": "plain", "steps": 2, "batch_size": 4}
    return {"name": "tiny", "model": llama(), "tokenizer_data": "text", "data": [text()], "train": [{**step, **train}]}
