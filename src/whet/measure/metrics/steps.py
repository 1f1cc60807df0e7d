"""Step metrics: how far a model follows a procedure whose every intermediate state is known.

With s the true states (intermediate ones and the final one) and t the predicted ones,

    PML = number of leading states that are equal          (prefix match length)
    PA  = PML / max(|s|, |t|)                               (prefix accuracy)
    SM  = 1 if PA = 1 else 0                                (sequential match)
    FM  = 1 if the final states are equal else 0            (final match)

SM <= FM, 0 <= PA <= 1, PML <= |s|, and states after the end lower PA. The survival h(k) = P(PML > k | PML >= k) tells whether
errors come evenly: if each step errs independently at rate e, h is constant and SM of an n-step problem is (1 - e)^n.

Paper: procbench — ProcBench: Benchmark for Multi-Step Reasoning and Following Procedure
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whet.errors import DataError
from whet.generate.verify import same_answer
from whet.measure.estimates import documents_of, mean, values_of
from whet.measure.outcome import Estimate, Outcome
from whet.measure.statistics import mean_interval

Metric = Literal["prefix_accuracy", "sequential_match", "final_match", "prefix_length"]


@dataclass(frozen=True)
class StepScores:
    """The four scores of one example; see the module's equations."""

    prefix_length: int
    prefix_accuracy: float
    sequential_match: float
    final_match: float


def step_scores(states: Sequence[Any], predicted: Sequence[Any]) -> StepScores:
    """Scores predicted states against the true ones; both end with the final state.

    Args:
        states: at least one; numbers, strings, lists, or their text. They compare as answers do: numbers by value, lists
            element by element.
        predicted: may be empty (nothing could be parsed), which scores 0.

    >>> step_scores(["1", "3", "6"], [1, 3, 7])
    StepScores(prefix_length=2, prefix_accuracy=0.6666666666666666, sequential_match=0.0, final_match=0.0)
    """
    if not states:
        raise DataError("step metrics need at least one true state")
    equal = [same_answer(_text(given), _text(true)) for given, true in zip(predicted, states)]
    length = equal.index(False) if False in equal else len(equal)
    longest = max(len(states), len(predicted))
    final = bool(predicted) and same_answer(_text(predicted[-1]), _text(states[-1]))
    return StepScores(length, length / longest, float(length == longest), float(final))


def _text(state: Any) -> str:
    return ", ".join(map(_text, state)) if isinstance(state, (list, tuple)) else str(state)


def steps(outcomes: Sequence[Outcome], *, score: Metric = "prefix_accuracy") -> Estimate:
    """The mean of one step metric over examples: Wilson for the two matches, BCa for the other two.

    Raises:
        DataError: the outcomes do not come from a task that scores steps.
    """
    values, documents = values_of(outcomes, score), documents_of(outcomes)
    return mean_interval(values, groups=documents) if score == "prefix_length" else mean(values, groups=documents)


def survival(prefix_lengths: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """For each step k = 0, 1, ...: (examples that reached it, examples that also got it right); h(k) is their quotient.

    Args:
        prefix_lengths: PML of each example.
        lengths: |s| of each example; an example leaves the count after its last state.
    """
    table = []
    for k in range(max(lengths, default=0)):
        reached = [p for p, n in zip(prefix_lengths, lengths) if p >= k and n > k]
        table.append((len(reached), sum(p > k for p in reached)))
    return table


def step_error(prefix_lengths: Sequence[int], lengths: Sequence[int]) -> float:
    """Maximum-likelihood rate e of an error per step if steps err independently; ``nan`` if no step was tried."""
    table = survival(prefix_lengths, lengths)
    tried = sum(n for n, _ in table)
    return 1.0 - sum(right for _, right in table) / tried if tried else float("nan")


def step_drift(prefix_lengths: Sequence[int], lengths: Sequence[int]) -> float:
    """p-value of the hypothesis that every step errs at the same rate (chi-square over steps); 1 if it cannot be tested.

    Small values mean drift: errors come early or late, so that SM does not fall like (1 - e)^n.
    """
    from scipy.stats import chi2_contingency

    table = [(right, n - right) for n, right in survival(prefix_lengths, lengths) if n]
    if len(table) < 2 or not all(any(column) for column in zip(*table)):
        return 1.0
    return float(chi2_contingency(table).pvalue)
