"""1 if the completion's answer is mathematically equal to the row's answer (by the library math-verify), else 0.

``1/2``, ``0.5`` and ``\\frac{1}{2}`` are the same; sets, intervals, matrices and equations are compared as what they are. The
marked final answer is judged if there is one, else what math-verify finds in the text. The work is done in a process of
its own with limits on time and memory, because a short expression such as ``9^{9^{9^9}}`` can take for ever; a completion
over the limit counts as failed.

Defaults: column ``answer``; 5 seconds (math-verify's own limit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt

from whet.data.rows import text_cell
from whet.generate.math_judge import equal_mathematics
from whet.generate.verify import final_answer, same_answer


@dataclass(frozen=True)
class Math:
    """``column``: where the row's answer stands. ``seconds``: limit for one completion."""

    column: str = "answer"
    seconds: Annotated[float, Gt(0)] = 5.0

    def __call__(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
        return [float(self._right(text, text_cell(row, self.column))) for row, text in zip(rows, completions)]

    def _right(self, completion: str, reference: str) -> bool:
        answer, reference = final_answer(completion), final_answer(reference) or reference
        return same_answer(answer, reference) or equal_mathematics(answer, completion, reference, self.seconds)
