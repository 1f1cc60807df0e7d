"""What selections that look at model behaviour share: rows as replies to score, and embeddings of their prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.data.example import Example
from whet.data.formats.chat import Chat
from whet.errors import DataError
from whet.generate.divergence import text_embeddings
from whet.model import Model


def replies(rows: Iterable[Mapping[str, Any]], model: Model) -> tuple[list[int], list[Example]]:
    """Each row as a chat whose last reply is trained, and the number of its row; rows without a reply or longer than the
    context are left out.

    Raises:
        DataError: no row is left.
    """
    render, limit = Chat(train_on="last"), model.context or 1 << 30
    numbers, examples, total = [], [], 0
    for number, row in enumerate(rows):
        total += 1
        (example,) = render(row, model.tokenizer)
        if any(example.trained) and len(example) <= limit:
            numbers.append(number)
            examples.append(replace(example, unit=number))
    if not examples:
        raise DataError(f"none of {total} rows has a reply that fits the model's context of {limit} tokens")
    return numbers, examples


def prompt_embeddings(model: Model, examples: Sequence[Example]) -> NDArray[np.float64]:
    """Mean last hidden state of each example's prompt: [n, width]."""
    return text_embeddings(model, [e.input_ids[: max(2, list(e.trained).index(True))] for e in examples])
