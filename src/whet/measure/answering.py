"""From what a model wrote to the result of a task that rewards final answers; shared by the tasks that differ in their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from whet import parts
from whet.errors import RecipeError
from whet.generate.scoring import Reward
from whet.generate.verify import EXTRACTOR, final_answer
from whet.measure.estimates import by_groups
from whet.measure.generative import Written, baselines, confidence
from whet.measure.metrics.accuracy import accuracy
from whet.measure.metrics.brier import brier
from whet.measure.metrics.calibration_error import calibration_error
from whet.measure.metrics.pass_at_k import pass_at_k
from whet.measure.metrics.style_vs_skill import KINDS, error_of, error_shares, score_of, style_vs_skill
from whet.measure.outcome import Estimate, Outcome, TaskResult
from whet.measure.rows import labels_of


def refuse_many_tries(pass_at: Sequence[int], samples: int) -> None:
    """Raises a ``RecipeError`` if pass@k is asked for more tries than there are samples."""
    if pass_at and min(pass_at) < 1:
        raise RecipeError(f"pass_at: pass@{min(pass_at)} is no number of tries; give 1 or more")
    if pass_at and max(pass_at) > samples:
        raise RecipeError(
            f"pass_at: pass@{max(pass_at)} needs at least {max(pass_at)} samples per prompt; set samples: {max(pass_at)}"
        )


def answer_metrics(pass_at: Sequence[int], errors: bool = False) -> tuple[str, ...]:
    """The names of what :func:`answer_result` estimates over all examples."""
    kinds = [score_of(kind) for kind in KINDS if errors]
    return ("accuracy", *(f"pass@{k}" for k in pass_at), *kinds, "brier", "calibration_error")


def _marked_answer(row: Mapping[str, Any], completion: str) -> str | None:
    return final_answer(completion)


def answer_result(
    task: str,
    written: Written,
    reward: Reward,
    pass_at: Sequence[int],
    extract: Callable[[Mapping[str, Any], str], str | None] = _marked_answer,
    rule: str = EXTRACTOR,
    *,
    errors: bool = False,
) -> TaskResult:
    """Scores completions and estimates accuracy (also by group), pass@k, Brier score and calibration error.

    ``extract`` gives what is shown as a completion's answer (``None``: nothing found), by the rule named ``rule``.
    ``errors`` also tells errors of form from errors of reasoning, see the metric ``style-vs-skill``.
    """
    scores, scoring = written.scored(reward)
    outcomes = tuple(_outcome(written, i, samples, extract, errors) for i, samples in enumerate(scores))
    answered = zip(written.drawn.rows, written.completions, scores)
    every = [(row, c, s) for row, group, samples in answered for c, s in zip(group, samples)]
    unparsable = sum(s == 0 and extract(row, c.text) is None for row, c, s in every)
    return TaskResult(
        task=task,
        model=written.model.name,
        metric="accuracy",
        outcomes=outcomes,
        conditions=written.conditions({"rule": rule, "reward": parts.effective(reward)}),
        estimates=_estimates(outcomes, written.settings.by, pass_at),
        receipt={
            **written.receipt(),
            "unparsable": unparsable,
            "policy for unparsable": "scored 0 and kept in the average",
            "scoring": dict(scoring),
            "baselines": baselines(written.drawn.rows, reward),
            **({"first wrong step": _first_wrong(every)} if errors else {}),
        },
    )


def _first_wrong(every: Sequence[tuple[Mapping[str, Any], Any, float]]) -> dict[str, int]:
    """How many completions went wrong first at each step, of those whose error is a step."""
    found = [error_of(completion.text, row["states"], score >= 1) for row, completion, score in every]
    return {str(step): n for step, n in sorted(Counter(e[1] for e in found if e and e[0] == "step").items())}


def _estimates(outcomes: Sequence[Outcome], by: Sequence[str], pass_at: Sequence[int]) -> dict[str, Estimate]:
    metrics: Mapping[str, Callable[[Sequence[Outcome]], Estimate]] = {
        "accuracy": accuracy,
        **{f"pass@{k}": partial(pass_at_k, k=k) for k in pass_at},
    }
    if outcomes and score_of("format") in outcomes[0].scores:
        metrics = {**metrics, **{score_of(kind): partial(style_vs_skill, kind=kind) for kind in KINDS}}
    return {**by_groups(outcomes, metrics, by), "brier": brier(outcomes), "calibration_error": calibration_error(outcomes)}


def _outcome(
    written: Written,
    index: int,
    samples: Sequence[float],
    extract: Callable[[Mapping[str, Any], str], str | None],
    errors: bool,
) -> Outcome:
    row, group = written.drawn.rows[index], written.completions[index]
    first = group[0] if group else None
    scores: dict[str, float] = {"confidence": 0.0, "first": samples[0]}
    if first is not None:
        scores |= {"confidence": confidence(first), "ended": float(first.finish != "length"), "tokens": float(len(first.ids))}
    if errors:
        scores |= error_shares([c.text for c in group] or [""], row.get("states"), [s >= 1 for s in samples])
    return Outcome(
        id=written.drawn.ids[index],
        score=sum(samples) / len(samples),
        prompt=written.shown(index),
        reference=_reference(row),
        completion=first.text if first else "",
        scores=scores,
        samples=samples if len(samples) > 1 else (),
        labels=labels_of(row),
        answer=(extract(row, first.text) or "") if first else "",
    )


def _reference(row: Mapping[str, Any]) -> str:
    return str(row.get("answer") if row.get("answer") is not None else row.get("completion", ""))
