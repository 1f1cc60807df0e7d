"""Rewards phrases of reasoning, whatever is concluded: how many of a list occur, minus a penalty for repetition.

    r = min(1, distinct phrases found / full) - repeated 20-grams / 20-grams - turns of the user that were made up,   at least 0

in lower-cased text; an n-gram is n words, and each different n-gram that occurs more than once counts once above the line.
Alone it can train a model that already has the skill, and it softens the false negatives of a noisy reward; it is easily
exploited, so the repetition term belongs to it. A world with a small vocabulary needs a list of its own.

Defaults: a list of 40 phrases (planning, checking, connecting); 20 of them give the full reward; 20-grams.

Paper: noisy-rewards — The Climb Carves Wisdom Deeper Than the Summit: On the Noisy Rewards in Learning to Reason
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt, MinLen

PHRASES = (
    *("first, ", "second, ", "next, ", "then, ", "finally, ", "step by step", "to start", "to begin", "let me ", "let us "),
    *("let's ", "i need to", "i will ", "i should ", "we need to", "we have ", "we know that", "we can ", "given that"),
    *("recall that", "note that", "wait", "hmm", "check", "verify", "make sure", "alternatively", "instead", "however"),
    *("on the other hand", "because ", "since ", "therefore", "thus", "hence", "which means", "it follows", "for example "),
    *("in summary", "in other words"),
)  # fmt: skip


@dataclass(frozen=True)
class ReasoningPattern:
    """``phrases``: compared in lower case. ``full``: how many of them give the full reward. ``ngram``: words of a repetition."""

    phrases: Annotated[tuple[str, ...], MinLen(1)] = PHRASES
    full: Annotated[int, Gt(0)] = 20
    ngram: Annotated[int, Gt(0)] = 20

    def __call__(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
        return [self._score(text.lower()) for text in completions]

    def _score(self, text: str) -> float:
        found = sum(phrase.lower() in text for phrase in self.phrases)
        return max(0.0, min(1.0, found / self.full) - self._repetition(text.split()) - text.count("user: "))

    def _repetition(self, words: Sequence[str]) -> float:
        grams = Counter(tuple(words[i : i + self.ngram]) for i in range(len(words) - self.ngram + 1))
        return sum(count > 1 for count in grams.values()) / max(1, sum(grams.values()))
