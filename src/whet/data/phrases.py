"""Key phrases of a text by rapid automatic keyword extraction (RAKE): no model, no corpus.

Candidates are runs of words between stop words and punctuation. A word scores its degree (how many words stand in its
candidates, itself included) over its frequency; a phrase scores the sum of its words. The best third stays, by the number of
different words in the text.
"""

from __future__ import annotations

import re

_STOP = """a about above after again against all am an and any are as at be because been before being below between both but by can
    could did do does doing down during each few for from further had has have having he her here hers him his how i if in into is
    it its itself just let me more most my myself no nor not now of off on once only or other our ours out over own same she should
    so some such than that the their theirs them then there these they this those through to too under until up us very was we were
    what when where which while who whom why will with would you your yours"""
STOP_WORDS = frozenset(_STOP.split())
LONGEST = 4
"""Words of the longest candidate."""


def key_phrases(text: str) -> set[str]:
    """The key phrases of a text, lower-cased.

    >>> sorted(key_phrases("Compute the prime factors of the number, then sort the prime factors."))
    ['prime factors']
    """
    candidates = _candidates(text.lower())
    degree: dict[str, int] = {}
    frequency: dict[str, int] = {}
    for words in candidates:
        for word in words:
            degree[word] = degree.get(word, 0) + len(words)
            frequency[word] = frequency.get(word, 0) + 1
    scores = {words: sum(degree[w] / frequency[w] for w in words) for words in candidates}
    best = sorted(scores, key=lambda words: (-scores[words], words))
    return {" ".join(words) for words in best[: max(1, len(frequency) // 3)]} if best else set()


def _candidates(text: str) -> list[tuple[str, ...]]:
    found = []
    for piece in re.split(r"[^\w\s'-]+|\n", text):
        run: list[str] = []
        for word in [*piece.split(), ""]:
            if any(c.isalpha() for c in word) and word not in STOP_WORDS:
                run.append(word)
            else:
                if 0 < len(run) <= LONGEST:
                    found.append(tuple(run))
                run = []
    return found
