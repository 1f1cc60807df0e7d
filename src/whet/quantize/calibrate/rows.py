"""Calibrates on whole rows (chats, documents), drawn without replacement and cut at ``length`` tokens.

Use it when rows are what the model will see: each starts at its own beginning, with its template. Rows that are cut, too
short (under 2 tokens) or left over are counted. Defaults: 128 rows, the paper's number; ``length`` 0 means the model's
context, at most 2048; 16 further rows are kept back to compare the quantized model with the float one.

Paper: gptq — GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt

from whet.model import Model
from whet.quantize.calibration import CalibrationSet, check_rows, split_held_out

LONGEST = 2048


@dataclass(frozen=True)
class Rows:
    """``count`` rows to calibrate on, ``length`` tokens at most (0: the context), ``held_out`` rows to judge on."""

    count: Annotated[int, Gt(0)] = 128
    length: Annotated[int, Ge(0)] = 0
    held_out: Annotated[int, Ge(0)] = 16

    def __call__(self, model: Model, rows: Sequence[Sequence[int]], seed: int = 0) -> CalibrationSet:
        """Draws rows.

        Raises:
            DataError: a token id outside the model's vocabulary.
        """
        check_rows(rows, int(model.config.vocab_size))
        length = self.length or min(model.context or LONGEST, LONGEST)
        usable = [row for row in rows if len(row) >= 2]
        order = np.random.default_rng(seed).permutation(len(usable))
        taken = [usable[i] for i in order[: self.count + self.held_out]]
        used, held_out = split_held_out([row[:length] for row in taken], self.held_out)
        receipt = {
            "rows_given": len(rows),
            "rows_too_short": len(rows) - len(usable),
            "rows_left_over": len(usable) - len(taken),
            "rows_cut": sum(len(row) > length for row in taken),
            "tokens_cut": sum(max(0, len(row) - length) for row in taken),
            "rows_used": len(used),
            "rows_held_out": len(held_out),
        }
        return CalibrationSet(used, held_out, receipt)
