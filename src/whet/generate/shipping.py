"""A model on its way to workers: packed once, unpacked once by each worker that gets it."""

from __future__ import annotations

import io
import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from whet.model import Model
from whet.workers import Local, current


@dataclass(frozen=True, eq=False)
class Shipped:
    """A model as bytes, which pools can send without copying them."""

    token: str
    content: np.ndarray

    def __hash__(self) -> int:
        return hash(self.token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shipped) and other.token == self.token


def ship(model: Model) -> Model | Shipped:
    """The model in the form in which the pool in use takes it: packed if the workers are other processes."""
    if isinstance(current(), Local):
        return model
    content = io.BytesIO()
    torch.save(model, content)
    return Shipped(secrets.token_hex(8), np.frombuffer(content.getbuffer(), np.uint8))


def unpack(shipped: Model | Shipped) -> Model:
    """The model, on the worker's accelerator if it has one. It is meant for reading: items that come later share it."""
    return shipped if isinstance(shipped, Model) else _unpacked(shipped)


@lru_cache(maxsize=1)
def _unpacked(shipped: Shipped) -> Model:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # It comes from the process that this worker works for, as the function does.
    loaded: Any = torch.load(io.BytesIO(shipped.content.tobytes()), map_location=device, weights_only=False)
    return loaded
