"""Listings of parts and papers, read from the parts' own docstrings without importing them."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import MISSING
from typing import Any

from whet import parts
from whet.errors import RecipeError
from whet.parts import Part


def list_parts(kind: str | None) -> tuple[list[dict[str, str]], str]:
    """All parts, or those of a kind, as data and as a table.

    Raises:
        RecipeError: the kind is unknown.
    """
    kinds = [kind] if kind else list(parts.ROOMS)
    found = [p for k in kinds for p in parts.parts(k).values()]
    rows = [{"kind": p.kind, "name": p.name, "summary": p.summary, "papers": ", ".join(p.papers)} for p in found]
    width = max((len(p.name) for p in found), default=0)
    lines = []
    for k in kinds:
        lines += [k, *(f"  {p.name:<{width}}  {p.summary}" for p in found if p.kind == k)]
    return rows, "\n".join(lines)


def describe_part(kind: str, name: str) -> tuple[dict[str, Any], str]:
    """One part's card and settings with their defaults."""
    part = parts.find(kind, name)
    settings = parts.settings_of(parts.load(part))
    preset = part.preset or {}
    rows = {s.name: preset.get(s.name, "required" if s.default is MISSING else s.default) for s in settings.values()}
    expands = (
        f"\n\nA preset of {part.module.rpartition('.')[2].replace('_', '-')}: {dict(preset)}" if part.preset is not None else ""
    )
    lines = "\n".join(f"  {k} = {v!r}" if v != "required" else f"  {k} (required)" for k, v in rows.items())
    data = {"kind": kind, "name": name, "doc": part.doc, "settings": {k: str(v) for k, v in rows.items()}, "papers": part.papers}
    return data, f"{part.doc}{expands}\n\nsettings:\n{lines or '  none'}"


def papers() -> dict[str, tuple[str, list[Part]]]:
    """Paper id -> its title and the parts that name it, for every paper that has a part."""
    found: dict[str, tuple[str, list[Part]]] = {}
    for kind in parts.ROOMS:
        for part in parts.parts(kind).values():
            if part.preset is None:
                for paper, title in part.papers.items():
                    found.setdefault(paper, (title, []))[1].append(part)
    return dict(sorted(found.items()))


def search_papers(query: str) -> tuple[list[dict[str, Any]], str]:
    """The papers ranked by BM25 over titles and cards; all of them, by id, for an empty query."""
    known = papers()
    documents = {i: _words(f"{i} {title} " * 3 + " ".join(p.doc for p in made)) for i, (title, made) in known.items()}
    scores = bm25(_words(query), documents) if query.strip() else dict.fromkeys(known, 0.0)
    if query.strip():
        scores = {k: v for k, v in scores.items() if v > 0}
    ranked = sorted(scores, key=lambda k: (-scores[k], k))
    rows: list[dict[str, Any]] = [
        {"paper": k, "title": known[k][0], "parts": [f"{p.kind} {p.name}" for p in known[k][1]], "score": round(scores[k], 3)}
        for k in ranked
    ]
    text = "\n".join(f"{r['paper']}: {r['title']}\n    {'; '.join(r['parts'])}" for r in rows)
    return rows, text or f"no paper here matches {query!r}; 'whet papers' lists all {len(known)}"


def bm25(query: list[str], documents: dict[str, list[str]], k1: float = 1.5, b: float = 0.75) -> dict[str, float]:
    """Okapi BM25 of each document: sum over query words of idf * tf (k1 + 1) / (tf + k1 (1 - b + b len / mean len))."""
    if not documents:
        raise RecipeError("no part names a paper")
    mean = sum(map(len, documents.values())) / len(documents)
    counts = {key: Counter(words) for key, words in documents.items()}
    scores = dict.fromkeys(documents, 0.0)
    for word in query:
        holding = sum(word in c for c in counts.values())
        idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        for key, count in counts.items():
            tf = count[word]
            scores[key] += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(documents[key]) / mean)) if tf else 0.0
    return scores


def _words(text: str) -> list[str]:
    return [_stem(word) for word in re.findall(r"[a-z0-9]+", text.lower())]


def _stem(word: str) -> str:
    """Drops the commonest endings, so that 'quantize', 'quantizing' and 'quantization' meet."""
    for ending in ("izations", "ization", "izing", "ized", "izes", "ize", "ations", "ation", "ings", "ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
