"""Units in a mixture of skills that a schedule decides anew every round, told the losses of rows that are not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from whet import parts
from whet.data.example import Example
from whet.data.mixture import History, Reacting
from whet.data.order import permutation
from whet.errors import DataError, RecipeError, WhetError
from whet.train.provider import fingerprint, refuse_other_data

if TYPE_CHECKING:
    from whet.model import Model

Units = Sequence[Sequence[Example]]
Reader = Callable[[Sequence[Example]], list[list[float]]]
"""Examples to the log-probabilities of their tokens, aligned with ``input_ids``; see :mod:`whet.train.token_values`."""


def skill_losses(held_out: Mapping[str, Sequence[Example]], read: Reader) -> dict[str, float]:
    """Mean negative log-probability (nats) per trained token of each skill."""
    numbers = iter(read([example for examples in held_out.values() for example in examples]))
    losses = {}
    for skill, examples in held_out.items():
        total = math.fsum(number for _ in examples for number in next(numbers))
        losses[skill] = -total / sum(example.trained_tokens for example in examples)
    return losses


class MixedExamples:
    """Gives the loop the examples of each step, and the schedule the losses that it reacts to.

    Round r begins with step ``r * schedule.every``; there the schedule is asked for the shares of the skills. A step's numbers of
    units by skill are a multinomial draw from (seed, step); within a skill all units come once, in a random order, before
    one comes again. Everything that the rest of a run depends on is in :meth:`state`.

    Args:
        units: the units of each skill.
        held_out: the examples of each measured skill.
        schedule: see :class:`whet.data.mixture.Reacting`.
        seed: of every draw.
        batch_size: units per step.

    Raises:
        DataError: a skill without units.
        RecipeError: the schedule refuses these skills.
    """

    def __init__(
        self,
        units: Mapping[str, Units],
        held_out: Mapping[str, Sequence[Example]],
        schedule: Reacting,
        *,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        for skill, own in units.items():
            if not own:
                raise DataError(f"skill {skill!r} has no rows to train on")
        self.units, self.held_out, self.schedule = units, held_out, schedule
        self.seed, self.batch_size, self.measured_tokens = seed, batch_size, 0
        self.measured: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self._drawn = dict.fromkeys(units, 0)
        self._orders: dict[str, tuple[int, np.ndarray]] = {}
        self._read: Reader | None = None
        self._ask(0)

    def bind_reader(self, read: Reader) -> None:
        """Gives the function that reads the log-probabilities of the network in training."""
        self._read = read

    def examples(self, step: int, model: Model | None = None) -> list[Example]:
        """The step's examples; ``unit`` numbers the units within the step."""
        if self.schedule.measuring is not None and step % self.schedule.measuring == 0:
            self._measure(step)
        if step and step % self.schedule.every == 0:
            self._ask(step)
        shares = list(self.rounds[-1]["mixture"].values())
        counts = np.random.default_rng([self.seed, step, 1]).multinomial(self.batch_size, np.asarray(shares) / sum(shares))
        chosen = [unit for skill, count in zip(self.units, counts.tolist()) for unit in self._next(skill, count)]
        return [replace(e, unit=k) for k, unit in enumerate(chosen) for e in unit]

    def reads_model(self, step: int) -> bool:
        """Never: losses are read off the network in training."""
        return False

    def steps_for(self, *, epochs: float | None = None, tokens: int | None = None) -> int:
        """Steps that draw as many units as ``epochs`` passes over them have.

        Raises:
            RecipeError: ``tokens`` are asked for; how many a step has depends on the mixture.
        """
        if epochs is None:
            raise RecipeError(
                f"tokens: {tokens} cannot be turned into steps, since the mixture is decided while training; say 'budget: {tokens} "
                "tokens', 'steps' or 'epochs'"
            )
        return math.ceil(epochs * sum(map(len, self.units.values())) / self.batch_size)

    @property
    def receipt(self) -> dict[str, Any]:
        """The mixture of every round, all measured losses, and how often the rows of each skill came."""
        return {
            "mixture": {f"step {entry['step']}": entry["mixture"] for entry in self.rounds},
            "losses": {f"step {entry['step']}": entry["losses"] for entry in self.measured},
            "measured_tokens": self.measured_tokens,
            "skills": {
                skill: {"rows": len(own), "drawn": self._drawn[skill], "passes": round(self._drawn[skill] / len(own), 3)}
                for skill, own in self.units.items()
            },
            "held_out": {skill: len(examples) for skill, examples in self.held_out.items()},
            "schedule": parts.effective(self.schedule),
        }

    def state(self) -> dict[str, Any]:
        """What resuming needs, as plain data that JSON can hold."""
        history = {"measured": self.measured, "rounds": self.rounds, "drawn": self._drawn, "tokens": self.measured_tokens}
        return {"data": self._data(), "history": history}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a :meth:`state`.

        Raises:
            RecipeError: it is of other rows, another seed or another schedule.
        """
        refuse_other_data(state["data"], self._data())
        history = state["history"]
        self.measured, self.rounds = [*history["measured"]], [*history["rounds"]]
        self._drawn, self.measured_tokens = dict(history["drawn"]), history["tokens"]

    def _data(self) -> dict[str, Any]:
        return {
            "fingerprint": self._fingerprint,
            "skills": {skill: len(own) for skill, own in self.units.items()},
            "schedule": parts.effective(self.schedule),
            "seed": self.seed,
            "batch_size": self.batch_size,
        }

    @cached_property
    def _fingerprint(self) -> str:
        # Every checkpoint holds it, and it reads every token.
        held: list[Sequence[Example]] = [[example] for examples in self.held_out.values() for example in examples]
        return fingerprint([*(unit for own in self.units.values() for unit in own), *held])

    def _measure(self, step: int) -> None:
        if self._read is None:
            raise RecipeError("this schedule reacts to losses, but nothing tells it any; train through whet.train.loop.fit")
        losses = skill_losses(self.held_out, self._read)
        for skill, loss in losses.items():
            if not math.isfinite(loss):
                raise WhetError(f"step {step}: the loss of skill {skill!r} on its held-out rows is {loss}; try a lower lr")
        self.measured_tokens += sum(len(e) for examples in self.held_out.values() for e in examples)
        self.measured.append({"step": step, "losses": losses})

    def _ask(self, step: int) -> None:
        skills, number = {skill: len(own) for skill, own in self.units.items()}, len(self.rounds)
        losses = [found["losses"] for found in self.measured]
        shares = self.schedule.weights(History(skills, list(self.held_out) or list(skills), number, losses))
        mixture = {skill: float(shares.get(skill, 0.0)) for skill in skills}
        if not all(0 <= share < math.inf for share in mixture.values()) or not sum(mixture.values()):
            raise RecipeError(f"the schedule's shares for step {step} are no mixture of the skills: {dict(shares)}")
        self.rounds.append({"step": step, "mixture": mixture})

    def _next(self, skill: str, count: int) -> list[Sequence[Example]]:
        """The next units of a skill."""
        own, first = self.units[skill], self._drawn[skill]
        self._drawn[skill] += count
        places = (divmod(number, len(own)) for number in range(first, first + count))
        return [own[int(self._order(skill, epoch)[place])] for epoch, place in places]

    def _order(self, skill: str, epoch: int) -> np.ndarray:
        """In which a skill's units come in an epoch; kept, since many steps draw from one."""
        if skill not in self._orders or self._orders[skill][0] != epoch:
            self._orders[skill] = epoch, permutation(len(self.units[skill]), epoch, self.seed)
        return self._orders[skill][1]
