"""Calibrates on windows of equal length cut from the rows joined end to end, as for perplexity on running text.

Rows are joined in the order given, with the tokenizer's end-of-sequence token between them if it has one. The stream is
cut into windows side by side, so that no token is used twice; ``count`` of them are drawn. The tail that fills no window is
counted. Defaults: 128 windows, the paper's number; ``length`` 0 means the model's context, at most 2048; 16 further windows
are kept back to compare the quantized model with the float one.

Paper: gptq — GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Annotated

from annotated_types import Ge, Gt

from whet.errors import DataError
from whet.model import Model
from whet.quantize.calibration import CalibrationSet, check_rows, draw, row_length


@dataclass(frozen=True)
class Windows:
    """``count`` windows to calibrate on, ``length`` tokens each (0: the context), ``held_out`` windows to judge on."""

    count: Annotated[int, Gt(0)] = 128
    length: Annotated[int, Ge(0)] = 0
    held_out: Annotated[int, Ge(0)] = 16

    def __call__(self, model: Model, rows: Sequence[Sequence[int]], seed: int = 0) -> CalibrationSet:
        """Draws windows.

        Raises:
            DataError: a token id outside the model's vocabulary, or rows too short together for one window.
        """
        check_rows(rows, int(model.config.vocab_size))
        length = row_length(model, self.length)
        end = model.tokenizer.eos_token_id
        between = [] if end is None else [end]
        stream = list(chain.from_iterable([*row, *between] for row in rows))
        windows = [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]
        if rows and not windows:
            raise DataError(
                f"{len(rows)} calibration rows hold {len(stream)} tokens, less than one window of {length}; set a shorter length"
            )
        drawn = draw(windows, self.count, self.held_out, seed)
        receipt = {
            "rows_given": len(rows),
            "tokens_given": sum(len(row) for row in rows),
            "tokens_in_tail": len(stream) - len(windows) * length,
            **drawn.receipt,
        }
        return replace(drawn, receipt=receipt)
