"""What selections that look at model behaviour share: rows as replies to score, and embeddings of their prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.data.example import Example
from whet.data.formats.chat import Chat
from whet.data.prepare import examples_of
from whet.errors import DataError
from whet.generate.divergence import text_embeddings
from whet.model import Model


def replies(rows: Iterable[Mapping[str, Any]], model: Model) -> tuple[list[int], list[Example]]:
    """Each row as a chat whose last reply is trained, and the number of its row; rows whose reply is blank or that are longer
    than the context are left out.

    Raises:
        DataError: no row is left, or one cannot be read as a chat; names it.
    """
    render, limit = Chat(train_on="last"), model.context or 1 << 30
    numbers, examples, total = [], [], 0
    for number, row in enumerate(rows):
        total += 1
        if _is_blank(row):
            continue
        (example,) = examples_of(render, row, model.tokenizer, number)
        if len(example) <= limit:
            numbers.append(number)
            examples.append(replace(example, unit=number))
    if not examples:
        raise DataError(f"none of {total} rows has a reply that fits the model's context of {limit} tokens")
    return numbers, examples


def _is_blank(row: Mapping[str, Any]) -> bool:
    """Whether the last reply holds no text: an end token alone, which is soon read and always far off, would be chosen first."""
    reply = row["messages"][-1] if row.get("messages") else row.get("completion")
    text = reply.get("content", reply.get("value")) if isinstance(reply, Mapping) else reply
    return isinstance(text, str) and not text.strip()


def prompt_embeddings(model: Model, examples: Sequence[Example]) -> NDArray[np.float64]:
    """Mean last hidden state of each example's prompt: [n, width]."""
    return text_embeddings(model, [e.input_ids[: max(2, list(e.trained).index(True))] for e in examples])
