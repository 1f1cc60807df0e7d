"""Chooses the rows that repair what a change broke: more from groups where the changed model drifted, the cheap drifted ones first.

Pruning, quantizing or updating damages abilities unevenly. The pool is grouped by meaning (:mod:`whet.data.clusters`, on prompt
embeddings; or by a column); group c gets the budget

    n_c = B · CDS_c / sum CDS,    CDS_c = mean over its rows of the mean JSD of the two models over the reply's tokens

and within a group rows come by efficiency, ``JSD / ln((|prompt| + |reply|)^2)`` with lengths in tokens. Going down that order, a row
is refused if two of its key phrases are both known from chosen rows but never stood together in one (it may contradict
them); the phrases of an accepted row become connected. What a group cannot use goes to the others. Copies of a row come after
all other rows of its group, so that a budget is not spent on one text many times.

Embeddings are the reference model's mean last hidden states (the paper: all-MiniLM-L6-v2, which would be a second model to load).
The drift is a mean over tokens, not the repository's sum over instruction positions. Remainders of the budget go to the
largest fractions, not unspent. Key phrases are RAKE's over prompt and reply. Defaults: share 0.2 (the paper: 0.04 to 0.2).

The step's ``model`` is the changed one, its ``reference`` the one before; both have one vocabulary.

Paper: paser — PASER: Post-Training Data Selection for Efficient Pruned Large Language Model Recovery
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from whet.data.amount import kept_rows, largest_remainders, refuse_unclear
from whet.data.clusters import MOST_CLUSTERS, spectral_clusters
from whet.data.context import Context
from whet.data.drift import prompt_embeddings, replies
from whet.data.example import Example
from whet.data.messages import messages_of
from whet.data.phrases import key_phrases
from whet.data.rows import missing_column
from whet.errors import DataError
from whet.generate.divergence import divergences

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Paser:
    """Drift-guided selection.

    Args:
        share, rows: how much is kept of the pool; one of the two.
        clusters: how many groups; default: chosen by the eigengap, at most 12.
        by: a column that names the groups, instead of clustering.
        drift: a column that holds each row's drift, as the label ``drift`` writes it; default: computed here.
        consistent: whether rows that may contradict chosen ones are refused.
    """

    share: Annotated[float, Gt(0), Le(1)] | None = None
    rows: Annotated[int, Gt(0)] | None = None
    clusters: Annotated[int, Ge(2)] | None = None
    by: str | None = None
    drift: str | None = None
    consistent: bool = True

    def __post_init__(self) -> None:
        refuse_unclear("paser", self.share, self.rows)

    def __call__(self, data: Dataset, context: Context) -> Dataset:
        reference = context.need_reference("paser")
        numbers, examples = replies(data, reference)
        count = kept_rows("paser", len(examples), self.share, self.rows)
        drifted = self._drift(data, numbers, examples, context)
        if not drifted.max() > 0:
            raise DataError(f"paser: the model predicts exactly as {reference.name!r} on every row; there is nothing to repair")
        labels, how = self._groups(data, numbers, examples, context)
        lengths = np.array([len(e) for e in examples], np.float64)
        efficiency = drifted / np.log(np.maximum(lengths, 2.0) ** 2)
        scores = np.array([drifted[labels == c].mean() for c in range(labels.max() + 1)])
        phrases = [key_phrases(_text(data[i])) for i in numbers] if self.consistent else [set() for _ in numbers]
        chosen, refused = spend_budget(labels, scores, efficiency, phrases, count, _earlier_copies(examples))
        context.receipt.update(
            rows_in=len(data),
            rows_out=len(chosen),
            rows_asked=count,
            rows_unusable=len(data) - len(numbers),
            rows_refused=refused,
            groups=self._table(data, numbers, labels, drifted, chosen),
            grouped_by=how,
        )
        return data.select(sorted(numbers[i] for i in chosen))

    def _drift(self, data: Dataset, numbers: Sequence[int], examples: Sequence[Example], context: Context) -> NDArray[np.float64]:
        """Mean JSD of each row."""
        if self.drift is not None:
            if self.drift not in data.column_names:
                raise DataError(f"paser: drift: {missing_column(self.drift, data.column_names)}")
            return np.array(data[self.drift], np.float64)[list(numbers)]
        model, reference = context.need_model("paser"), context.need_reference("paser")
        context.spend(2 * sum(map(len, examples)), model)
        return np.array([d.jsd for d in divergences(model, reference, examples)])

    def _groups(
        self, data: Dataset, numbers: Sequence[int], examples: Sequence[Example], context: Context
    ) -> tuple[NDArray[np.int64], str]:
        if self.by is not None:
            if self.by not in data.column_names:
                raise DataError(f"paser: by: {missing_column(self.by, data.column_names)}")
            column = data[self.by]
            names = sorted({str(column[i]) for i in numbers})
            return np.array([names.index(str(column[i])) for i in numbers], np.int64), f"column {self.by}"
        reference = context.need_reference("paser")
        context.spend(sum(map(len, examples)), reference)
        found = spectral_clusters(prompt_embeddings(reference, examples), self.clusters)
        chosen_by = "given" if self.clusters else f"eigengap, at most {MOST_CLUSTERS}"
        return found.labels, f"{found.count} clusters of prompt embeddings ({chosen_by})"

    def _table(
        self,
        data: Dataset,
        numbers: Sequence[int],
        labels: NDArray[np.int64],
        drifted: NDArray[np.float64],
        chosen: Sequence[int],
    ) -> list[dict[str, Any]]:
        """For each group its size, mean drift, how many rows were chosen, and a prompt to know it by."""
        picked = np.bincount(labels[list(chosen)], minlength=labels.max() + 1)
        return [
            {
                "rows": int((labels == c).sum()),
                "drift": float(drifted[labels == c].mean()),
                "chosen": int(picked[c]),
                "example": _text(data[numbers[int(np.flatnonzero(labels == c)[0])]])[:120],
                **({"name": str(data[self.by][numbers[int(np.flatnonzero(labels == c)[0])]])} if self.by else {}),
            }
            for c in range(labels.max() + 1)
        ]


def spend_budget(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    efficiency: NDArray[np.float64],
    phrases: Sequence[set[str]],
    count: int,
    copies: Sequence[int] = (),
) -> tuple[list[int], int]:
    """Chooses rows: budgets by group, within a group by efficiency, without contradictions.

    Args:
        labels: [n] group of each row.  scores: [groups] what the budgets are proportional to.
        efficiency: [n] order within a group, the larger first.
        phrases: key phrases of each row.
        count: rows to choose.
        copies: how often each row stood before; a group's copies come after all else in it. Default: no row is a copy.

    Returns:
        Row numbers in the order of choice, at most ``count``, and how many rows were refused.
    """
    graph, refused = ConceptGraph(), 0
    chosen: list[int] = []
    order = np.lexsort((-efficiency, np.asarray(copies) if len(copies) else np.zeros(len(labels))))
    waiting = {c: order[labels[order] == c].tolist() for c in range(len(scores))}
    while len(chosen) < count:
        open_ = [c for c in waiting if waiting[c]]
        if not open_:
            break
        weights = [float(scores[c]) for c in open_]
        quota = largest_remainders(weights if sum(weights) > 0 else [1.0] * len(open_), count - len(chosen))
        for c, budget in zip(open_, quota):
            while budget and waiting[c]:
                row = waiting[c].pop(0)
                if graph.accepts(phrases[row]):
                    chosen.append(row)
                    budget -= 1
                else:
                    refused += 1
    return chosen, refused


def _earlier_copies(examples: Sequence[Example]) -> list[int]:
    """How many of the rows before each have the same tokens."""
    seen: Counter[tuple[int, ...]] = Counter()
    copies = []
    for example in examples:
        tokens = tuple(example.input_ids)
        copies.append(seen[tokens])
        seen[tokens] += 1
    return copies


class ConceptGraph:
    """Phrases that were seen together in a chosen row."""

    def __init__(self) -> None:
        self._together: dict[str, set[str]] = {}

    def accepts(self, phrases: set[str]) -> bool:
        """Whether no two of the phrases are both known and were never together; if so, they become connected."""
        known = [p for p in phrases if p in self._together]
        if any(b not in self._together[a] for a in known for b in known if a != b):
            return False
        for phrase in phrases:
            self._together.setdefault(phrase, set()).update(phrases - {phrase})
        return True


def _text(row: Mapping[str, Any]) -> str:
    """A row's words: prompt and reply, or all its messages."""
    return ". ".join(str(message["content"]) for message in messages_of(row))
