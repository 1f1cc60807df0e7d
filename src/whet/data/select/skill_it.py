"""Chooses more rows of the skills that are badly learned, or that help to learn those.

A skill is a group of rows (``by``). With L_j the mean negative log-probability per token of skill j's replies under the step's model,
and A_ij how much training on skill i helps skill j,

    p_i = exp(eta * sum_j A_ij L_j) / sum_k exp(eta * sum_j A_kj L_j)

is skill i's part of the chosen rows (largest remainders); within a skill rows are drawn by the step's seed. What a skill has too few
rows for goes to the others in the same proportions. ``influence`` holds the entries of A off the diagonal, {i: {j: A_ij}}; the diagonal
is 1. Without any, skills count by their own loss alone; with ``eta: 0`` all get the same number.

This is one round of the method: losses are those of the model before training, on the pool's own rows, which it has not seen since
it was changed. The schedule ``skill-it`` measures them again while training, on held-out rows, and shifts the mixture as they fall.
Default: eta 0.5, the paper's on its synthetic skills; the larger, the more unequal.

Paper: skill-it — Skill-it! A Data-Driven Skills Framework for Understanding and Training Language Models
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from whet.data.amount import kept_rows, largest_remainders, refuse_unclear
from whet.data.context import Context
from whet.data.drift import replies
from whet.data.example import Example
from whet.data.mixture import influence_matrix, mixture
from whet.data.rows import missing_column
from whet.errors import DataError
from whet.generate.likelihood import sequence_logps
from whet.model import Model

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class SkillIt:
    """``share`` of the rows, or a number of ``rows``; ``by``: the column that names a row's skill; ``influence``: A off the diagonal."""

    by: str
    share: Annotated[float, Gt(0), Le(1)] | None = None
    rows: Annotated[int, Gt(0)] | None = None
    eta: Annotated[float, Ge(0)] = 0.5
    influence: Mapping[str, Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        refuse_unclear("skill-it", self.share, self.rows)

    def __call__(self, data: Dataset, context: Context) -> Dataset:
        if self.by not in data.column_names:
            raise DataError(f"skill-it: by: {missing_column(self.by, data.column_names)}")
        model = context.need_model("skill-it")
        numbers, examples = replies(data, model)
        count = kept_rows("skill-it", len(examples), self.share, self.rows)
        column = data[self.by]
        skills = [str(column[i]) for i in numbers]
        names = sorted(set(skills))
        matrix = influence_matrix(names, names, self.influence)
        losses = _losses(model, examples, skills, names)
        shares = mixture(losses, matrix, self.eta)
        order = np.random.default_rng(context.seed).permutation(len(skills)).tolist()
        waiting = {name: [i for i in order if skills[i] == name] for name in names}
        taken = fill(shares, [len(waiting[name]) for name in names], count)
        context.spend(sum(map(len, examples)), model)
        context.receipt.update(
            rows_in=len(data),
            rows_out=count,
            rows_unusable=len(data) - len(examples),
            groups=[
                {"name": name, "rows": len(waiting[name]), "loss": loss, "share": float(p), "chosen": chosen}
                for name, loss, p, chosen in zip(names, losses, shares, taken)
            ],
        )
        return data.select(sorted(numbers[i] for name, chosen in zip(names, taken) for i in waiting[name][:chosen]))


def _losses(model: Model, examples: Sequence[Example], skills: Sequence[str], names: Sequence[str]) -> list[float]:
    """Mean negative log-probability per reply token of each skill."""
    starts = [list(e.trained).index(True) for e in examples]
    logps, _ = sequence_logps(model, [(e.input_ids[:s], e.input_ids[s:]) for e, s in zip(examples, starts)])
    return [-float(np.mean(np.concatenate([row for row, s in zip(logps, skills) if s == name]))) for name in names]


def fill(shares: NDArray[np.float64], sizes: Sequence[int], count: int) -> list[int]:
    """``count`` rows divided in proportion to the shares, no skill above its size; what one cannot use goes to the others.

    >>> fill(np.array([0.8, 0.1, 0.1]), [2, 10, 10], 8)
    [2, 3, 3]
    """
    taken = [0] * len(sizes)
    while left := count - sum(taken):
        open_ = [k for k, size in enumerate(sizes) if taken[k] < size]
        # A share may underflow to 0 while there are rows to choose.
        quota = largest_remainders([max(float(shares[k]), 1e-12) for k in open_], left)
        for k, more in zip(open_, quota):
            taken[k] = min(sizes[k], taken[k] + more)
    return taken
