"""Puts measured examples into the groups in which the pool was diagnosed, so that each group shows what it lost and won back.

An example belongs where its own column ``by`` says; without one, to its skill; and where it has neither, to the group of the pool's
row whose prompt is most alike (nearest mean last hidden state of the reference model, the space in which the pool was clustered).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist

from whet.data.clusters import MOST_ROWS
from whet.data.drift import prompt_embeddings, replies
from whet.data.messages import prompt_text
from whet.measure.estimates import by_groups
from whet.measure.metrics.accuracy import accuracy
from whet.measure.metrics.perplexity import perplexity
from whet.measure.outcome import Outcome, TaskResult

if TYPE_CHECKING:
    from datasets import Dataset

    from whet.model import Model

Results = Mapping[str, Mapping[str, TaskResult]]
METRICS = {"accuracy": accuracy, "perplexity": perplexity}
GROUP = "group"


def grouped(
    results: Results,
    pool: Dataset,
    reference: Callable[[], Model],
    by: str | None = None,
    held_out: Sequence[Mapping[str, Any]] = (),
) -> tuple[Results, dict[str, str]]:
    """The results with the label ``group`` on every outcome and estimates for each group.

    Args:
        results: task -> stage -> result.
        pool: the diagnosed rows, with ``group``.
        reference: opens the reference model, where prompts have to be compared.
        by: the column that the pool was grouped by.
        held_out: rows that may be the measured ones, to read ``by`` from.

    Returns:
        The results, and for each task a sentence on how its examples were grouped, or why they were not.
    """
    known = {prompt_text(row): str(row[by]) for row in held_out if by and row.get(by) is not None}
    found, how = {}, {}
    for task, by_stage in results.items():
        outcomes = next(iter(by_stage.values())).outcomes
        names, how[task] = _names(outcomes, by_stage, pool, reference, by, known)
        found[task] = {stage: _labelled(result, names) if names else result for stage, result in by_stage.items()}
    return found, how


def _names(
    outcomes: Sequence[Outcome],
    by_stage: Mapping[str, TaskResult],
    pool: Dataset,
    reference: Callable[[], Model],
    by: str | None,
    known: Mapping[str, str],
) -> tuple[dict[str, str], str]:
    """Outcome id -> group, and the sentence."""
    metric = next(iter(by_stage.values())).metric
    if metric not in METRICS:
        return {}, f"One line for all examples: {metric} is not averaged by group."
    label = by or "skill"
    if all(label in outcome.labels for outcome in outcomes):
        return {o.id: o.labels[label] for o in outcomes}, f"One line for each {label} of the measured examples."
    if by and all(outcome.prompt in known for outcome in outcomes):
        return {o.id: known[o.prompt] for o in outcomes}, f"One line for each value of the column {by}."
    if not all(outcome.prompt for outcome in outcomes):
        return {}, "One line for all examples: they have no prompt by which they could be put into the pool's groups."
    nearest = nearest_groups(reference(), pool, [o.prompt for o in outcomes])
    sentence = (
        "One line for each group of the pool: a measured example belongs to the group of the pool's prompt most like its own."
    )
    return {o.id: name for o, name in zip(outcomes, nearest)}, sentence


def nearest_groups(model: Model, pool: Dataset, prompts: Sequence[str]) -> list[str]:
    """The group of the pool's row whose prompt's embedding is nearest to each prompt's; of a large pool, of some thousand rows."""
    chosen = pool.select(np.linspace(0, len(pool) - 1, min(len(pool), MOST_ROWS)).round().astype(int).tolist())
    numbers, examples = replies(chosen, model)
    asked, others = replies(({"prompt": prompt, "completion": "?"} for prompt in prompts), model)
    nearest = cdist(prompt_embeddings(model, others), prompt_embeddings(model, examples)).argmin(1)
    names = dict(zip(asked, (str(chosen[numbers[i]][GROUP]) for i in nearest.tolist())))
    return [names.get(i, "too long to compare") for i in range(len(prompts))]


def _labelled(result: TaskResult, names: Mapping[str, str]) -> TaskResult:
    outcomes = [replace(o, labels={**o.labels, GROUP: names[o.id]}) for o in result.outcomes if o.id in names]
    estimates = by_groups(outcomes, {result.metric: METRICS[result.metric]}, [GROUP])
    return replace(result, outcomes=outcomes, estimates={**result.estimates, **estimates})
