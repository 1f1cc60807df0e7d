"""Keeps the rows that short training runs get most wrong, or least: by the norm of the error of their predictions.

A row's EL2N score is the mean over ``runs`` short runs, and over the trained tokens of its reply, of

    || softmax(f(x)) - onehot(y) ||_2

with f(x) the logits of the model after the run: 0 where it is sure and right, sqrt(2) where it is sure and wrong. Every run starts
from the step's model and fine-tunes it on all rows for ``epochs`` passes; the runs differ by their order alone. ``hardest`` keeps the
rows with the highest scores, ``easiest`` those with the lowest. The rows' order stays; rows without a reply, or longer than the
model's context, are never kept, and counted.

The runs cost far more than what other selections read: they are in the step's cost, and so in a comparison's budget and time to
target. At small shares the hardest rows are mostly noise, and a random subset (``random``, the schedule ``rs2``) is the
comparator to beat. Defaults: 3 runs of one pass, learning rate 1e-3 in batches of 64.

Paper: rs2 — Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Gt, Le

from whet.data.amount import kept_rows, refuse_unclear
from whet.data.context import Context
from whet.data.drift import replies
from whet.generate.divergence import error_norms

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class EL2N:
    """``share`` of the rows, or a number of ``rows``; ``keep``: which end; ``runs`` of ``epochs`` passes each, at ``lr``."""

    share: Annotated[float, Gt(0), Le(1)] | None = None
    rows: Annotated[int, Gt(0)] | None = None
    keep: Literal["hardest", "easiest"] = "hardest"
    runs: Annotated[int, Gt(0)] = 3
    epochs: Annotated[float, Gt(0)] = 1.0
    lr: Annotated[float, Gt(0)] = 1e-3
    batch_size: Annotated[int, Gt(0)] = 64

    def __post_init__(self) -> None:
        refuse_unclear("el2n", self.share, self.rows)

    def __call__(self, data: Dataset, context: Context) -> Dataset:
        numbers, examples = replies(data, context.need_model("el2n"))
        count, usable = kept_rows("el2n", len(examples), self.share, self.rows), data.select(numbers)
        settings = {"epochs": self.epochs, "lr": self.lr, "batch_size": self.batch_size}
        scores = np.zeros(len(examples))
        for run in range(self.runs):
            seed = int(np.random.SeedSequence([context.seed, run]).generate_state(1)[0])
            model = context.trained("el2n", usable, settings, seed)
            scores += np.array(error_norms(model, examples)) / self.runs
            context.spend(sum(map(len, examples)), model)
        order = np.argsort(scores if self.keep == "easiest" else -scores, kind="stable")
        chosen = order[:count]
        context.receipt.update(
            rows_in=len(data),
            rows_out=count,
            rows_unusable=len(data) - len(examples),
            error_norm_kept=[float(scores[chosen].min()), float(scores[chosen].max())],
            error_norm_all=[float(scores.min()), float(scores.max())],
        )
        return data.select(sorted(numbers[i] for i in chosen))
