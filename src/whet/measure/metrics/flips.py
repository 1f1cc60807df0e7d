"""Flips between two models on the same examples: how many right answers an update breaks, and how many it mends.

A better model still breaks examples that the old one solved; the difference of two accuracies hides them. With old and new
answers to N examples,

    NFR    = share with old right and new wrong           (negative flips)
    NFR_mc = share with new wrong and another answer than old  (also counts mistakes that changed)
    PFR    = share with old wrong and new right           (positive flips)

so that accuracy(new) - accuracy(old) = PFR - NFR. For real-valued scores with D = new - old, PFR = share of D > 0, NFR = share of
D < 0, gain = sum of positive D / (N PFR), regression = sum of |negative D| / (N NFR): the mean size of a flip.

Paper: muscle — MUSCLE: A Model Update Strategy for Compatible LLM Evolution
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from whet.errors import DataError
from whet.measure.conditions import digest
from whet.measure.estimates import by_groups, documents_of, is_better_high, is_binary, mean, split_key, values_of
from whet.measure.outcome import Estimate, Outcome, TaskResult

NEGATIVE_FLIPS = "negative_flips"
"""The metric of :func:`flip_result`."""

Rate = Literal["negative", "negative-mc", "positive"]


@dataclass(frozen=True)
class FlipRates:
    """All flip figures of one pair of models; ``gain`` and ``regression`` are 0 where nothing flipped that way.

    ``negative_mc`` is ``None`` when scores are not right-or-wrong, for which it is not defined.
    """

    negative: Estimate
    positive: Estimate
    negative_mc: Estimate | None
    gain: float
    regression: float


def paired(old: Sequence[Outcome], new: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """The two outcomes of each example, in the old order.

    Raises:
        DataError: the examples are not the same; names the first that only one side has.
    """
    by_id = {outcome.id: outcome for outcome in new}
    if len(by_id) != len(new) or len({outcome.id for outcome in old}) != len(old):
        raise DataError("the outcomes cannot be paired: an id occurs twice")
    alone = [o.id for o in old if o.id not in by_id] + sorted(by_id.keys() - {o.id for o in old})
    if alone or not old:
        raise DataError(
            f"the outcomes cannot be paired: {len(alone)} of the examples were measured on one side only (first: {alone[:1]})"
        )
    return [(outcome, by_id[outcome.id]) for outcome in old]


def flips(old: Sequence[Outcome], new: Sequence[Outcome], *, rate: Rate = "negative") -> Estimate:
    """One flip rate with its Wilson interval.

    Raises:
        DataError: the examples differ, or ``negative-mc`` is asked of scores that are not 0 or 1.
    """
    rates = flip_rates(old, new)
    value = {"negative": rates.negative, "positive": rates.positive, "negative-mc": rates.negative_mc}[rate]
    if value is None:
        raise DataError("flips: rate 'negative-mc' needs scores of 0 or 1; use 'negative'")
    return value


def flip_rates(old: Sequence[Outcome], new: Sequence[Outcome]) -> FlipRates:
    """All flip figures of the two models.

    Raises:
        DataError: the examples differ.
    """
    pairs = paired(old, new)
    gaps = [b.score - a.score for a, b in pairs]
    up, down = [g for g in gaps if g > 0], [-g for g in gaps if g < 0]
    exact = is_binary([o.score for pair in pairs for o in pair])
    documents = documents_of([a for a, _ in pairs])
    changed = [float(b.score == 0.0 and (a.score > 0.0 or given(a) != given(b))) for a, b in pairs]
    return FlipRates(
        negative=mean([float(g < 0) for g in gaps], groups=documents),
        positive=mean([float(g > 0) for g in gaps], groups=documents),
        negative_mc=mean(changed, groups=documents) if exact else None,
        gain=sum(up) / len(up) if up else 0.0,
        regression=sum(down) / len(down) if down else 0.0,
    )


def given(outcome: Outcome) -> str:
    """What the model answered: the extracted answer, or the whole completion where nothing could be extracted."""
    return outcome.answer or outcome.completion.strip()


def flip_title(task: str) -> str:
    """The name of a task's negative flips."""
    return f"negative flips in {task}"


def flip_result(reference: TaskResult, result: TaskResult) -> TaskResult | None:
    """Negative flips as a result of their own, which can be judged like any other: an example's score is 1 if the model scores
    lower than the reference there, else 0. ``None`` where less is better, for which flips are not defined.

    Its conditions hold a hash of the reference's scores: flips against another reference cannot be compared with these.

    Raises:
        DataError: the examples differ.
    """
    if not is_better_high(result.metric):
        return None
    old = {outcome.id: outcome.score for outcome in reference.outcomes}
    outcomes = tuple(replace(b, score=float(b.score < a.score)) for a, b in paired(reference.outcomes, result.outcomes))
    grouped = dict.fromkeys(label for _, label, _ in map(split_key, result.estimates) if label)
    return replace(
        result,
        task=flip_title(result.task),
        metric=NEGATIVE_FLIPS,
        outcomes=outcomes,
        conditions={**result.conditions, "reference": digest(old)},
        estimates=by_groups(outcomes, {NEGATIVE_FLIPS: _share}, list(grouped)),
        receipt={"solved by the reference": sum(score > 0 for score in old.values()), "reference": reference.model},
    )


def _share(outcomes: Sequence[Outcome]) -> Estimate:
    return mean(values_of(outcomes), groups=documents_of(outcomes))
