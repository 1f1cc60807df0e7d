"""Keeps the rows whose replies the model finds least, most, or middlingly surprising.

A row's perplexity is ``exp`` of the mean negative log-probability of its reply's tokens after the chat template's prompt, by the
model of the step. ``keep: middle`` leaves out the same number of rows at both ends, which drops both what the model knows by heart
and what is noise; ``high`` and ``low`` keep one end. The rows' order stays; rows that do not fit the model's context are
never kept, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Gt, Le

from whet.data.amount import kept_rows, refuse_unclear
from whet.data.context import Context
from whet.data.drift import replies
from whet.generate.likelihood import sequence_logps

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Perplexity:
    """``share`` of the rows, or a number of ``rows``; ``keep``: which end, or the ``middle`` (default)."""

    share: Annotated[float, Gt(0), Le(1)] | None = None
    rows: Annotated[int, Gt(0)] | None = None
    keep: Literal["low", "middle", "high"] = "middle"

    def __post_init__(self) -> None:
        refuse_unclear("perplexity", self.share, self.rows)

    def __call__(self, data: Dataset, context: Context) -> Dataset:
        model = context.need_model("perplexity")
        numbers, examples = replies(data, model)
        count = kept_rows("perplexity", len(examples), self.share, self.rows)
        starts = [list(e.trained).index(True) for e in examples]
        pairs = [(e.input_ids[:s], e.input_ids[s:]) for e, s in zip(examples, starts)]
        logps, _ = sequence_logps(model, pairs)
        surprise = np.array([-np.mean(row) for row in logps])
        order = np.argsort(surprise, kind="stable")
        first = {"low": 0, "middle": (len(order) - count) // 2, "high": len(order) - count}[self.keep]
        chosen = order[first : first + count]
        context.spend(sum(map(len, examples)), model)
        context.receipt.update(
            rows_in=len(data),
            rows_out=count,
            rows_unusable=len(data) - len(examples),
            perplexity_kept=[float(np.exp(surprise[chosen].min())), float(np.exp(surprise[chosen].max()))],
            perplexity_all=[float(np.exp(surprise.min())), float(np.exp(surprise.max()))],
        )
        return data.select(sorted(numbers[i] for i in chosen))
