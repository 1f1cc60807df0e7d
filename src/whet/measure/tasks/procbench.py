"""Step-by-step procedures with checkable states: where along the way the model goes wrong.

The model writes every intermediate state and the final one; they are compared with the row's ``states``. Main metric is the
prefix accuracy PA; sequential match SM, final match FM and prefix match length PML come beside it (equations in the metric
``steps``), all by problem length (short 2-6, medium 7-16, long 17-25 steps) and by skill. The receipt has the survival of each
step (how many reached it, how many got it right), the error rate per step if errors were independent, and the p-value of drift
against that.

States are read from the reply by rule, not by another model: one state per line (after `` = `` where lines have the form
``work = state``), the marked answer last. An output without states scores 0 and is counted.

Length in steps is confounded with length in characters; the conditions hash both, the labels give steps.

Defaults: greedy decoding, 320 new tokens, the whole test split.

Paper: procbench — ProcBench: Benchmark for Multi-Step Reasoning and Following Procedure
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, get_args

from annotated_types import Gt

from whet import parts
from whet.errors import DataError
from whet.generate.verify import EXTRACTOR, states_of
from whet.measure.estimates import by_groups
from whet.measure.generative import Generation, Written, confidence
from whet.measure.metrics.steps import Metric, StepScores, step_drift, step_error, step_scores, steps, survival
from whet.measure.outcome import Outcome, TaskResult
from whet.measure.rows import labels_of
from whet.model import Model
from whet.parts import Kind

LENGTHS = {"short": 6, "medium": 16, "long": 25}
"""Longest problem of each class, in steps."""


SCORES: tuple[Metric, ...] = get_args(Metric)
"""The metrics, the main one first."""


@dataclass(frozen=True, kw_only=True)
class ProcBench(Generation):
    """``data`` gives rows with ``prompt`` and ``states``; ``by``: labels to group by (``length``, ``skill``, ``steps``)."""

    data: Annotated[Any, Kind("source")] = "procbench"
    by: tuple[str, ...] = ("length", "skill")
    max_new_tokens: Annotated[int, Gt(0)] = 320
    title: str = "procbench"

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it estimates over all examples."""
        return SCORES

    def __call__(self, model: Model) -> TaskResult:
        written = self.write(model, parts.build("source", self.data, "data"))
        scored = [
            [step_scores(_true(row), states_of(c.text)) for c in group]
            for row, group in zip(written.drawn.rows, written.completions)
        ]
        outcomes = tuple(_outcome(written, i, scores) for i, scores in enumerate(scored))
        metrics: dict[str, Any] = {name: partial(steps, score=name) for name in SCORES}
        reference = [
            step_scores(_true(row), states_of(str(row["completion"]))) for row in written.drawn.rows if row.get("completion")
        ]
        return TaskResult(
            task=self.title,
            model=model.name,
            metric="prefix_accuracy",
            outcomes=outcomes,
            conditions=written.conditions({"rule": EXTRACTOR, "score": "states_of"}),
            estimates=by_groups(outcomes, metrics, self.by),
            receipt={
                **written.receipt(),
                "unparsable": sum(not states_of(c.text) for group in written.completions for c in group),
                "policy for unparsable": "scored 0 and kept in the average",
                "baselines": {"reference": _mean([s.prefix_accuracy for s in reference])} if reference else {},
                **_survival(outcomes),
            },
        )


def length_class(count: int) -> str:
    """``short``, ``medium`` or ``long`` by the number of steps; beyond the longest class it is still ``long``.

    >>> length_class(6), length_class(7), length_class(40)
    ('short', 'medium', 'long')
    """
    return next((name for name, longest in LENGTHS.items() if count <= longest), "long")


def _true(row: Any) -> Sequence[str]:
    states = row.get("states")
    if not states:
        raise DataError(
            "procbench: a row has no 'states'; use a source that gives every intermediate state (procbench, nanoworld)"
        )
    return list(states)


def _outcome(written: Written, index: int, scored: Sequence[StepScores]) -> Outcome:
    row, group = written.drawn.rows[index], written.completions[index]
    true = _true(row)
    means = {
        "prefix_accuracy": _mean([s.prefix_accuracy for s in scored]),
        "sequential_match": _mean([s.sequential_match for s in scored]),
        "final_match": _mean([s.final_match for s in scored]),
        "prefix_length": _mean([float(s.prefix_length) for s in scored]),
    }
    return Outcome(
        id=written.drawn.ids[index],
        score=means["prefix_accuracy"],
        prompt=written.shown(index),
        reference="\n".join(map(str, true)),
        completion=group[0].text if group else "",
        scores={
            **means,
            "states": float(len(true)),
            "confidence": confidence(group[0]) if group else 0.0,
            "first": scored[0].sequential_match if scored else 0.0,
        },
        samples=tuple(s.sequential_match for s in scored) if len(scored) > 1 else (),
        labels={**labels_of(row), "steps": str(len(true)), "length": length_class(len(true))},
        answer=" | ".join(states_of(group[0].text)) if group else "",
    )


def _survival(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    lengths = [int(outcome.scores["states"]) for outcome in outcomes]
    reached = [int(outcome.scores["prefix_length"]) for outcome in outcomes]
    zero = sum(length == 0 for length in reached)
    return {
        "survival": [
            {"step": k + 1, "reached": n, "right": right} for k, (n, right) in enumerate(survival(reached, lengths)) if n
        ],
        "step error": step_error(reached, lengths),
        "step drift p": step_drift(reached, lengths),
        "first state wrong": zero,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
