"""1 if the answer has the form that was asked for, right or wrong in content: in a box, as JSON, or in at most k words.

What is judged is the rest of the last ``answer:`` line, else the whole completion.

- ``box``: it holds ``\\boxed{X}`` with X not empty;
- ``json``: all of it is one JSON object, with the keys of the row's answer if that is an object;
- ``words``: it has at least one and at most k words.

With ``require: row`` (the default) each row decides: by its column ``format`` (``box``, ``json``, ``words 5``) if it has one,
else by its ``answer``: a box, a JSON object, or as many words as the answer has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from whet.data.rows import text_cell
from whet.errors import DataError, RecipeError
from whet.generate.verify import answer_part

_BOX = re.compile(r"\\boxed\s*\{\s*[^\s}]")


@dataclass(frozen=True)
class Format:
    """``require``: the form, or ``row`` if each row says it. ``words``: the k of ``words``."""

    require: Literal["row", "box", "json", "words"] = "row"
    words: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        if (self.require == "words") != (self.words > 0):
            raise RecipeError(
                f"words: {self.words} with require: {self.require}; give `words` (1 or more) with `require: words` alone"
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
        return [float(self._fits(row, answer_part(text))) for row, text in zip(rows, completions)]

    def _fits(self, row: Mapping[str, Any], answer: str) -> bool:
        form, words = self._asked(row)
        if form == "box":
            return _BOX.search(answer) is not None
        if form == "json":
            given, reference = _object(answer), _object(str(row.get("answer") or ""))
            return given is not None and (reference is None or given.keys() == reference.keys())
        return 1 <= len(answer.split()) <= words

    def _asked(self, row: Mapping[str, Any]) -> tuple[str, int]:
        if self.require != "row":
            return self.require, self.words
        if row.get("format"):
            asked = re.fullmatch(r"(box|json)|words\D{0,3}([1-9]\d*)", str(row["format"]).strip().lower())
            if asked is None:
                raise DataError(f"column 'format': expected box, json or words k (such as 'words 5'), got {row['format']!r}")
            return asked[1] or "words", int(asked[2] or 0)
        answer = text_cell(row, "answer")
        if _BOX.match(answer):
            return "box", 0
        return ("json", 0) if _object(answer) is not None else ("words", len(answer.split()))


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
