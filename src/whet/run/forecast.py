"""Says before a run what it will take and what its measurement could show, from a short trial on this machine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whet.budget import Budget
from whet.recipe import Recipe, objectives, rollout_settings
from whet.recipe_steps import BASE, MODEL_SECTIONS, TrainStep
from whet.run.seen import source_of

if TYPE_CHECKING:
    from whet.data.example import Example
    from whet.model import Model

FLIPPING = 0.2
"""Share of examples assumed to change between two stages, for the smallest detectable difference."""
FORWARD = 1 / 3
"""What reading a token costs of training on it: 2 operations per weight of 6."""


@dataclass(frozen=True)
class Generation:
    """How the starting model wrote in a trial: tokens per second, and tokens per completion (both 0 if it could not be tried)."""

    speed: float
    length: float

    def of(self, completions: float, longest: int) -> tuple[float, float]:
        """(seconds, tokens) for that many completions of at most ``longest`` tokens."""
        tokens = completions * min(self.length, longest)
        return (tokens / self.speed if self.speed else 0.0), tokens


@dataclass(frozen=True)
class StepForecast:
    """A step's expected seconds, tokens and how they were found."""

    name: str
    seconds: float
    tokens: float
    basis: str


@dataclass(frozen=True)
class Forecast:
    """Steps with their expected time, peak memory (MiB) and, by task, the smallest detectable difference of accuracy."""

    steps: Sequence[StepForecast]
    memory_mib: float
    detectable: Mapping[str, tuple[int, float]]

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def lines(self) -> list[str]:
        """The forecast as text."""
        out = [f"forecast: about {_duration(self.seconds)}, {self.memory_mib:,.0f} MiB at the peak"]
        out += [f"  {s.name}: {_duration(s.seconds)}, {s.tokens:,.0f} tokens ({s.basis})" for s in self.steps]
        for task, (n, difference) in self.detectable.items():
            out.append(
                f"  {task}: with {n} examples of which {FLIPPING:.0%} flip, a difference of {difference:.3f} is found with 80% power; smaller ones may not be"
            )
        return out


def forecast_recipe(
    recipe: Recipe, model: Model, prepared: Mapping[str, Any], generation: Generation, rows_of: Callable[[str], Any]
) -> Forecast:
    """Times a few optimizer steps per training step and scales up.

    Args:
        recipe: what will run.
        model: its starting model; later stages are taken to be as large.
        prepared: units of examples by training step.
        generation: how the model wrote in a trial.
        rows_of: rows of a data step by name, ``None`` if unknown.
    """
    from whet.run.machine import peak_memory_mib

    steps = []
    for step in recipe.section("train"):
        rows = rows_of(step.data)
        if step.name in prepared:
            steps.append(_training(step, model, prepared[step.name], rows))
        elif step.rollouts or "rollouts" in frozenset().union(*(o.needs for _, o in objectives(step.objective))):
            steps.append(_rollouts(step, generation))
    steps += _measuring(recipe, generation)
    return Forecast(steps, peak_memory_mib(), _detectable(recipe))


def _training(step: TrainStep, model: Model, units: Sequence[Sequence[Example]], rows: Any) -> StepForecast:
    from whet.train.loop import fit
    from whet.train.provider import FixedExamples, fixed_order
    from whet.train.settings import TrainSettings

    given = {k: v for k, v in step.settings.items() if k in ("precision", "micro_tokens", "gradient_checkpointing", "max_length")}
    batch = min(int(step.settings.get("batch_size", 64)), len(units))
    trial = TrainSettings(steps=3, batch_size=batch, lr=0.0, **given)
    log = fit(
        model,
        FixedExamples(units, fixed_order(step.schedule), batch_size=batch),
        objectives(step.objective),
        trial,
        adapter=step.adapter,
        progress=False,
    ).curve
    speed = sum(e["tokens"] for e in log[1:]) / max(sum(e["seconds"] for e in log[1:]), 1e-9)
    per_unit = sum(len(e) for unit in units for e in unit) / len(units)
    planned = _planned_tokens(step, per_unit, len(rows), speed, model.parameters)
    trained, read = _with_mixture(step, planned, per_unit, rows)
    basis = f"{speed:,.0f} tokens/s in a trial of 3 steps" + (f"; {read:,.0f} read to decide the mixture" if read else "")
    return StepForecast(step.name, (trained + read * FORWARD) / speed, trained + read, basis)


