"""1 if a regular expression is found in the completion, else 0.

Python's syntax; ``whole: true`` asks that all of the completion matches. The expression runs on text that a model wrote:
avoid nested repetition such as ``(a+)+``, whose time grows exponentially.

Defaults: case counts, found anywhere, ``.`` matches line breaks too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.errors import RecipeError


@dataclass(frozen=True)
class Pattern:
    """``pattern``: the regular expression. ``whole``: it must match all of the text. ``ignore_case``: as it says."""

    pattern: str
    whole: bool = False
    ignore_case: bool = False

    def __post_init__(self) -> None:
        try:
            self._compiled()
        except re.error as error:
            raise RecipeError(f"pattern {self.pattern!r} is no regular expression: {error}") from error

    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.DOTALL | (re.IGNORECASE if self.ignore_case else 0))

    def __call__(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
        compiled = self._compiled()
        find = compiled.fullmatch if self.whole else compiled.search
        return [float(find(text) is not None) for text in completions]
