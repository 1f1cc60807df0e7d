"""The section ``race`` as it is written, and its two rulesets: who tunes an algorithm, and in whose time.

*External tuning*: every algorithm is tuned over one search space by ``trials`` points in each study, and the trial that reaches the
target first is what counts; what the others took does not. *Self-tuning*: an algorithm has one fixed setting for all workloads, or
tunes itself and is timed while it does; each study is one run, which has 1.5 times the workload's time. An algorithm's own ``tune``
is tried point by point in equal parts of that time: what the attempts before took is part of its time. An optimizer that adapts
itself within its steps is timed as it is.

Paper: algoperf — Benchmarking Neural Network Training Algorithms
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from whet import parts
from whet.budget import Budget
from whet.errors import RecipeError, unknown
from whet.recipe_steps import TrainStep
from whet.run.compare.tuning import Range, points

SECTION = "race"
MORE_TIME = 1.5
"""Times the workload's time that a run has under the self-tuning ruleset, whose tuning takes its own time (AlgoPerf's rules)."""
FIELDS = ("optimizer", "schedule", "batch_size", "lr", "lr_schedule", "lr_final", "warmup", "clip")
"""Fields of a train step that make an algorithm, and may be tuned."""


@dataclass(frozen=True)
class References:
    """How targets are set: ``trials`` points of ``tune`` (default: the race's) for each reference optimizer, and ``reruns`` of
    the best of all.
    """

    trials: Annotated[int, Gt(0)] = 20
    reruns: Annotated[int, Gt(0)] = 5
    tune: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AskedWorkload:
    """One workload as it is written. ``optional``: left out, and said so, where a data file of it is not there."""

    recipe: Any
    target: str
    variants: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False


@dataclass(frozen=True)
class Asked:
    """The fields of the section ``race``.

    algorithms: name -> fields of the train step.  workloads: name -> fields of :class:`AskedWorkload`.
    ruleset: ``external-tuning``: the fields of ``tune`` are tuned for every algorithm, and its best trial is timed;
    ``self-tuning``: nothing is tuned for anybody, and each run has :data:`MORE_TIME` times the time.
    tune: fields to tune, each with its range.  trials, studies: points in a study, and how many studies there are.
    seed: of the first study.
    clock: what time is counted in. ``processor`` is seconds of processor time in the training steps, of all cores; of
    ``seconds`` only runs on an otherwise idle machine say something.
    reference: the algorithm that speed-ups are told against; default the first.
    strict_variants: an algorithm that misses the target of a variant loses the workload.
    references: fields of :class:`References`.
    """

    algorithms: Mapping[str, Any]
    workloads: Mapping[str, Any]
    ruleset: Literal["external-tuning", "self-tuning"] = "external-tuning"
    tune: Mapping[str, str] = field(default_factory=dict)
    trials: Annotated[int, Gt(0)] = 5
    studies: Annotated[int, Gt(0)] = 3
    seed: Annotated[int, Ge(0)] = 0
    clock: Literal["steps", "processor", "tokens", "examples", "flops", "seconds"] = "steps"
    reference: str | None = None
    strict_variants: bool = True
    references: Mapping[str, Any] = field(default_factory=dict)

    @property
    def self_tuning(self) -> bool:
        return self.ruleset == "self-tuning"

    @property
    def other_clocks(self) -> tuple[str, ...]:
        """What times are also told in: steps and processor time are, whichever decides."""
        return tuple(clock for clock in ("steps", "processor") if clock != self.clock)


def read_fields(kind: type, given: Any, where: str, what: str) -> Any:
    """An object of the kind from the fields given; a wrong one is named by its place in the file."""
    if not isinstance(given, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {given!r}")
    return parts.construct(kind, parts.validate(parts.settings_of(kind), given, where, what), where)


def entries_of(asked: Asked, name: str, changes: Any) -> dict[str, dict[str, Any]]:
    """What an algorithm tries in turn: under the self-tuning ruleset the points of its own ``tune``, else one setting."""
    where = f"{SECTION}.algorithms.{name}"
    if not isinstance(changes, Mapping):
        raise RecipeError(f"{where}: expected a mapping of fields to values, got {changes!r}")
    fixed = {str(path): value for path, value in changes.items() if not (asked.self_tuning and path == "tune")}
    for path in fixed:
        _check_field(path, where)
    own = ranges_of(changes.get("tune", {}), f"{where}.tune") if asked.self_tuning else []
    for path in (r.path for r in own or ranges_of(asked.tune, f"{SECTION}.tune")):
        if path in fixed:
            raise RecipeError(
                f"{where}.{path}: it is tuned too, so {fixed[path]!r} would never be used; set it or tune it, not both"
            )
    if not own:
        return {name: fixed}
    tried = points(own, asked.trials)
    return {f"{name}, attempt {number}": {**fixed, **point} for number, point in enumerate(tried, start=1)}


def ranges_of(spans: Any, where: str) -> list[Range]:
    """The ranges of a ``tune``, in the order in which they are written."""
    if not isinstance(spans, Mapping):
        raise RecipeError(f"{where}: expected a mapping of fields to ranges, such as lr: 1e-4..1, got {spans!r}")
    for path in spans:
        _check_field(str(path), where)
    return [Range.parse(str(path), span) for path, span in spans.items()]


def check_rules(asked: Asked, references: References) -> None:
    """What a ruleset needs or forbids."""
    if len(asked.algorithms) < 2:
        raise RecipeError(f"{SECTION}.algorithms: {len(asked.algorithms)} algorithm; a race needs at least two")
    if asked.self_tuning and asked.tune:
        raise RecipeError(
            f"{SECTION}.tune: under the self-tuning ruleset nothing is tuned for an algorithm; give each its settings, or a 'tune' of "
            "its own, which takes its time; the search space of the reference optimizers is references.tune"
        )
    if not (asked.tune or asked.self_tuning):
        raise RecipeError(f"{SECTION}.tune: give a range to tune, such as lr: 1e-4..1; the same for every algorithm and workload")
    ranges_of(references.tune, f"{SECTION}.references.tune")


def _check_field(path: str, where: str) -> None:
    first = path.partition(".")[0]
    if first not in FIELDS:
        hint = "it is written without the step, since it is the same for every workload" if first == "train" else ""
        hint = hint or ("an algorithm has its own under the ruleset self-tuning alone" if first == "tune" else "")
        hint = hint or "an algorithm does not change model, rows, objective, length or evaluation"
        raise RecipeError(f"{where}.{path}: {unknown('field of an algorithm', first, FIELDS)}; {hint}")


def lengthened(step: Mapping[str, Any], times: float, where: str) -> dict[str, Any]:
    """The fields that give a train step so many times its time, rounded down, and measure it as often in that time.

    Raises:
        RecipeError: it would have less than a step.
    """
    unit = next(unit for unit in ("steps", "tokens", "epochs", "budget") if step.get(unit) is not None)
    validations = max(1, math.floor(times * step.get("validations", TrainStep.validations)))
    if unit == "budget":
        budget = Budget.parse(step[unit])
        return {unit: f"{times * budget.amount:.17g} {budget.unit}", "validations": validations}
    length = times * step[unit]
    if unit != "epochs" and length < 1:
        raise RecipeError(f"{where}: {times:.3g} times {step[unit]} {unit} are less than one; give fewer trials, or more {unit}")
    return {unit: length if unit == "epochs" else math.floor(length), "validations": validations}
