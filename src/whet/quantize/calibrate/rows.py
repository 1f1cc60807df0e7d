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

from annotated_types import Ge, Gt

from whet.model import Model
from whet.quantize.calibration import CalibrationSet, check_rows, draw, row_length


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
        length = row_length(model, self.length)
        usable = [row for row in rows if len(row) >= 2]
        drawn = draw(usable, self.count, self.held_out, seed)
        lengths = [len(row) for row in (*drawn.rows, *drawn.held_out)]
        receipt = {
            "rows_given": len(rows),
            "rows_too_short": len(rows) - len(usable),
            "rows_cut": sum(n > length for n in lengths),
            "tokens_cut": sum(max(0, n - length) for n in lengths),
            **drawn.receipt,
        }
        return CalibrationSet([row[:length] for row in drawn.rows], [row[:length] for row in drawn.held_out], receipt)
