"""``whet check`` of a comparison: every variant checked as the recipe that it is, and what all runs together will take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from whet.measure.statistics import detectable_difference
from whet.run.check import CheckResult, check_recipe
from whet.run.compare import jobs
from whet.run.compare.plan import Plan, make_plan
from whet.run.compare.verdicts import pairs
from whet.run.forecast import FLIPPING, Forecast, StepForecast


def check_comparison(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> CheckResult:
    """Checks every variant of a comparison and forecasts the whole: all seeds and trials, shared steps once per seed.

    Raises:
        RecipeError: the comparison, or a variant, cannot be carried out.
        DataError: rows that cannot be read or formatted.
    """
    plan = make_plan(recipe, overrides)
    found = {
        v.name: check_recipe(jobs.document_for(v.document, plan.stages[v.name], plan.seeds[0], plan.name)) for v in plan.variants
    }
    first = next(iter(found.values()))
    tests = len(pairs(list(found))) * max(1, len(first.forecast.detectable))
    level = plan.asked.alpha / tests
    return CheckResult(
        checks=[replace(check, name=f"{name}, {check.name}") for name, result in found.items() for check in result.checks],
        rendered={f"{name}, {step}": rows for name, result in found.items() for step, rows in result.rendered.items()},
        samples=first.samples,
        ended=first.ended,
        forecast=Forecast(
            steps=list(_steps(plan, {name: result.forecast for name, result in found.items()})),
            memory_mib=max(result.forecast.memory_mib for result in found.values()),
            detectable={
                task: (n, detectable_difference(n, FLIPPING, alpha=level)) for task, (n, _) in first.forecast.detectable.items()
            },
        ),
        notes=[
            *dict.fromkeys(note for result in found.values() for note in result.notes),
            f"a comparison of {len(found)} variants at {len(plan.seeds)} seeds: the smallest difference is that of one seed, at the level "
            f"of one of {tests} tests",
        ],
    )


def _steps(plan: Plan, forecasts: Mapping[str, Forecast]) -> Iterator[StepForecast]:
    """Each variant's steps, times its runs; those that all share once, for the first."""
    trials = plan.asked.trials if plan.ranges else 0
    for number, (name, forecast) in enumerate(forecasts.items()):
        for step in forecast.steps:
            shared = step.name in plan.shared
            if not shared or not number:
                runs = len(plan.seeds) + (0 if shared else trials)
                label = f"{'all variants' if shared else name}, {step.name}"
                yield replace(
                    step, name=label, seconds=step.seconds * runs, tokens=step.tokens * runs, basis=f"{step.basis}; {runs} runs"
                )
