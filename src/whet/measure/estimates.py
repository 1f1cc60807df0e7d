"""Turns outcomes into estimates with the interval that their kind asks for, and names estimates of groups.

Right-or-wrong values: Wilson. Real values: BCa bootstrap over items, or Student's t below 30 items. Outcomes with a ``document``
label belong together where it is the same; then whole documents are resampled. An estimate of a group is kept under
``metric[label=value]``, for example ``accuracy[skill=facts]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from whet.errors import DataError
from whet.measure.outcome import Estimate, Outcome
from whet.measure.statistics import mean_interval, wilson

LOWER_IS_BETTER = frozenset(
    {"perplexity", "bits_per_byte", "nll", "brier", "calibration_error", "negative_flips", "negative_mc_flips", "regression"}
    | {"format_error", "step_error", "other_error"}
)
_KEY = re.compile(r"(?P<metric>.*?)\[(?P<label>[^=\]]+)=(?P<value>.*)\]")


def is_better_high(metric: str) -> bool:
    """Whether more of this metric is better.

    >>> is_better_high("accuracy"), is_better_high("perplexity[language=en]")
    (True, False)
    """
    return split_key(metric)[0] not in LOWER_IS_BETTER


def key(metric: str, label: str, value: str) -> str:
    """The name of a group's estimate.

    >>> key("accuracy", "skill", "facts")
    'accuracy[skill=facts]'
    """
    return f"{metric}[{label}={value}]"


def split_key(name: str) -> tuple[str, str, str]:
    """(metric, label, value) of an estimate's name; label and value are empty for the estimate over everything.

    >>> split_key("accuracy[skill=facts]"), split_key("accuracy")
    (('accuracy', 'skill', 'facts'), ('accuracy', '', ''))
    """
    found = _KEY.fullmatch(name)
    return (found["metric"], found["label"], found["value"]) if found else (name, "", "")


def values_of(outcomes: Sequence[Outcome], score: str = "score") -> list[float]:
    """One number per outcome: its score, or the named one of its ``scores``.

    Raises:
        DataError: no outcomes, or one lacks that score; names it and what there is.
    """
    if not outcomes:
        raise DataError("there are no outcomes to estimate from")
    if score == "score":
        return [outcome.score for outcome in outcomes]
    for outcome in outcomes:
        if score not in outcome.scores:
            raise DataError(f"outcome {outcome.id!r} has no score {score!r}; it has {', '.join(outcome.scores) or 'none'}")
    return [outcome.scores[score] for outcome in outcomes]


def mean(values: Sequence[float], *, weights: Sequence[float] | None = None, groups: Sequence[str] | None = None) -> Estimate:
    """The (weighted) mean with the interval that its values ask for.

    Args:
        values: at least one.
        weights: what each counts for; default equal.
        groups: the document of each value, where some share one.
    """
    if weights is None and groups is None and is_binary(values):
        return wilson(sum(values), len(values))
    return mean_interval(values, weights=weights, groups=groups)


def is_binary(values: Sequence[float]) -> bool:
    return all(value in (0.0, 1.0) for value in values)


def documents_of(outcomes: Sequence[Outcome]) -> list[str] | None:
    """The document of each outcome; ``None`` where no two share one, so that items are independent."""
    documents = [outcome.labels.get("document", f"\0{i}") for i, outcome in enumerate(outcomes)]
    return documents if len(set(documents)) < len(documents) else None


def by_groups(
    outcomes: Sequence[Outcome], metrics: Mapping[str, Callable[[Sequence[Outcome]], Estimate]], labels: Sequence[str]
) -> dict[str, Estimate]:
    """Every metric over all outcomes, and over the outcomes of each value of each label, in the order of first appearance.

    Numbers sort as numbers: difficulty 2 comes before 10.
    """
    estimates = {metric: function(outcomes) for metric, function in metrics.items()}
    for label in labels:
        groups: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            if label in outcome.labels:
                groups.setdefault(outcome.labels[label], []).append(outcome)
        for value in sorted(groups, key=lambda v: (not v.isdigit(), int(v) if v.isdigit() else 0, v)):
            for metric, function in metrics.items():
                estimates[key(metric, label, value)] = function(groups[value])
    return estimates
