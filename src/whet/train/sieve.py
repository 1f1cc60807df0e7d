"""Keeps rows that cannot be trained on out of a step, and counts them; no row is ever cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from whet.data.example import Example
from whet.errors import DataError

SHOWN = 3


@dataclass
class Dropped:
    """Counts of rows left out, each time they come up, with the start of a few of them as token ids."""

    overlong: int = 0
    untrained: int = 0
    with_their_unit: int = 0
    longest: int = 0
    examples: list[dict[str, object]] = field(default_factory=list)


def sieve(examples: Sequence[Example], limit: int, overlong: Literal["drop", "error"], dropped: Dropped) -> list[Example]:
    """The examples of units in which every row fits into ``limit`` tokens and has a trained token.

    A pair or group with one unusable row goes as a whole. Counts are added to ``dropped``.

    Raises:
        DataError: a row is overlong and ``overlong`` is ``error``.
    """
    bad: set[int] = set()
    for example in examples:
        reason = _reason(example, limit)
        if reason is None:
            continue
        if reason == "overlong" and overlong == "error":
            raise DataError(
                f"a row of {len(example)} tokens is longer than {limit}; set overlong: drop to leave such rows out, "
                "raise max_length, or shorten them in a data step"
            )
        bad.add(example.unit)
        setattr(dropped, reason, getattr(dropped, reason) + 1)
        dropped.longest = max(dropped.longest, len(example))
        if len(dropped.examples) < SHOWN:
            dropped.examples.append(
                {"reason": reason, "tokens": len(example), "starts": [int(i) for i in example.input_ids[:32]]}
            )
    kept = [e for e in examples if e.unit not in bad]
    dropped.with_their_unit += sum(e.unit in bad and _reason(e, limit) is None for e in examples)
    return kept


def _reason(example: Example, limit: int) -> str | None:
    if len(example) > limit:
        return "overlong"
    return None if any(example.trained) else "untrained"
