"""1 if the completion's marked final answer is the row's answer, else 0.

The answer must be marked (``answer: X``, ``\\boxed{X}``, ``#### X`` or JSON with the key ``answer``; the last mark counts) and
equal the row's ``answer`` after normalization: the same text, the same exact number, or the same list. See
``whet.generate.verify`` for both rules.

Default: column ``answer``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.data.rows import text_cell
from whet.generate.verify import final_answer, same_answer


@dataclass(frozen=True)
class ExactAnswer:
    """``column``: where the row's answer stands."""

    column: str = "answer"

    def __call__(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
        return [float(same_answer(final_answer(text), text_cell(row, self.column))) for row, text in zip(rows, completions)]
