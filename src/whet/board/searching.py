"""Search: the rows of the ledger, and the claims, in which every word occurs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Text, and_, or_, select, type_coerce
from sqlalchemy.sql import ColumnElement

from whet.board import racing
from whet.board.comparing import headlines
from whet.board.records import Records
from whet.run.claims import Claim
from whet.run.ledger import ComparisonRecord, RaceRecord, Run, StepRecord

KINDS = ("claims", "races", "comparisons", "runs", "steps")
"""What is found, in the order in which it is shown."""

MOST = 50
"""Hits of a kind."""


@dataclass(frozen=True)
class Hit:
    """``kind``, ``title`` and ``link`` of what was found; ``around``: text before the word, the word, text after; ``verdict``: of a
    claim, race or comparison, what came out."""

    kind: str
    title: str
    link: str
    around: tuple[str, str, str]
    verdict: str = ""


def search(records: Records, claims: Sequence[Claim], query: str) -> list[Hit]:
    """What has every word of the query, in any of its texts: the kinds in the order of :data:`KINDS`, of each the newest first."""
    words = query.split()
    return [*_in_claims(claims, words), *_in_ledger(records, words)] if words else []


def _in_claims(claims: Sequence[Claim], words: Sequence[str]) -> Iterator[Hit]:
    for claim in claims:
        texts = (claim.paper, claim.title, claim.claim, claim.test, json.dumps(claim.results, default=str, ensure_ascii=False))
        if all(any(word.lower() in text.lower() for text in texts) for word in words):
            verdict = str(claim.results[-1]["verdict"]) if claim.results else "not run yet"
            around = _around((claim.claim, claim.test), {}, words)
            yield Hit("claims", claim.title, f"/claims/{claim.paper}", around, verdict)


def _in_ledger(records: Records, words: Sequence[str]) -> Iterator[Hit]:
    with records.ledger.session() as session:
        results: list[tuple[Any, str, Callable[[Any], str]]] = [
            (RaceRecord, "races", racing.headline),
            (ComparisonRecord, "comparisons", _first_headline),
        ]
        for table, kind, verdict_of in results:
            found = _every(words, (table.id, table.status, _text(table.document), _text(table.result)))
            for c in session.scalars(select(table).where(found).order_by(table.started.desc()).limit(MOST)):
                yield Hit(kind, c.id, f"/{kind}/{c.id}", _about(c.document, words), verdict_of(c) or records.status(c))
        found = _every(words, (Run.id, Run.status, _text(Run.document)))
        for run in session.scalars(select(Run).where(found).order_by(Run.started.desc()).limit(MOST)):
            around = _about(run.document, words)
            yield Hit("runs", run.id, f"/runs/{run.id}", around)
        texts: tuple[Any, ...] = (StepRecord.name, StepRecord.section, StepRecord.identity)
        found = _every(words, (*texts, _text(StepRecord.settings), _text(StepRecord.receipt)))
        asked = select(StepRecord, Run.started).join(Run, Run.id == StepRecord.run_id).where(found)
        for step, _ in session.execute(asked.order_by(Run.started.desc()).limit(MOST)):
            around = _around((), {**step.settings, **step.receipt}, words)
            yield Hit("steps", f"{step.name} of {step.run_id}", f"/runs/{step.run_id}#{step.name}", around)


def _first_headline(comparison: ComparisonRecord) -> str:
    return " ".join(h["text"] for h in headlines(comparison)[:1])


def _text(column: Any) -> ColumnElement[str]:
    """A document's column as the JSON that it is stored as."""
    return type_coerce(column, Text)


def _every(words: Sequence[str], texts: Sequence[Any]) -> ColumnElement[bool]:
    """Every word in one of the texts."""
    return and_(*(or_(*(t.icontains(form, autoescape=True) for t in texts for form in _forms(word))) for word in words))


def _forms(word: str) -> set[str]:
    """A word as it is and, beyond ASCII, as JSON writes it; databases do not know that two such forms differ by case alone."""
    return {word} | {json.dumps(form)[1:-1] for form in (word, word.lower(), word.capitalize(), word.upper())}


def _about(document: Mapping[str, Any], words: Sequence[str]) -> tuple[str, str, str]:
    """Of a recipe: its description or a setting; its name stands in the title."""
    return _around((document.get("about", ""),), {k: v for k, v in document.items() if k not in ("name", "about")}, words)


def _around(descriptions: Sequence[str], document: Mapping[str, Any], words: Sequence[str]) -> tuple[str, str, str]:
    """The first word where it occurs first: in a description, else in a setting, else nowhere and the description begins."""
    word = words[0].lower()
    for text in (*descriptions, *_settings(document)):
        at = text.lower().find(word)
        if at >= 0:
            end, start = at + len(word), max(0, at - 60)
            rest = "…" if end + 90 < len(text) else ""
            return ("…" if start else "") + text[start:at], text[at:end], text[end : end + 90] + rest
    first = next(filter(None, descriptions), "")
    return first[:150] + ("…" if len(first) > 150 else ""), "", ""


def _settings(value: Any, path: str = "") -> Iterator[str]:
    """Every field of a document as ``path: value``.

    >>> list(_settings({"train": [{"name": "sft", "lr": 0.1}]}))
    ['train.0.name: sft', 'train.0.lr: 0.1']
    """
    if isinstance(value, (Mapping, list)):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _settings(inner, f"{path}.{key}" if path else str(key))
    else:
        yield f"{path}: {value}"
