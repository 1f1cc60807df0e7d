"""Search: the rows of the ledger, and the claims, in which every word occurs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Text, and_, or_, select, type_coerce
from sqlalchemy.sql import ColumnElement

from whet.board.records import Records
from whet.run.claims import Claim
from whet.run.ledger import ComparisonRecord, Run, StepRecord

MOST = 50
"""Hits of a kind."""


@dataclass(frozen=True)
class Hit:
    """``kind``, ``title`` and ``link`` of what was found; ``around``: text before the word, the word, text after."""

    kind: str
    title: str
    link: str
    around: tuple[str, str, str]


def search(records: Records, claims: Sequence[Claim], query: str) -> list[Hit]:
    """What has every word of the query, in any of its texts; runs, steps, comparisons, claims, the newest first."""
    words = query.split()
    return [*_in_ledger(records, words), *_in_claims(claims, words)] if words else []


def _in_ledger(records: Records, words: Sequence[str]) -> list[Hit]:
    run_texts = (Run.id, Run.status, _text(Run.document))
    comparison_texts = (
        ComparisonRecord.id,
        ComparisonRecord.status,
        _text(ComparisonRecord.document),
        _text(ComparisonRecord.result),
    )
    step_texts = (StepRecord.name, StepRecord.section, StepRecord.identity, _text(StepRecord.settings), _text(StepRecord.receipt))
    newest = select(Run.started).where(Run.id == StepRecord.run_id).scalar_subquery()
    with records.ledger.session() as session:
        found = [
            Hit("comparison", row[0], f"/comparisons/{row[0]}", _around(row, words))
            for row in session.execute(
                select(*comparison_texts)
                .where(_every(words, comparison_texts))
                .order_by(ComparisonRecord.started.desc())
                .limit(MOST)
            )
        ]
        found += [
            Hit("run", row[0], f"/runs/{row[0]}", _around(row, words))
            for row in session.execute(
                select(*run_texts).where(_every(words, run_texts)).order_by(Run.started.desc()).limit(MOST)
            )
        ]
        asked = select(StepRecord.run_id, *step_texts).where(_every(words, step_texts)).order_by(newest.desc()).limit(MOST)
        for run, *row in session.execute(asked):
            found.append(Hit("step", f"{row[0]} of {run}", f"/runs/{run}#{row[0]}", _around(row, words)))
    return found


def _text(column: Any) -> ColumnElement[str]:
    """A document's column as the JSON that it is stored as."""
    return type_coerce(column, Text)


def _every(words: Sequence[str], texts: Sequence[Any]) -> ColumnElement[bool]:
    """Every word in one of the texts."""
    return and_(*(or_(*(t.icontains(form, autoescape=True) for t in texts for form in _forms(word))) for word in words))


def _forms(word: str) -> set[str]:
    """A word as it is and, beyond ASCII, as JSON writes it; databases do not know that two such forms differ by case alone."""
    return {word} | {json.dumps(form)[1:-1] for form in (word, word.lower(), word.capitalize(), word.upper())}


def _in_claims(claims: Sequence[Claim], words: Sequence[str]) -> list[Hit]:
    found = []
    for claim in claims:
        texts = (claim.paper, claim.title, claim.claim, claim.test, json.dumps(claim.results, default=str, ensure_ascii=False))
        if all(any(word.lower() in text.lower() for text in texts) for word in words):
            found.append(Hit("claim", claim.paper, f"/claims/{claim.paper}", _around(texts, words)))
    return found


def _around(texts: Sequence[str], words: Sequence[str]) -> tuple[str, str, str]:
    """The first word where it occurs first."""
    word = words[0].lower()
    for text in map(_readable, texts):
        at = text.lower().find(word)
        if at >= 0:
            end = at + len(word)
            return text[max(0, at - 60) : at], text[at:end], text[end : end + 90]
    return "", "", ""


def _readable(text: str) -> str:
    """A document without JSON's escapes; any other text as it is."""
    return json.dumps(json.loads(text), ensure_ascii=False) if text.startswith("{") else text
