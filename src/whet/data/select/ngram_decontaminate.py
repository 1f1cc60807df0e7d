"""Removes training rows that overlap with an evaluation set by long n-grams.

For each evaluation prompt, its n-grams of words are looked up in the training prompts. A training row *matches* an evaluation
item if the n-grams that they share cover more than ``overlap`` of the item's words. An item shorter than n words matches a row
that holds all of it. Matches are counted for each source of training rows (``by``): if more than ``tolerance`` of the evaluation
set is matched by a source, its matching rows are removed, or with ``drop_source`` the whole source.

Words are lower-cased runs of letters and digits; punctuation and spacing do not count.

Defaults: n 8 and overlap 0.5, the paper's; tolerance 0, so that every match is removed (the paper leaves sources alone that
match up to 2%).

Paper: tulu3 — TÜLU 3: Pushing Frontiers in Open Language Model Post-Training
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from whet.data.context import Context
from whet.data.rows import text_cell
from whet.errors import DataError
from whet.parts import Kind

if TYPE_CHECKING:
    from datasets import Dataset

SHOWN = 5
Gram = tuple[str, ...]


@dataclass(frozen=True)
class NgramDecontaminate:
    """``against``: the source of evaluation items, its ``split``. ``column``: the text compared on both sides. ``by``: the column
    that names a row's source; without one all rows are one source."""

    against: Annotated[Callable[[str], Any], Kind("source")]
    split: str = "test"
    column: str = "prompt"
    n: Annotated[int, Gt(0)] = 8
    overlap: Annotated[float, Gt(0), Lt(1)] = 0.5
    tolerance: Annotated[float, Ge(0), Le(1)] = 0.0
    by: str | None = None
    drop_source: bool = False

    def __call__(self, data: Dataset, context: Context) -> Dataset:
        items = [_words(text_cell(row, self.column)) for row in self.against(self.split)]
        texts = [{self.column: row.get(self.column)} for row in data] if self.column in data.column_names else list(data)
        found = context.map_blocks(self._overlaps, texts, shared=items)
        matches = {i: set(numbers) for i, numbers in enumerate(found) if numbers}
        sources = (
            [str(row[self.by]) if self.by else "all" for row in data] if self.by is None or self.by in data.column_names else None
        )
        if sources is None:
            raise DataError(f"ngram-decontaminate: by: no column {self.by!r}; there are: {', '.join(data.column_names)}")
        share = self._shares(matches, sources, len(items))
        over = {source for source, value in share.items() if value > self.tolerance}
        removed = {i for i, source in enumerate(sources) if source in over and (self.drop_source or i in matches)}
        if len(removed) == len(data):
            raise DataError(f"ngram-decontaminate: all {len(data)} rows overlap with the evaluation set; is it the same data?")
        context.receipt.update(
            rows_in=len(data),
            rows_out=len(data) - len(removed),
            rows_matched=len(matches),
            items=len(items),
            items_shorter_than_n=sum(len(words) < self.n for words in items),
            items_matched=len(set().union(*matches.values())),
            share_of_items_matched=share,
            removed=[text_cell(data[i], self.column)[:200] for i in sorted(removed)[:SHOWN]],
        )
        return data.select([i for i in range(len(data)) if i not in removed])

    def _overlaps(self, rows: Sequence[Mapping[str, Any]], keys: Sequence[int], items: Sequence[Gram]) -> list[list[int]]:
        """For each row the evaluation items that it matches."""
        index = self._index(items)
        return [sorted(self._matches(_words(text_cell(row, self.column)), items, index)) for row in rows]

    def _index(self, items: Sequence[Gram]) -> dict[Gram, list[tuple[int, int]]]:
        """n-gram -> (item, position) of each occurrence; an item shorter than n is one gram."""
        index = defaultdict(list)
        for number, words in enumerate(items):
            for position, gram in _grams(words, min(self.n, len(words))):
                index[gram].append((number, position))
        return index

    def _matches(self, words: Gram, items: Sequence[Gram], index: Mapping[Gram, list[tuple[int, int]]]) -> set[int]:
        covered: dict[int, set[int]] = defaultdict(set)
        lengths = {min(self.n, len(item)) for item in items}
        for length in lengths:
            for _, gram in _grams(words, length):
                for item, position in index.get(gram, ()):
                    covered[item].update(range(position, position + length))
        return {item for item, positions in covered.items() if len(positions) > self.overlap * len(items[item])}

    def _shares(self, matches: Mapping[int, set[int]], sources: Sequence[str], items: int) -> dict[str, float]:
        matched: dict[str, set[int]] = defaultdict(set)
        for i, found in matches.items():
            matched[sources[i]] |= found
        return {source: len(found) / items for source, found in sorted(matched.items())}


def _words(text: str) -> Gram:
    return tuple(re.findall(r"\w+", text.lower()))


def _grams(words: Gram, length: int) -> Iterator[tuple[int, Gram]]:
    if length:
        yield from ((i, words[i : i + length]) for i in range(len(words) - length + 1))
