"""How much training on one skill helps another: the graph that the schedule ``skill-it`` follows, measured by short runs.

``alone``  train on skill i only: A_ij = (L_j before - L_j after) / L_j before.
``pairs``  train on i and j together, as many rows of each, for as many steps as on j alone:
           A_ij = (L_j after j alone - L_j after i and j) / L_j after j alone.
Entries below 0 are 0; the diagonal is 1 and not listed. ``pairs`` is the definition of an edge and takes k + k(k-1)/2 runs,
``alone`` is its cheap estimate and takes k.

Paper: skill-it — Skill-it! A Data-Driven Skills Framework for Understanding and Training Language Models
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from whet.budget import UNITS
from whet.data.example import Example
from whet.data.order import permutation
from whet.errors import RecipeError
from whet.model import Model
from whet.train.distributed import world
from whet.train.loop import FitResult
from whet.train.mixed import Units, skill_losses
from whet.train.provider import FixedExamples, fingerprint
from whet.train.reference import reference_reader

log = logging.getLogger("whet")

Way = Literal["alone", "pairs"]
LossesAfter = Callable[[tuple[str, ...]], Mapping[str, float]]
"""Skills that are trained on (none: the start) -> the loss of each measured skill."""
Fit = Callable[..., FitResult]
"""``fit_on(provider, steps, progress=...)``: trains from the start on what a provider gives."""
FILE = "skills-graph.json"


@dataclass(frozen=True)
class SkillsGraph:
    """``influence``: A off the diagonal.  ``losses``: of each measured skill, by what was trained on.  ``cost``: what all runs
    took, by unit of a budget.  ``about``: what it was measured with.
    """

    influence: dict[str, dict[str, float]]
    losses: dict[str, dict[str, float]]
    cost: dict[str, float]
    about: dict[str, Any] = field(default_factory=dict)


def influence_by_runs(skills: Sequence[str], measured: Sequence[str], losses_after: LossesAfter, way: Way) -> dict[str, Any]:
    """A off the diagonal, {i: {j: A_ij}}, entries of 0 left out.

    Raises:
        RecipeError: ``pairs``, and a measured skill cannot be trained on.
    """
    if way == "pairs" and (missing := [j for j in measured if j not in skills]):
        raise RecipeError(f"skill-it: learn: pairs trains on {missing[0]!r} too, which has no training rows; take 'alone'")
    found: dict[str, dict[str, float]] = {i: {} for i in skills}
    for i, j in itertools.product(skills, measured):
        if i == j:
            continue
        trained = (i,) if way == "alone" else (min(i, j), max(i, j))
        without, after = losses_after(() if way == "alone" else (j,))[j], losses_after(trained)[j]
        if after < without:
            found[i][j] = (without - after) / without
    return {i: helped for i, helped in found.items() if helped}


def learn_graph(
    model: Model,
    units: Mapping[str, Units],
    held_out: Mapping[str, Sequence[Example]],
    fit_on: Fit,
    *,
    way: Way,
    steps: int,
    seed: int,
    batch_size: int,
    folder: Path | None = None,
) -> SkillsGraph:
    """Measures the graph; one that lies in ``folder`` and was measured in the same way is taken from there.

    Args:
        model: where every run starts.
        units, held_out: of each skill, to train on and to measure.
        fit_on: trains from the model; see :data:`Fit`.
        way: see above.
        steps: of each run.
        seed: of the order of the units in a run.
        batch_size: units per step.
        folder: keeps the graph for a run that is continued.
    """
    flat = [unit for own in units.values() for unit in own] + [[e] for examples in held_out.values() for e in examples]
    about = {"way": way, "steps": steps, "seed": seed, "batch_size": batch_size, "data": fingerprint(flat)}
    # The first process decides for all whether there is anything to compute.
    if (kept := world().gather(_kept(folder, about))[0]) is not None:
        return kept
    runs = _Runs(model, units, held_out, fit_on, steps, seed, batch_size)
    influence = influence_by_runs(list(units), list(held_out), runs.losses_after, way)
    losses = {" and ".join(trained) or "nothing": found for trained, found in runs.losses.items()}
    graph = SkillsGraph(influence, losses, runs.cost, about)
    if folder is not None and not world().rank:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(asdict(graph)))
    return graph


def _kept(folder: Path | None, about: Mapping[str, Any]) -> SkillsGraph | None:
    if folder is None or not (folder / FILE).is_file():
        return None
    try:
        graph = SkillsGraph(**json.loads((folder / FILE).read_text()))
    except (ValueError, TypeError):
        return None  # Cut off while it was written: it is measured again.
    return graph if graph.about == about else None


@dataclass
class _Runs:
    """The short runs, each made once, and what they took."""

    model: Model
    units: Mapping[str, Units]
    held_out: Mapping[str, Sequence[Example]]
    fit_on: Fit
    steps: int
    seed: int
    batch_size: int
    losses: dict[tuple[str, ...], dict[str, float]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*UNITS, "processor"), 0.0))

    def losses_after(self, trained: tuple[str, ...]) -> Mapping[str, float]:
        if trained not in self.losses:
            model = self._trained(trained) if trained else self.model
            found = self.losses[trained] = skill_losses(self.held_out, reference_reader(model))
            tokens = sum(len(e) for examples in self.held_out.values() for e in examples)
            self._count(tokens=tokens, flops=2.0 * model.parameters * tokens)
            log.info("skills graph, losses after training on %s: %s", trained, {k: round(v, 4) for k, v in found.items()})
        return self.losses[trained]

    def _trained(self, skills: tuple[str, ...]) -> Model:
        # As many rows of each: the shorter ones come again.
        longest = max(len(self.units[skill]) for skill in skills)
        units = [self.units[s][k % len(self.units[s])] for k in range(longest) for s in skills]
        numbered = [[replace(e, unit=k) for e in unit] for k, unit in enumerate(units)]
        result = self.fit_on(
            FixedExamples(numbered, permutation, seed=self.seed, batch_size=self.batch_size), self.steps, progress=False
        )
        cost = result.receipt["cost"]
        self._count(
            **{unit: cost[unit] for unit in ("tokens", "flops", "seconds", "processor")}, examples=float(result.receipt["rows"])
        )
        return result.model

    def _count(self, **amounts: float) -> None:
        for unit, amount in amounts.items():
            self.cost[unit] += amount