def _planned_tokens(step: TrainStep, per_unit: float, rows: int, speed: float, weights: int) -> float:
    settings = step.settings
    if settings.get("budget"):
        budget = Budget.parse(settings["budget"])
        # 2 operations per weight and token forward, 4 backward.
        per_token = {"tokens": 1.0, "examples": 1 / per_unit, "seconds": 1 / speed, "flops": 6.0 * weights}
        return budget.amount / per_token[budget.unit]
    if settings.get("tokens"):
        return float(settings["tokens"])
    if settings.get("steps"):
        return float(settings["steps"]) * int(settings.get("batch_size", 64)) * per_unit
    return float(settings.get("epochs", 1)) * rows * per_unit


def _with_mixture(step: TrainStep, planned: float, per_unit: float, rows: Any) -> tuple[float, float]:
    """Tokens that are trained on, and tokens that are only read: by a schedule that measures losses to decide the mixture.

    A budget holds both, apart from one of examples; short runs that learn a graph of skills are trained on, too.
    """
    schedule: Any = step.schedule
    if getattr(schedule, "measuring", None) is None:
        return planned, 0.0
    measured = rows if schedule.validation is None else schedule.validation("validation")
    held_out = sum(min(schedule.held_out, count) for count in Counter(measured[schedule.by]).values())
    if measured is rows and not any(map(step.settings.get, ("budget", "tokens", "steps"))):
        planned *= max(0.0, 1 - held_out / len(rows))  # An epoch lacks the rows that are set aside.
    each = per_unit * held_out
    batch, skills = int(step.settings.get("batch_size", 64)) * per_unit, len(set(rows[schedule.by]))
    runs = {"alone": skills, "pairs": skills * (skills + 1) // 2}.get(schedule.learn, 0)
    short, before = runs * schedule.learn_steps * batch, (runs + (schedule.learn == "alone")) * each
    unit = Budget.parse(step.settings["budget"]).unit if step.settings.get("budget") else ""
    if unit == "examples":
        planned = max(0.0, planned - short)
    elif unit:
        weight = 1.0 if unit == "tokens" else FORWARD
        planned = max(0.0, planned - short - weight * before) / (1 + weight * each / schedule.measuring / batch)
    return planned + short, before + each * math.ceil(planned / batch / schedule.measuring)


def _rollouts(step: TrainStep, generation: Generation) -> StepForecast:
    plan = rollout_settings(step.rollouts)
    rollouts = int(step.settings.get("steps", 1)) / plan.steps_per_rollout
    seconds, tokens = generation.of(rollouts * plan.prompts * plan.group_size, plan.max_new_tokens)
    # A training step costs about as much as sampling its rows: three passes over them, but all positions at once.
    return StepForecast(
        step.name, 2 * seconds, tokens, "completions as long as the starting model's; sampling, and as much for training"
    )


def _measuring(recipe: Recipe, generation: Generation) -> list[StepForecast]:
    stages = [BASE, *(s.name for section, s in recipe.steps if section in MODEL_SECTIONS)]
    found = []
    for step in recipe.section("measure"):
        count = len(step.models or stages)
        measured = [inner for task in step.tasks for inner in getattr(task, "tasks", (task,))]
        parts_of = [generation.of((_examples(t) or 0) * count, getattr(t, "max_new_tokens", 0)) for t in measured]
        seconds, tokens = (sum(values) for values in zip(*parts_of))
        writes = any(getattr(task, "max_new_tokens", 0) for task in measured)
        said = "" if tokens else ", not forecast: no prompts to try the model on" if writes else ", nothing written"
        found.append(StepForecast(step.name, seconds, tokens, f"{count} stages{said}"))
    return found


def _examples(task: Any) -> int | None:
    limit = getattr(task, "limit", None)
    rows = getattr(getattr(task, "data", None), "rows", None)
    if rows is None and (source := source_of(task)) is not None:
        rows = len(source(task.split))
    return min(v for v in (limit, rows) if v) if limit or rows else None


def _detectable(recipe: Recipe) -> dict[str, tuple[int, float]]:
    from whet.measure.statistics import detectable_difference

    found = {}
    for step in recipe.section("measure"):
        for task in step.tasks:
            n = _examples(task)
            if n and hasattr(task, "max_new_tokens"):
                found[f"{step.name}: {task.title}"] = (n, detectable_difference(n, FLIPPING))
    return found


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
