"""The token rows that a quantizer looks at, split into those it may use and those that judge it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from whet.errors import DataError
from whet.model import Model

LONGEST = 2048


@dataclass(frozen=True)
class CalibrationSet:
    """``rows`` are used, ``held_out`` only judged on; both are lists of token ids. ``receipt`` counts what was cut or left."""

    rows: Sequence[Sequence[int]]
    held_out: Sequence[Sequence[int]] = ()
    receipt: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens in the rows that are used."""
        return sum(len(row) for row in self.rows)


def batches(rows: Sequence[Sequence[int]], batch_tokens: int) -> list[Tensor]:
    """Rows of equal length together, int64 [b, S] with ``b S <= batch_tokens`` (but at least one row): no padding ever."""
    by_length: dict[int, list[Sequence[int]]] = defaultdict(list)
    for row in rows:
        by_length[len(row)].append(row)
    made = []
    for length, same in sorted(by_length.items(), reverse=True):
        size = max(1, batch_tokens // length)
        made += [torch.tensor(same[i : i + size], dtype=torch.int64) for i in range(0, len(same), size)]
    return made


def check_rows(rows: Sequence[Sequence[int]], vocabulary: int) -> None:
    """Raises DataError for a row that is no list of token ids of that vocabulary; names the row."""
    for index, row in enumerate(rows):
        if len(row) and not (min(row) >= 0 and max(row) < vocabulary):
            wrong = min(row) if min(row) < 0 else max(row)
            raise DataError(
                f"calibration row {index}: token id {wrong} is not in [0, {vocabulary}); use the model's own tokenizer"
            )


def refuse_small(calibration: CalibrationSet, widths: Mapping[str, int]) -> None:
    """Refuses calibration on fewer tokens than a layer has inputs: its second-order statistic would say nothing of the rest.

    Args:
        calibration: the rows to be used.
        widths: inputs of each layer by name.

    Raises:
        DataError: too few tokens; names the widest layer.
    """
    if not widths:
        return
    name, inputs = max(widths.items(), key=lambda item: item[1])
    if calibration.tokens < inputs:
        raise DataError(
            f"the calibration set is too small: {len(calibration.rows)} rows with {calibration.tokens} tokens for layer {name!r} "
            f"with {inputs} inputs; it takes at least as many tokens, and ten times as many are better. Give more or longer rows, "
            "or set compensate: none"
        )


def draw(rows: Sequence[Sequence[int]], count: int, held_out: int, seed: int) -> CalibrationSet:
    """``count`` rows and ``held_out`` further ones, drawn without replacement; at most a quarter of those drawn is held out."""
    order = np.random.default_rng(seed).permutation(len(rows))
    taken = [rows[i] for i in order[: count + held_out]]
    used = len(taken) - min(held_out, len(taken) // 4)
    receipt = {"rows_left_over": len(rows) - len(taken), "rows_used": used, "rows_held_out": len(taken) - used}
    return CalibrationSet(taken[:used], taken[used:], receipt)


def row_length(model: Model, length: int) -> int:
    """Tokens of a row: ``length``, or for 0 the model's context, at most 2048."""
    return length or min(model.context or LONGEST, LONGEST)
