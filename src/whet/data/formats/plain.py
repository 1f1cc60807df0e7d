"""Plain text for language modelling: every token of the text is trained, and the end-of-sequence token after it.

Reads ``text``. The tokenizer's own beginning token is added where it uses one. The first token has nothing before it and is
never a target. Documents longer than the context are cut into windows when the rows are prepared (``overlong: chunk``),
each token being a target exactly once.

Defaults: column ``text``; the end-of-sequence token is added and trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whet.data.example import Example
from whet.data.rows import text_cell
from whet.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Plain:
    """``column``: where the text stands. ``eos``: whether the end-of-sequence token follows it."""

    column: str = "text"
    eos: bool = True

    def __call__(self, row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
        ids = list(tokenizer(text_cell(row, self.column), verbose=False)["input_ids"])
        if self.eos and (not ids or ids[-1] != tokenizer.eos_token_id):
            if tokenizer.eos_token_id is None:
                raise DataError("this tokenizer has no end-of-sequence token; set `eos: false` in the format")
            ids.append(tokenizer.eos_token_id)
        return [Example(ids, [position > 0 for position in range(len(ids))])]
