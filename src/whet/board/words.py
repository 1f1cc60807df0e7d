"""Where two texts differ, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import groupby

Pieces = list[tuple[str, bool]]
"""A text cut into pieces, each with whether the other text lacks it."""

LIMIT = 6000
"""Longest text shown, in characters."""


def differing(first: str, second: str) -> tuple[Pieces, Pieces]:
    """Both texts, whole, as pieces that the other has or lacks.

    >>> differing("so 12 apples", "so 15 apples")
    ([('so ', False), ('12 ', True), ('apples', False)], [('so ', False), ('15 ', True), ('apples', False)])
    """
    a, b = _words(first), _words(second)
    left: Pieces = []
    right: Pieces = []
    for kind, a0, a1, b0, b1 in SequenceMatcher(None, _bare(a), _bare(b), autojunk=False).get_opcodes():
        left += [(word, kind != "equal") for word in a[a0:a1]]
        right += [(word, kind != "equal") for word in b[b0:b1]]
    return _joined(left), _joined(right)


def cut(text: str) -> str:
    """At most :data:`LIMIT` characters, and how many were left out."""
    return text if len(text) <= LIMIT else f"{text[:LIMIT]}\n… {len(text) - LIMIT:,} more characters"


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def _bare(words: list[str]) -> list[str]:
    """Without the space behind them: a line break in another place is no difference."""
    return [word.strip() for word in words]


def _joined(pieces: Pieces) -> Pieces:
    return [("".join(word for word, _ in group), differs) for differs, group in groupby(pieces, key=lambda piece: piece[1])]
