"""Sequences put together into batches of similar lengths, so that little of a forward pass is padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def by_length(
    items: Iterable[T],
    length: Callable[[T], int],
    positions: int,
    *,
    scored: Callable[[T], int] = lambda _: 0,
    most_scored: int = 0,
) -> Iterator[list[T]]:
    """Items in batches, the longest first, items of one length in their order.

    Args:
        items: what stands for the sequences.
        length: the positions of an item.
        positions: the most positions of a batch, padding included; a longer item is a batch of its own.
        scored: the positions of an item whose logits are computed.
        most_scored: the most of these in a batch.
    """
    batch: list[T] = []
    count = 0
    for item in sorted(items, key=length, reverse=True):
        here = scored(item)
        if batch and ((len(batch) + 1) * length(batch[0]) > positions or count + here > most_scored):
            yield batch
            batch, count = [], 0
        batch.append(item)
        count += here
    if batch:
        yield batch
