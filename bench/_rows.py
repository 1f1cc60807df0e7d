"""Rows and networks that several benches share."""

from __future__ import annotations

import random
from typing import Any

from datasets import Dataset

from whet.architectures.llama import Llama
from whet.data.sources.nanoworld import NanoWorld
from whet.model import Model


def llama(hidden: int, layers: int, context: int = 1024, seed: int = 0) -> Model:
    """A randomly initialised Llama, heads of 32 and half as many for keys and values, with a tokenizer of 1,024 entries."""
    heads = hidden // 32
    texts = NanoWorld(rows=4000, form="plain")("train")["text"]
    return Llama(hidden, layers, heads, heads // 2, 4 * hidden, 1024, context)(texts, seed)


def joined(rows: Dataset, columns: list[str], count: int, most: int = 8) -> Dataset:
    """``count`` rows that each join 1 to ``most`` short ones, so that lengths are as ragged as those of real chats."""
    draw, source = random.Random(0), iter(rows)
    made: list[dict[str, Any]] = []
    for _ in range(count):
        parts = [next(source) for _ in range(draw.randint(1, most))]
        made.append({column: "\n\n".join(part[column] for part in parts) for column in columns})
    return Dataset.from_list(made)
