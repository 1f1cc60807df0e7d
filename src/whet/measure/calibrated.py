"""Calibrates the confidences of one measured result with a calibrator fitted on another, and says what that changed.

Answers chosen among choices have a log-likelihood for each choice: these are the logits. Answers that were written have one number,
the log of their confidence. Views are results of the same model on the same rows under other prompts or with dropout; where a view
writes another answer, its probability of the original one is not known and counted as 0.

Whether calibration helped is decided on the Brier score, by a paired test over items; the calibration error only describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, log
from typing import Any

import torch

from whet import parts
from whet.errors import DataError, RecipeError
from whet.measure.calibration import Fitted, Predictions, confidence
from whet.measure.conditions import digest, refuse_different
from whet.measure.estimates import documents_of, key, split_key, values_of
from whet.measure.metrics.auroc import auroc
from whet.measure.metrics.brier import brier
from whet.measure.metrics.calibration_error import calibration_error
from whet.measure.metrics.flips import given, paired
from whet.measure.outcome import Estimate, Outcome, TaskResult
from whet.measure.statistics import TestResult, auroc_difference, paired_permutation

BINS = (15, 25)
BEFORE = "confidence_before"


def predictions_of(result: TaskResult, views: Sequence[TaskResult] = ()) -> Predictions:
    """A result's answers as a calibrator reads them.

    Args:
        result: of a task that keeps a ``confidence``; with ``logp_0``, ``logp_1``, ... where it chose among choices.
        views: results on the same rows.

    Raises:
        DataError: no confidences, a view on other rows or of other choices.
    """
    outcomes = result.outcomes
    seen = [_paired(outcomes, view, f"views.{i}") for i, view in enumerate(views)]
    if not outcomes or "logp_0" not in outcomes[0].scores:
        own = [_written(c) for c in values_of(outcomes, "confidence")]
        wrong = [int(value < 0.5) for value in values_of(outcomes, "first")]
        return Predictions.of(own, wrong, [[_agreeing(a, b) for a, b in zip(outcomes, view)] for view in seen])
    width = max(len(_chosen(outcome)) for outcome in outcomes)
    logits = [[_padded(_chosen(o), width) for o in view] for view in (outcomes, *seen)]
    return Predictions.of(logits[0], [int(gold) for gold in values_of(outcomes, "gold")], logits[1:])


def calibrated(
    fit: TaskResult,
    test: TaskResult,
    calibrator: Any,
    *,
    fit_views: Sequence[TaskResult] = (),
    test_views: Sequence[TaskResult] = (),
    seed: int = 0,
) -> TaskResult:
    """The test result with calibrated confidences. Answers never change.

    Args:
        fit: the calibration set's result; the model must not have been trained on its rows.
        test: of the same model and task under the same conditions, on other rows.
        calibrator: a part of kind ``calibrator``, or its recipe form.
        fit_views, test_views: the same views of both.
        seed: of the tests' resampling.

    Returns:
        A result whose metric and scores are the Brier score of the calibrated ``confidence``, with the confidence as it was
        (``confidence_before``) and its ``brier_before`` beside it; estimates before and after; and a receipt ``calibration`` with
        the fitted ``parameters``, the paired tests, and the lines ``says``.

    Raises:
        DataError: rows that both sets share, or a set that the calibrator refuses.
        RecipeError: results of other models, tasks or conditions.
    """
    _refuse_mismatch((fit, *fit_views), (test, *test_views))
    part = parts.build("calibrator", calibrator, "calibrator")
    fitting, testing = predictions_of(fit, fit_views), predictions_of(test, test_views)
    fitted: Fitted = part(fitting)
    outcomes = _restated(test.outcomes, confidence(testing.logits).tolist(), fitted(testing).tolist())
    accuracy = float(fitting.right.double().mean())
    constant = [(accuracy - value) ** 2 for value in _correct(outcomes)]
    about = {
        "calibrator": parts.effective(part),
        "views": [digest(dict(view.conditions)) for view in test_views],
        "calibration set": {name: fit.conditions.get(name) for name in ("data", "prompts")},
    }
    receipt = {
        "calibrator": parts.effective(part),
        "items": len(fitting.labels),
        "wrong": int((~fitting.right).sum()),
        "views": len(fitting.views),
        "parameters": {name: value.tolist() for name, value in fitted.parameters.items()},
        "temperatures": _quantiles(fitted.temperature(testing)),
        **_judged(outcomes, seed),
    }
    return replace(
        test,
        metric="brier",
        outcomes=outcomes,
        conditions={**test.conditions, "calibration": about},
        estimates=_estimates(test, outcomes),
        receipt={
            **test.receipt,
            "baselines": {"always the calibration set's accuracy": sum(constant) / len(constant)},
            "calibration": receipt,
        },
    )


def _written(probability: float) -> list[float]:
    return [log(probability) if probability > 0 else -inf]


def _agreeing(original: Outcome, view: Outcome) -> list[float]:
    """The view's log-probability of the original's answer, as far as it is known."""
    return _written(view.scores["confidence"]) if given(view) == given(original) else [-inf]


def _chosen(outcome: Outcome) -> list[float]:
    """The log-likelihoods of the choices, in their order."""
    found: list[float] = []
    while (name := f"logp_{len(found)}") in outcome.scores:
        found.append(outcome.scores[name])
    return found


def _padded(logps: Sequence[float], width: int) -> list[float]:
    return [*logps, *[-inf] * (width - len(logps))]


def _paired(outcomes: Sequence[Outcome], view: TaskResult, where: str) -> list[Outcome]:
    """The view's outcomes in the order of the original ones.

    Raises:
        DataError: other rows, or another number or place of choices.
    """
    found = [b for _, b in paired(outcomes, view.outcomes)]
    for a, b in zip(outcomes, found):
        if (a.reference, a.scores.get("gold"), len(_chosen(a))) != (b.reference, b.scores.get("gold"), len(_chosen(b))):
            raise DataError(
                f"{where}: item {a.id!r} has another right answer or other choices than in the original; a view may ask in other "
                "words, but for the same"
            )
    return found


def _refuse_mismatch(fits: Sequence[TaskResult], tests: Sequence[TaskResult]) -> None:
    """Refuses sets that were not measured alike, the originals and view by view, or that share prompts."""
    if len(fits) != len(tests):
        raise RecipeError(f"the calibration set has {len(fits) - 1} views and the test set {len(tests) - 1}; give both the same")
    for number, (fit, test) in enumerate(zip(fits, tests)):
        if (fit.task, fit.model) != (test.task, test.model):
            raise RecipeError(
                f"a calibrator fitted on {fit.task} of {fit.model} does not hold for {test.task} of {test.model}; measure both "
                "sets with the same task and model"
            )
        what = f"{test.task}, view {number}" if number else test.task
        refuse_different(fit.conditions, test.conditions, ("data", "prompts"), f"{what}: calibration set against test set")
    asked = {outcome.prompt for outcome in fits[0].outcomes}
    shared = [outcome.prompt for outcome in tests[0].outcomes if outcome.prompt in asked]
    if shared:
        raise DataError(
            f"{len(shared)} of the {len(tests[0].outcomes)} test prompts are in the calibration set too, first {shared[0][:80]!r}; "
            "what was fitted on them cannot be judged on them: take disjoint splits"
        )


def _restated(outcomes: Sequence[Outcome], before: Sequence[float], after: Sequence[float]) -> tuple[Outcome, ...]:
    def one(outcome: Outcome, right: float, old: float, new: float) -> Outcome:
        squares = {"brier": (new - right) ** 2, "brier_before": (old - right) ** 2}
        return replace(
            outcome, score=squares["brier"], samples=(), scores={**outcome.scores, "confidence": new, BEFORE: old, **squares}
        )

    return tuple(one(*item) for item in zip(outcomes, _correct(outcomes), before, after))


def _correct(outcomes: Sequence[Outcome]) -> list[float]:
    return [float(value >= 0.5) for value in values_of(outcomes, "first")]


def _estimates(test: TaskResult, outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """Brier score, calibration errors and AUROC after and before, and what the task estimated of the answers themselves."""
    found: dict[str, Estimate] = {}
    ranked = len(set(_correct(outcomes))) == 2
    for name, value in (("confidence", ""), (BEFORE, "before")):
        found[_named("brier", value)] = brier(outcomes, confidence=name)
        for bins in BINS:
            found[_named("calibration_error", value, bins)] = calibration_error(outcomes, bins=bins, confidence=name)
        if ranked:
            found[_named("auroc", value)] = auroc(outcomes, confidence=name)
    stated = ("brier", "calibration_error")
    return {**found, **{name: estimate for name, estimate in test.estimates.items() if split_key(name)[0] not in stated}}


def _named(metric: str, value: str, bins: int = BINS[0]) -> str:
    """``brier``, ``brier[confidence=before]``, ``calibration_error[confidence=before, 25 bins]``."""
    said = [value] * bool(value) + [f"{bins} bins"] * (bins != BINS[0])
    return key(metric, "confidence", ", ".join(said)) if said else metric


def _judged(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """The paired ``tests`` of the confidence after against before, and what they say in words.

    There is no AUROC where fewer than two answers are right, or wrong.
    """
    right, documents = _correct(outcomes), documents_of(outcomes)
    squares = values_of(outcomes, "brier"), values_of(outcomes, "brier_before")
    tests = {"brier": paired_permutation(*squares, groups=documents, seed=seed)}
    if 2 <= sum(right) <= len(right) - 2:
        tests["auroc"] = auroc_difference(values_of(outcomes, "confidence"), values_of(outcomes, BEFORE), right, seed=seed)
    return {"tests": {name: vars(found) for name, found in tests.items()}, "says": _lines(outcomes, tests)}


def _quantiles(temperature: torch.Tensor) -> dict[str, float]:
    levels = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    return dict(zip(("5%", "50%", "95%"), torch.quantile(temperature.flatten(), levels).tolist()))


def _lines(outcomes: Sequence[Outcome], tests: Mapping[str, TestResult]) -> list[str]:
    """What the calibration changed, in words; differences are after minus before."""
    lines = []
    for name, found in tests.items():
        old, new = (_value(name, outcomes, which) for which in (BEFORE, "confidence"))
        low, high = found.low or 0.0, found.high or 0.0
        lines.append(
            f"{name} {old:.4f} -> {new:.4f}, difference {found.effect or 0.0:+.4f} [{low:+.4f}, {high:+.4f}], p = {found.p:.3g} "
            f"({found.name})"
        )
    return lines


def _value(metric: str, outcomes: Sequence[Outcome], which: str) -> float:
    return (brier if metric == "brier" else auroc)(outcomes, confidence=which).value
