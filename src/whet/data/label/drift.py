"""Says of every row how far a changed model drifted from the one before, and which group the row belongs to.

Adds the columns ``drift`` (mean JSD of the two models over the reply's tokens, nats), ``kl`` (mean KL(reference || model)),
``agreement`` (share of tokens with the same most probable one) and ``group`` (a cluster of prompt embeddings, numbered from the
largest on and named by its most telling phrases; or the values of the column ``by``). Rows without a reply that fits the context
are left out and counted. The receipt holds one line per group: how large it is, how far it drifted, and prompts to know it by.

The step's ``model`` is the changed one, its ``reference`` the one before; both have one vocabulary. Clusters as in
:mod:`whet.data.clusters`; embeddings are the reference model's mean last hidden states.

Paper: paser — PASER: Post-Training Data Selection for Efficient Pruned Large Language Model Recovery
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge

from whet.data.clusters import MOST_CLUSTERS, spectral_clusters
from whet.data.context import Context
from whet.data.drift import prompt_embeddings, replies
from whet.data.messages import prompt_text
from whet.data.phrases import key_phrases
from whet.data.rows import missing_column
from whet.errors import DataError
from whet.generate.divergence import Divergence, divergences

if TYPE_CHECKING:
    from datasets import Dataset

SHOWN = 3
"""Prompts shown for a group."""
PHRASES = 2
"""Phrases in a group's name."""


@dataclass(frozen=True)
class Drift:
    """``by``: a column that names the groups, instead of clustering. ``clusters``: how many; default by the eigengap."""

    by: str | None = None
    clusters: Annotated[int, Ge(2)] | None = None

    def __call__(self, data: Dataset, context: Context) -> Dataset:
        model, reference = context.need_model("drift"), context.need_reference("drift")
        if self.by is not None and self.by not in data.column_names:
            raise DataError(f"drift: by: {missing_column(self.by, data.column_names)}")
        numbers, examples = replies(data, reference)
        found = divergences(model, reference, examples)
        tokens = sum(map(len, examples))
        kept = data.select(numbers)
        if self.by is not None:
            groups, how = [str(value) for value in kept[self.by]], f"column {self.by}"
        else:
            clusters = spectral_clusters(prompt_embeddings(reference, examples), self.clusters)
            names = _names(clusters.labels.tolist(), [key_phrases(prompt_text(row)) for row in kept])
            groups = [names[label] for label in clusters.labels.tolist()]
            how = f"{clusters.count} clusters of prompt embeddings ({'given' if self.clusters else f'eigengap, at most {MOST_CLUSTERS}'})"
        context.spend((2 if self.by else 3) * tokens, model)
        context.receipt.update(
            rows_in=len(data),
            rows_unusable=len(data) - len(numbers),
            drift=float(np.mean([d.jsd for d in found])),
            grouped_by=how,
            groups=_table(groups, found, kept),
        )
        columns = {"drift": [d.jsd for d in found], "kl": [d.kl for d in found], "agreement": [d.agreement for d in found]}
        for name, values in {**columns, "group": groups}.items():
            kept = (kept.remove_columns(name) if name in kept.column_names else kept).add_column(name, values)
        return kept


def _names(labels: Sequence[int], phrases: Sequence[set[str]]) -> dict[int, str]:
    """Cluster -> its number and the phrases that are most frequent in it compared with the rest; with a word of three letters."""
    names = {}
    for label in sorted(set(labels)):
        inside = Counter(p for k, ps in zip(labels, phrases) if k == label for p in ps)
        outside = Counter(p for k, ps in zip(labels, phrases) if k != label for p in ps)
        members = sum(k == label for k in labels)
        rest = max(1, len(labels) - members)
        shares = {p: inside[p] / members - outside[p] / rest for p in inside if any(len(word) > 2 for word in p.split())}
        telling = sorted((p for p in shares if shares[p] > 0), key=lambda p: (-shares[p], p))[:PHRASES]
        names[label] = f"{label + 1}: {', '.join(telling)}" if telling else f"cluster {label + 1}"
    return names


def _table(groups: Sequence[str], found: Sequence[Divergence], data: Dataset) -> list[dict[str, Any]]:
    """The groups, the most drifted first; examples are the most drifted prompts."""
    table = []
    for name in sorted(set(groups)):
        members = [i for i, group in enumerate(groups) if group == name]
        worst = sorted(members, key=lambda i: -found[i].jsd)[:SHOWN]
        table.append(
            {
                "name": name,
                "rows": len(members),
                "drift": float(np.mean([found[i].jsd for i in members])),
                "kl": float(np.mean([found[i].kl for i in members])),
                "agreement": float(np.mean([found[i].agreement for i in members])),
                "examples": [prompt_text(data[i])[:160] for i in worst],
            }
        )
    return sorted(table, key=lambda line: -line["drift"])
