"""What a run is fed with: rows made into units in the order or mixture of a schedule, or prompts that it samples from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from whet import parts
from whet.data.example import Example
from whet.data.mixture import skill_of
from whet.data.order import permutation
from whet.data.prepare import prepare
from whet.errors import DataError
from whet.model import Model
from whet.train.mixed import MixedExamples, Units
from whet.train.provider import FixedExamples
from whet.train.reference import reference_reader, with_reference_logps
from whet.train.rollout_settings import RolloutSettings
from whet.train.rollouts import RolloutProvider
from whet.train.settings import TrainSettings
from whet.train.skills_graph import Fit, learn_graph

log = logging.getLogger("whet")

SKILL = "skill"
"""Under this name an example carries the number of its skill from its row to its group."""


@dataclass(frozen=True)
class Feed:
    """``provider`` of the examples.  ``units`` of fixed rows and the receipt of how they were ``prepared``.  ``temperature`` of the
    log-probabilities.  ``already``: what was spent before training, by unit of a budget.  ``graph`` of skills that was learned.
    """

    provider: Any
    units: Units = ()
    prepared: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    already: Mapping[str, float] = field(default_factory=dict)
    graph: Mapping[str, Any] = field(default_factory=dict)


def sampled(
    rows: Any,
    reward: Any,
    learner: Any,
    given: Mapping[str, Any],
    schedule: Any,
    seed: int,
    anchor: Model,
    compute: torch.dtype,
) -> Feed:
    """Prompts that the policy answers while it trains; ``given`` are fields of :class:`RolloutSettings`."""
    sampling = RolloutSettings(**parts.validate(parts.settings_of(RolloutSettings), given, "rollouts", "rollouts"))
    provider = RolloutProvider(rows, parts.build("reward", reward), learner, sampling, schedule=schedule, seed=seed)
    if "reference" in learner.needs:
        provider.bind(reference_logps=reference_reader(anchor, sampling.temperature, compute))
    return Feed(provider, temperature=sampling.temperature)


def fixed(
    model: Model,
    rows: Any,
    format: Any,
    schedule: Any,
    settings: TrainSettings,
    anchor: tuple[Model, torch.dtype] | None,
    fit_on: Fit,
    folder: Path | None,
) -> Feed:
    """Rows in the order of a schedule, or in the mixture of one that reacts.

    Args:
        model: where training starts.
        rows, format, schedule: of the train step.
        settings: of the train step.
        anchor: the model whose log-probabilities the objective reads, and the format of its products.
        fit_on: short runs with the step's own settings, for a graph of skills that is to be learned.
        folder: of the checkpoints.
    """
    reacting = hasattr(schedule, "weights")
    tags: dict[str, int] = {}
    shape = parts.build("format", format)
    units, prepared = _units(model, rows, _tagged(shape, schedule.by, tags) if reacting else shape, settings)
    already: dict[str, float] = {}
    if anchor is not None:
        units = with_reference_logps(anchor[0], units, anchor[1])
        read = prepared["reference_tokens"] = sum(len(e) for unit in units for e in unit)
        already = {"tokens": float(read), "flops": 2.0 * anchor[0].parameters * read}
    if not reacting:
        provider: Any = FixedExamples(units, schedule, seed=settings.seed, batch_size=settings.batch_size)
        return Feed(provider, units, prepared, already=already)
    groups = _groups(units, tags)
    held_out = _held_out(model, groups, shape, schedule, settings)
    graph: dict[str, Any] = {}
    if getattr(schedule, "learn", None) is not None:
        schedule, graph = _learned(model, groups, held_out, schedule, settings, fit_on, folder)
        already = {unit: already.get(unit, 0.0) + amount for unit, amount in graph["cost"].items()}
    provider = MixedExamples(groups, held_out, schedule, seed=settings.seed, batch_size=settings.batch_size)
    return Feed(provider, [unit for own in groups.values() for unit in own], prepared, already=already, graph=graph)


def _units(model: Model, rows: Any, format: Any, settings: TrainSettings) -> tuple[list[list[Example]], dict[str, Any]]:
    limit = settings.max_length or model.context or 1 << 30
    return prepare(rows, format, model.tokenizer, max_length=limit, overlong=settings.overlong, vocabulary=model.vocabulary)


def _tagged(format: Any, by: str, tags: dict[str, int]) -> Callable[..., list[Example]]:
    """The format, whose examples also say which skill they are of; new skills are numbered in ``tags``."""

    def formatted(row: Mapping[str, Any], tokenizer: Any) -> list[Example]:
        number = tags.setdefault(skill_of(row, by), len(tags))
        return [replace(e, values={**e.values, SKILL: float(number)}) for e in format(row, tokenizer)]

    return formatted


def _groups(units: Units, tags: Mapping[str, int]) -> dict[str, list[list[Example]]]:
    """The units of each skill, by name.

    Raises:
        DataError: all rows of a skill were left out.
    """
    groups: dict[str, list[list[Example]]] = {skill: [] for skill in sorted(tags)}
    names = {number: skill for skill, number in tags.items()}
    for unit in units:
        bare = [replace(e, values={k: v for k, v in e.values.items() if k != SKILL}) for e in unit]
        groups[names[int(unit[0].values[SKILL])]].append(bare)
    for skill, own in groups.items():
        if not own:
            raise DataError(
                f"skill {skill!r}: all its rows were left out, see overlong and max_length; remove the skill or cut them"
            )
    return groups


def _held_out(
    model: Model, groups: dict[str, list[list[Example]]], format: Any, schedule: Any, settings: TrainSettings
) -> dict[str, list[Example]]:
    """The examples that losses are measured on, by skill; those of training rows are taken out of ``groups``.

    Raises:
        DataError: a skill has too few rows to set any aside.
    """
    if schedule.measuring is None:
        return {}
    count, seed = schedule.held_out, settings.seed
    if schedule.validation is not None:
        tags: dict[str, int] = {}
        units, _ = _units(model, schedule.validation("validation"), _tagged(format, schedule.by, tags), settings)
        given = _groups(units, tags)
        return {s: [e for k in permutation(len(own), 0, seed)[:count] for e in own[k]] for s, own in given.items()}
    aside = {}
    for skill, own in groups.items():
        if len(own) <= count:
            raise DataError(
                f"skill {skill!r} has {len(own)} rows, and {count} are set aside to measure it; lower the schedule's held_out, or name a "
                "source as its validation"
            )
        order = permutation(len(own), 0, seed)
        aside[skill] = [e for k in order[:count] for e in own[k]]
        groups[skill] = [own[k] for k in sorted(order[count:])]
    return aside


def _learned(
    model: Model,
    groups: Mapping[str, Units],
    held_out: Mapping[str, Sequence[Example]],
    schedule: Any,
    settings: TrainSettings,
    fit_on: Fit,
    folder: Path | None,
) -> tuple[Any, dict[str, Any]]:
    """The schedule with the graph that it asks to learn, and that graph as plain data."""
    graph = learn_graph(
        model,
        groups,
        held_out,
        fit_on,
        way=schedule.learn,
        steps=schedule.learn_steps,
        seed=settings.seed,
        batch_size=settings.batch_size,
        folder=folder,
    )
    edges, possible = sum(map(len, graph.influence.values())), sum(i != j for i in groups for j in held_out)
    if edges in (0, possible):
        log.warning("the skills graph has %d of %d edges and carries no order; skill-it cannot gain from it", edges, possible)
    plain = {
        "edges": f"{edges} of {possible}",
        "influence": graph.influence,
        "losses": graph.losses,
        "cost": graph.cost,
        **graph.about,
    }
    return replace(schedule, influence=graph.influence, learn=None), plain
